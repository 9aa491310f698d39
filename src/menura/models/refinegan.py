"""RefineGAN (Xu et al., 2021) as Applio builds it: a sine at F0, refined by the latent.

The sine is taken down to the latent's rate step by step, and on the way up each of those steps is joined in again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, reduce
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from menura.models.config import SynthesizerConfig
from menura.models.layers import ResidualBlock, Span, TimeConv, maybe_weight_norm, same_padding, samples_of
from menura.models.source import sine_wave, wide, with_noise
from menura.system.device import sent
from menura.units import ceil_div

SLOPE = 0.2
KERNEL = 7
_PADDING = same_padding(KERNEL)
BLOCK_KERNELS = (3, 7, 11)
BLOCK_DILATIONS = (1, 3, 5)
TILES_JOINED = 2
"""Every stage repeats its context in every tile here, so that longer tiles pay."""
LOWPASS_ZEROS, LOWPASS_ROLLOFF, LOWPASS_BETA = 64, 0.9475937167399596, 14.769656459379492
"""Kaiser-windowed sinc: zero crossings a side, edge as a share of the lower Nyquist frequency, window shape."""


class SmoothSineSource(nn.Module):
    """Like SineSource, with F0 interpolated between frames, no overtones and no bias."""

    def __init__(self, sample_rate: int, frame_samples: int) -> None:
        super().__init__()
        self.sample_rate, self.frame_samples = sample_rate, frame_samples
        self.merge = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Tanh())

    def forward(self, f0_hz: Tensor, phase_cycles: Tensor, noise: Tensor | None, noise_scale: float) -> Tensor:
        """The excitation; arguments and result as SineSource's."""
        wide_hz = wide(f0_hz)
        smooth_hz = F.interpolate(wide_hz[:, None], size=f0_hz.shape[1] * self.frame_samples, mode="linear")[:, 0]
        voiced = (smooth_hz > 0).to(f0_hz.device)
        # Phase from that of unsmoothed F0, which the caller carries. Up to a frame's start, smoothing has moved an
        # eighth of the last step of F0 from after it to before it: a window may begin anywhere in a recording.
        frame_s = self.frame_samples / self.sample_rate
        starts = sent(phase_cycles, wide_hz.device)[:, None] + (wide_hz.cumsum(dim=1) - wide_hz) * frame_s
        starts = starts + torch.diff(wide_hz, dim=1, prepend=wide_hz[:, :1]) * (frame_s / 8)
        within = smooth_hz.view(*f0_hz.shape, self.frame_samples).cumsum(dim=2) / self.sample_rate
        wave = with_noise(sine_wave((starts[:, :, None] + within).flatten(1), voiced), voiced, noise, noise_scale)
        mixed: Tensor = self.merge(wave[:, :, None])
        return mixed.transpose(1, 2)


class NoisyActivation(nn.Module):
    """Noise of a learned level, in training only, then a leaky ReLU (Applio's AdaIN)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), 1e-4))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, samples) to the same shape."""
        if self.training:
            x = x + torch.randn_like(x) * self.weight[:, None]
        return F.leaky_relu(x, SLOPE)


class ParallelBlock(nn.Module):
    """Average of residual blocks of different widths."""

    def __init__(self, channels_in: int, channels: int, *, training: bool) -> None:
        super().__init__()
        self.input_conv = TimeConv(channels_in, channels, KERNEL, padding=_PADDING)
        blocks = [
            ResidualBlock("1", channels, kernel, BLOCK_DILATIONS, training=training, slope=SLOPE)
            for kernel in BLOCK_KERNELS
        ]
        self.context_samples = _PADDING + max(block.context_samples for block in blocks)
        self.blocks = nn.ModuleList(
            nn.Sequential(NoisyActivation(channels), block, NoisyActivation(channels)) for block in blocks
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels_in, samples) to (batch, channels, samples)."""
        x = self.input_conv(x)
        total: Tensor = reduce(torch.add, (block(x) for block in self.blocks))
        return total / len(self.blocks)


class RefineGan(nn.Module):
    """The vocoder of Applio's RefineGAN voices; they always have F0."""

    tile_method = "_refine"

    def __init__(self, config: SynthesizerConfig, *, training: bool) -> None:
        super().__init__()
        self.rates, self.frame_samples = config.upsample_rates, config.frame_samples
        self.m_source = SmoothSineSource(config.sample_rate, config.frame_samples)

        def make(channels_in: int, channels_out: int, *, bias: bool = True) -> nn.Module:
            conv = TimeConv(channels_in, channels_out, KERNEL, padding=_PADDING, bias=bias)
            return maybe_weight_norm(conv, training=training)

        stages, top = len(self.rates), config.upsample_initial_channel
        start = top // 2 ** (stages + 1)
        self.pre_conv = make(1, start)
        self.downsample_blocks = nn.ModuleList(make(start * 2**i, start * 2 ** (i + 1)) for i in range(stages))
        self.mel_conv = make(config.inter_channels, top // 2)
        self.cond = nn.Conv1d(config.gin_channels, top // 2, 1)
        self.upsample_conv_blocks = nn.ModuleList(
            ParallelBlock(top // 2**i + top // 2 ** (i + 2), top // 2 ** (i + 1), training=training)
            for i in range(stages)
        )
        self.conv_post = make(top // 2**stages, 1, bias=False)
        self.latent_context_frames, self.context_frames = self._contexts()
        """Frames of the latent, and of latent and source, on each side that the samples of a frame depend on."""

    def _contexts(self) -> tuple[int, int]:
        left = right = _PADDING
        joined = []
        for rate, block in zip(reversed(self.rates), reversed(self.upsample_conv_blocks), strict=True):
            reach = cast("ParallelBlock", block).context_samples
            left, right = left + reach, right + reach
            joined.append(max(left, right))
            # Output n of linear interpolation reads inputs around (n + 1/2) / rate - 1/2.
            left = -((-2 * left + 1 - rate) // (2 * rate))
            right = (2 * (rate - 1 + right) + 1 - rate) // (2 * rate) + 1
        steps = latent = max(left, right) + _PADDING
        for rate, beside in zip(self.rates, reversed(joined), strict=True):
            steps = max((steps + _PADDING) * rate + lowpass_width(rate), beside)
        # One more: the source interpolates F0 between frames.
        return latent, max(latent, ceil_div(steps + _PADDING, self.frame_samples) + 1)

    def forward(self, z: Tensor, g: Tensor, source: Tensor | None) -> Tensor:
        """Latent to sound; as HifiGan's, but the source is needed."""
        return self._refine(z, g, self._descend(source))

    def tiled(self, z: Tensor, g: Tensor, source: Tensor | None, core: Span, tile_frames: int) -> Tensor:
        """Sound of a stretch of a latent, equal to that part of `forward`; as HifiGan's."""
        window = core.widened(self.context_frames, z.shape[-1])
        z = z[..., window.slice]
        levels = self._descend(samples_of(source, window, self.frame_samples))
        steps = [math.prod(self.rates[:number]) for number in range(len(levels))]
        parts = []
        for tile in core.tiles(TILES_JOINED * tile_frames):
            inside = tile.shifted(-window.start)
            around = inside.widened(self.latent_context_frames, z.shape[-1])
            cut = [level[..., around.scaled(each).slice] for level, each in zip(levels, steps, strict=True)]
            part = self._refine(z[..., around.slice], g, cut)
            parts.append(part[..., inside.shifted(-around.start).scaled(self.frame_samples).slice])
        return torch.cat(parts, dim=-1)

    def _descend(self, source: Tensor | None) -> list[Tensor]:
        """The source at every rate from the latent's to full: (batch, channels, 1 / a rate / ... steps a frame)."""
        assert source is not None, "RefineGAN needs F0"
        x = self.pre_conv(source)
        levels: list[Tensor] = []
        for conv, rate in zip(self.downsample_blocks, reversed(self.rates), strict=True):
            x = F.leaky_relu(x, SLOPE)
            levels.append(x)
            x = conv(lowpass_decimate(x, rate))
        return [x, *reversed(levels)]

    def _refine(self, z: Tensor, g: Tensor, levels: Sequence[Tensor]) -> Tensor:
        x = torch.cat([self.mel_conv(z) + self.cond(g), levels[0]], dim=1)
        for rate, block, level in zip(self.rates, self.upsample_conv_blocks, levels[1:], strict=True):
            x = F.interpolate(F.leaky_relu(x, SLOPE), scale_factor=float(rate), mode="linear")
            x = block(torch.cat([x, level], dim=1))
        return torch.tanh(self.conv_post(F.leaky_relu(x, SLOPE)))


def lowpass_width(rate: int) -> int:
    """Samples on each side that `lowpass_decimate` reads."""
    return math.ceil(LOWPASS_ZEROS * rate / LOWPASS_ROLLOFF)


def lowpass_decimate(x: Tensor, rate: int) -> Tensor:
    """(batch, channels, samples) to samples / rate, low-passed by torchaudio's Kaiser-windowed sinc, as in Applio."""
    kernel, width = sent(_lowpass(rate), x.device).to(x.dtype), lowpass_width(rate)
    flat = F.pad(x.reshape(-1, 1, x.shape[-1]), (width, width))
    return F.conv1d(flat, kernel[None, None], stride=rate).reshape(*x.shape[:-1], -1)


@cache
@torch.inference_mode(False)  # or training in this process could not use what a conversion made
def _lowpass(rate: int) -> Tensor:
    width, edge = lowpass_width(rate), LOWPASS_ROLLOFF / rate
    crossings = (torch.arange(-width, width + 1, dtype=torch.float64) * edge).clamp(-LOWPASS_ZEROS, LOWPASS_ZEROS)
    shape = torch.sqrt(1 - (crossings / LOWPASS_ZEROS) ** 2)
    window = torch.special.i0(LOWPASS_BETA * shape) / torch.special.i0(torch.tensor(LOWPASS_BETA, dtype=torch.float64))
    kernel: Tensor = torch.sinc(crossings) * window * edge
    return kernel.to(torch.float32)
