"""Discriminators that tell a voice's sound from a network's: by period (HiFi-GAN) and by spectrogram (EnCodec).

`Discriminators` are small: they are trained on processors too. `RvcDiscriminators` are those of RVC's D files.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from menura.models.layers import LEAKY_SLOPE

_QUIET = 1e-3
"""About the median magnitude of speech at any place. Lower magnitudes look alike: else what is nearly silent would give
gradients ten times those of the rest, and the generator would learn little but silence."""
_SPEECH_GAIN = 8.0
"""Brings samples of speech to a deviation of about a half: with inputs near zero the first layers hardly learn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscriminatorConfig:
    """Which discriminators, and how wide."""

    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    period_channels: tuple[int, ...] = (16, 64, 128, 128)
    fft_sizes: tuple[int, ...] = (512, 1024, 2048)
    fft_channels: int = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What one discriminator says: its scores, and its layers' outputs for feature matching."""

    scores: Tensor
    features: tuple[Tensor, ...]


def _conv(channels_in: int, channels_out: int, kernel: tuple[int, int], stride: tuple[int, int]) -> nn.Module:
    padding = (kernel[0] // 2, kernel[1] // 2)
    normed: nn.Module = weight_norm(nn.Conv2d(channels_in, channels_out, kernel, stride, padding))
    return normed


class _Stack(nn.Module):
    """Convolutions with leaky ReLUs, then one score a place."""

    def __init__(self, layers: list[nn.Module], last: nn.Module) -> None:
        super().__init__()
        self.convs = nn.ModuleList(layers)
        self.conv_post = last

    def forward(self, x: Tensor) -> Judgement:
        """(batch, channels, height, width) to scores of about that shape."""
        features = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), LEAKY_SLOPE)
            features.append(x)
        return Judgement(scores=self.conv_post(x), features=tuple(features))


class PeriodDiscriminator(nn.Module):
    """Looks at samples that lie a period apart, as columns of an image."""

    def __init__(self, period: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.period = period
        widths = (1, *channels)
        layers = [_conv(widths[i], widths[i + 1], (5, 1), (3, 1)) for i in range(len(channels))]
        layers.append(_conv(channels[-1], channels[-1], (5, 1), (1, 1)))
        self.stack = _Stack(layers, _conv(channels[-1], 1, (3, 1), (1, 1)))

    def forward(self, audio: Tensor) -> Judgement:
        """(batch, samples) to scores."""
        rest = -audio.shape[-1] % self.period
        padded = F.pad(_SPEECH_GAIN * audio[:, None], (0, rest), mode="reflect")
        judged: Judgement = self.stack(padded.view(*padded.shape[:2], -1, self.period))
        return judged


class SpectrogramDiscriminator(nn.Module):
    """Looks at the magnitudes of one resolution, as logarithms and as a root.

    Phases are left to the period discriminators: with the complex spectrogram as its input the same stack was near
    chance after 120 steps (least squares .47, chance .50), with these two .37.
    """

    window: Tensor

    def __init__(self, fft_size: int, channels: int) -> None:
        super().__init__()
        self.fft_size = fft_size
        self.register_buffer("window", torch.hann_window(fft_size), persistent=False)
        layers = [
            _conv(2, channels, (3, 9), (1, 1)),
            _conv(channels, channels, (3, 9), (1, 2)),
            _conv(channels, channels, (3, 9), (1, 2)),
            _conv(channels, channels, (3, 9), (1, 2)),
            _conv(channels, channels, (3, 3), (1, 1)),
        ]
        self.stack = _Stack(layers, _conv(channels, 1, (3, 3), (1, 1)))

    def forward(self, audio: Tensor) -> Judgement:
        """(batch, samples) to scores (batch, 1, frames, bands)."""
        hop = self.fft_size // 4
        spectrum = torch.stft(
            audio.float(), self.fft_size, hop, window=self.window, normalized=True, return_complex=True
        )
        magnitude = (spectrum.real.square() + spectrum.imag.square() + _QUIET**2).sqrt()
        # Both are brought to about zero mean and a deviation of one for speech.
        image = torch.stack([(torch.log(magnitude) + 5) / 2, 4 * magnitude.pow(0.3) - 1], dim=1).transpose(2, 3)
        judged: Judgement = self.stack(image)
        return judged


class Discriminators(nn.Module):
    """All of them."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.periods = nn.ModuleList(PeriodDiscriminator(p, config.period_channels) for p in config.periods)
        self.spectrograms = nn.ModuleList(
            SpectrogramDiscriminator(size, config.fft_channels) for size in config.fft_sizes
        )

    def forward(self, audio: Tensor) -> list[Judgement]:
        """(batch, samples) to one judgement from each."""
        return [judge(audio) for judge in (*self.periods, *self.spectrograms)]


RVC_PERIODS = {"v1": (2, 3, 5, 7, 11, 17), "v2": (2, 3, 5, 7, 11, 17, 23, 37)}
RVC_WIDTH = 32
_RVC_PERIOD_WIDTHS = (1, 4, 16, 32, 32)
_RVC_SCALE_LAYERS = ((0.5, 15, 1), (2, 41, 4), (8, 41, 4), (32, 41, 4), (32, 41, 4), (32, 5, 1))
"""Of RVC's scale discriminator: channels as multiples of the width, kernel, stride."""


class RvcPeriodDiscriminator(nn.Module):
    """HiFi-GAN's period discriminator under the names of RVC's checkpoints."""

    def __init__(self, period: int, width: int) -> None:
        super().__init__()
        self.period = period
        widths = (1, *(width * factor for factor in _RVC_PERIOD_WIDTHS))
        last = len(widths) - 2
        self.convs = nn.ModuleList(
            _conv(widths[i], widths[i + 1], (5, 1), (1 if i == last else 3, 1)) for i in range(last + 1)
        )
        self.conv_post = _conv(widths[-1], 1, (3, 1), (1, 1))

    def forward(self, audio: Tensor) -> Judgement:
        """(batch, samples) to scores."""
        rest = -audio.shape[-1] % self.period
        padded = F.pad(audio[:, None], (0, rest), mode="reflect")
        return _judged(self.convs, self.conv_post, padded.view(*padded.shape[:2], -1, self.period))


class RvcScaleDiscriminator(nn.Module):
    """MelGAN's scale discriminator at the full rate: grouped convolutions over the samples themselves."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels_in = 1
        for factor, kernel, stride in _RVC_SCALE_LAYERS:
            channels_out = int(width * factor)
            # Four input channels a group wherever the stride is 4.
            groups = max(1, channels_in // 4) if stride > 1 else 1
            conv = nn.Conv1d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups)
            layers.append(weight_norm(conv))
            channels_in = channels_out
        self.convs = nn.ModuleList(layers)
        self.conv_post: nn.Module = weight_norm(nn.Conv1d(channels_in, 1, 3, 1, 1))

    def forward(self, audio: Tensor) -> Judgement:
        """(batch, samples) to scores."""
        return _judged(self.convs, self.conv_post, audio[:, None])


def _judged(convs: nn.ModuleList, last: nn.Module, x: Tensor) -> Judgement:
    features = []
    for conv in convs:
        x = F.leaky_relu(conv(x), LEAKY_SLOPE)
        features.append(x)
    scores = last(x)
    return Judgement(scores=scores, features=(*features, scores))


class RvcDiscriminators(nn.Module):
    """RVC's own: one by scale, six (v1) or eight (v2) by period, named as in its D files."""

    def __init__(self, version: str, *, width: int = RVC_WIDTH) -> None:
        """Make them with random weights.

        Args:
            version: 'v1' or 'v2'.
            width: of the period discriminators' first layer; RVC's is 32, tests take less.
        """
        super().__init__()
        periods = [RvcPeriodDiscriminator(period, width) for period in RVC_PERIODS[version]]
        self.discriminators = nn.ModuleList([RvcScaleDiscriminator(width), *periods])

    def forward(self, audio: Tensor) -> list[Judgement]:
        """(batch, samples) to one judgement from each."""
        return [judge(audio) for judge in self.discriminators]
