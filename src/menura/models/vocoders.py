"""HiFi-GAN generators (Kong et al., 2020): with RVC's harmonic source (NSF), without, and Applio's MRF variant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial, reduce
from itertools import chain
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from menura.models.config import MRF_HIFI_GAN, SynthesizerConfig
from menura.models.layers import (
    LEAKY_SLOPE,
    ResidualBlock,
    Span,
    TimeConv,
    TimeConvTranspose,
    maybe_weight_norm,
    same_padding,
    samples_of,
)
from menura.models.source import SineSource
from menura.units import ceil_div

END_KERNEL = 7
LAST_SLOPE = 0.01
"""Before the last convolution HiFi-GAN has torch's default."""
MRF_OVERTONES = 8


class HifiGan(nn.Module):
    """RVC's vocoder, whose stages a sine excites where there is F0 (GeneratorNSF).

    Applio's "MRF HiFi-GAN" is the same arithmetic with overtones in the source, under other names.
    """

    tile_method = "_tail"

    def __init__(self, config: SynthesizerConfig, *, training: bool) -> None:
        super().__init__()
        self.is_mrf = config.vocoder == MRF_HIFI_GAN
        self.rates, self.kernels = config.upsample_rates, config.upsample_kernel_sizes
        self.frame_samples = config.frame_samples
        widths = [config.upsample_initial_channel // 2**i for i in range(len(self.rates) + 1)]
        end_normed = partial(maybe_weight_norm, training=training and self.is_mrf)
        if config.has_f0:
            self.m_source = SineSource(config.sample_rate, self.frame_samples, MRF_OVERTONES if self.is_mrf else 0)
        self.conv_pre = end_normed(_end_conv(config.inter_channels, widths[0]))
        ups = [
            maybe_weight_norm(_upsampler(width, rate, kernel), training=training)
            for width, rate, kernel in zip(widths[:-1], self.rates, self.kernels, strict=True)
        ]
        self.add_module("upsamples" if self.is_mrf else "ups", nn.ModuleList(ups))
        if config.has_f0:
            strides = [self.samples_per_step(stage) for stage in range(1, len(widths))]
            self.noise_convs = nn.ModuleList(map(_source_conv, widths[1:], strides))
        make = partial(ResidualBlock, "mrf" if self.is_mrf else config.resblock, training=training)
        shapes = list(zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True))
        stages = [nn.ModuleList(make(width, *shape) for shape in shapes) for width in widths[1:]]
        if self.is_mrf:
            self.mrfs = nn.ModuleList(stages)
        else:
            self.resblocks = nn.ModuleList(chain.from_iterable(stages))
        self.n_blocks = len(shapes)
        self.conv_post = end_normed(_end_conv(widths[-1], 1, bias=self.is_mrf))
        self.cond = nn.Conv1d(config.gin_channels, widths[0], 1)
        self.context_frames = self.context_steps(0)
        """Latent (and source) frames on each side that the samples of a frame depend on."""

    def upsampler(self, stage: int) -> nn.Module:
        """The transposed convolution that a stage begins with."""
        return cast("nn.ModuleList", self.upsamples if self.is_mrf else self.ups)[stage]

    def blocks(self, stage: int) -> Sequence[ResidualBlock]:
        """The residual blocks whose outputs a stage averages."""
        first = stage * self.n_blocks
        blocks = self.mrfs[stage] if self.is_mrf else self.resblocks[first : first + self.n_blocks]
        return cast("Sequence[ResidualBlock]", blocks)

    def samples_per_step(self, stage: int) -> int:
        """Output samples in one step of the signal that enters a stage (stage 0: latent frames)."""
        return math.prod(self.rates[stage:])

    def context_steps(self, first_stage: int) -> int:
        """Steps of the signal that enters a stage, on each side, that the samples of one step depend on."""
        left = right = same_padding(END_KERNEL)
        source_samples = 0
        for stage in reversed(range(first_stage, len(self.rates))):
            reach = max(block.context_samples for block in self.blocks(stage))
            left, right = left + reach, right + reach
            # The source's convolution reads less than a step further than the steps it makes.
            source_samples = max(source_samples, (max(left, right) + 1) * self.samples_per_step(stage + 1))
            # Output n of the transposed convolution reads inputs (n + padding - [0, kernel)) / rate.
            rate, kernel = self.rates[stage], self.kernels[stage]
            padding = ceil_div(kernel - rate, 2)
            left, right = (left + kernel - 1 - padding) // rate, (right + padding - 1) // rate + 1
        steps = max(left, right) + (same_padding(END_KERNEL) if first_stage == 0 else 0)
        return max(steps, ceil_div(source_samples, self.samples_per_step(first_stage)))

    def forward(self, z: Tensor, g: Tensor, source: Tensor | None) -> Tensor:
        """Latent (batch, inter_channels, frames) to sound (batch, 1, frames * frame_samples), within ±1.

        g is (batch, gin_channels, 1), source as long as the sound, of `m_source`; None for a voice without F0.
        """
        return self._tail(self._head(z, g, source), source)

    def tiled(self, z: Tensor, g: Tensor, source: Tensor | None, core: Span, tile_frames: int) -> Tensor:
        """Sound (batch, 1, samples) of the frames `core` of a latent: that part of `forward`, in little memory.

        The first stage, at a few hundred steps a second, sees the stretch and its context at once; the fast ones, where
        the memory would be, go from tile to tile.
        """
        window = core.widened(self.context_frames, z.shape[-1])
        source = samples_of(source, window, self.frame_samples)
        head = self._head(z[..., window.slice], g, source)
        step_samples, context = self.samples_per_step(1), self.context_steps(1)
        parts = []
        for tile in core.tiles(tile_frames):
            steps = tile.shifted(-window.start).scaled(self.rates[0])
            wide = steps.widened(context, head.shape[-1])
            part = self._tail(head[..., wide.slice], samples_of(source, wide, step_samples))
            parts.append(part[..., steps.shifted(-wide.start).scaled(step_samples).slice])
        return torch.cat(parts, dim=-1)

    def _head(self, z: Tensor, g: Tensor, source: Tensor | None) -> Tensor:
        """The first stage: it has most of the context and little of the memory."""
        x = self.conv_pre(z).add_(self.cond(g))
        if x.device.type == "cpu" and not torch.is_grad_enabled():
            x = x.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        return self._stage(0, x, source)

    def _tail(self, x: Tensor, source: Tensor | None) -> Tensor:
        """The other stages, and the last convolution."""
        for stage in range(1, len(self.rates)):
            x = self._stage(stage, x, source)
        return torch.tanh(self.conv_post(F.leaky_relu(x, LAST_SLOPE))).reshape(x.shape[0], 1, -1)

    def _stage(self, stage: int, x: Tensor, source: Tensor | None) -> Tensor:
        x = self.upsampler(stage)(F.leaky_relu(x, LEAKY_SLOPE))
        if source is not None:
            x = x.add_(self.noise_convs[stage](source if x.dim() == 3 else source.unsqueeze(2)))
        total: Tensor = reduce(Tensor.add_, (block(x) for block in self.blocks(stage)))
        return total.div_(self.n_blocks)


def _end_conv(channels_in: int, channels_out: int, *, bias: bool = True) -> TimeConv:
    """The first or last convolution."""
    return TimeConv(channels_in, channels_out, END_KERNEL, padding=same_padding(END_KERNEL), bias=bias)


def _upsampler(channels: int, rate: int, kernel: int) -> nn.Module:
    padding, rest = ceil_div(kernel - rate, 2), (kernel - rate) % 2  # Applio's odd rates: one more at the end
    conv = TimeConvTranspose(channels, channels // 2, kernel, rate, padding, output_padding=rest)
    nn.init.normal_(conv.weight, 0.0, 0.01)
    return conv


def _source_conv(channels: int, stride: int) -> nn.Module:
    """Brings the source down to a stage's rate."""
    kernel = 2 * stride - stride % 2 if stride > 1 else 1
    return TimeConv(1, channels, kernel, stride, (kernel - stride) // 2)
