"""RVC's discriminators, which tell a voice's sound from a network's (HiFi-GAN, MelGAN)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from menura.models.layers import LEAKY_SLOPE


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What one discriminator says: its scores, and its layers' outputs for feature matching."""

    scores: Tensor
    features: tuple[Tensor, ...]


def _conv(channels_in: int, channels_out: int, kernel: tuple[int, int], stride: tuple[int, int]) -> nn.Module:
    padding = (kernel[0] // 2, kernel[1] // 2)
    normed: nn.Module = weight_norm(nn.Conv2d(channels_in, channels_out, kernel, stride, padding))
    return normed


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
        """Random weights for version 'v1' or 'v2'; `width` is of the period discriminators' first layer."""
        super().__init__()
        periods = [RvcPeriodDiscriminator(period, width) for period in RVC_PERIODS[version]]
        self.discriminators = nn.ModuleList([RvcScaleDiscriminator(width), *periods])

    def forward(self, audio: Tensor) -> list[Judgement]:
        """(batch, samples) to one judgement from each."""
        return [judge(audio) for judge in self.discriminators]
