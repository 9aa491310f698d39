"""HiFi-GAN generators (Kong et al., 2020): with RVC's harmonic source (NSF), without, and Applio's MRF variant.

Latent frames go in, samples come out. Every output sample depends on a bounded stretch of input, which
`context_frames` derives from the layers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from menura.models.config import SynthesizerConfig
from menura.models.layers import (
    LEAKY_SLOPE,
    MrfBlock,
    ResBlock1,
    ResBlock2,
    ResidualBlock,
    TimeConv,
    TimeConvTranspose,
    maybe_weight_norm,
    same_padding,
)
from menura.models.source import SineSource
from menura.models.spans import Margins, Span, samples_of
from menura.units import ceil_div

END_KERNEL = 7
LAST_SLOPE = 0.01
"""Before the last convolution HiFi-GAN has torch's default."""
MRF_OVERTONES = 8


class HifiGanBase(nn.Module, ABC):
    """What the HiFi-GAN generators share; a subclass names the upsamplers and residual blocks as its checkpoints do."""

    conv_pre: nn.Module
    conv_post: nn.Module
    noise_convs: nn.ModuleList
    cond: nn.Module

    def __init__(self, config: SynthesizerConfig) -> None:
        super().__init__()
        self.rates = config.upsample_rates
        self.kernels = config.upsample_kernel_sizes
        self.frame_samples = config.frame_samples
        self.channels = tuple(config.upsample_initial_channel // 2**i for i in range(len(self.rates) + 1))

    @abstractmethod
    def upsampler(self, stage: int) -> nn.Module:
        """The transposed convolution that a stage begins with."""

    @abstractmethod
    def blocks(self, stage: int) -> Sequence[ResidualBlock]:
        """The residual blocks whose outputs a stage averages."""

    def _upsamplers(self, *, training: bool) -> nn.ModuleList:
        convs = []
        for stage, (rate, kernel) in enumerate(zip(self.rates, self.kernels, strict=True)):
            padding, rest = ceil_div(kernel - rate, 2), (kernel - rate) % 2  # Applio's odd rates: one more at the end
            channels = self.channels[stage]
            conv = TimeConvTranspose(channels, channels // 2, kernel, rate, padding, output_padding=rest)
            nn.init.normal_(conv.weight, 0.0, 0.01)
            convs.append(maybe_weight_norm(conv, training=training))
        return nn.ModuleList(convs)

    def _source_convs(self) -> nn.ModuleList:
        """Bring the source down to each stage's rate."""
        convs = []
        for stage, channels in enumerate(self.channels[1:], start=1):
            stride = self.samples_per_step(stage)
            kernel = 2 * stride - stride % 2 if stride > 1 else 1
            convs.append(TimeConv(1, channels, kernel, stride, (kernel - stride) // 2))
        return nn.ModuleList(convs)

    def samples_per_step(self, stage: int) -> int:
        """Output samples in one step of the signal that enters a stage (stage 0: latent frames)."""
        return math.prod(self.rates[stage:])

    @property
    def context_frames(self) -> int:
        """Latent (and source) frames on each side that the samples of a frame depend on."""
        return self.context_steps(0)

    def context_steps(self, first_stage: int) -> int:
        """Steps of the signal that enters a stage, on each side, that the samples of one step depend on."""
        entry_step = self.samples_per_step(first_stage)
        margins = Margins(left=0, right=0).widened(same_padding(END_KERNEL))
        source_samples = 0
        for stage in reversed(range(first_stage, len(self.rates))):
            margins = margins.widened(max(block.context_samples for block in self.blocks(stage)))
            # The source's convolution reads less than a step further than the steps it makes.
            source_samples = max(
                source_samples, (max(margins.left, margins.right) + 1) * self.samples_per_step(stage + 1)
            )
            margins = self._before_upsampling(margins, stage)
        if first_stage == 0:
            margins = margins.widened(same_padding(END_KERNEL))
        return max(margins.left, margins.right, ceil_div(source_samples, entry_step))

    def _before_upsampling(self, margins: Margins, stage: int) -> Margins:
        """Margins at a stage's input: output n of the transposed convolution reads inputs (n + p - [0, k)) / u."""
        rate, kernel = self.rates[stage], self.kernels[stage]
        padding = ceil_div(kernel - rate, 2)
        return Margins(
            left=(margins.left + kernel - 1 - padding) // rate, right=(margins.right + padding - 1) // rate + 1
        )

    def forward(self, z: Tensor, g: Tensor, source: Tensor | None) -> Tensor:
        """Latent (batch, inter_channels, frames) to sound (batch, 1, frames * frame_samples), within ±1.

        g is (batch, gin_channels, 1), source as long as the sound, of `m_source`; None for a voice without F0.
        """
        return self._tail(self._head(z, g, source), source)

    def tiled(self, z: Tensor, g: Tensor, source: Tensor | None, core: Span, tile_frames: int) -> Tensor:
        """Sound (batch, 1, samples) of the frames `core` of a latent: that part of `forward`, in little memory.

        The stages that run at a few hundred steps a second see the stretch and its context at once; the fast ones,
        where the memory would be, go from tile to tile.
        """
        window = core.widened(self.context_frames, z.shape[-1])
        source = samples_of(source, window, self.frame_samples)
        head = self._head(z[..., window.slice], g, source)
        step_samples, context = self.samples_per_step(1), self.context_steps(1)
        sound = z.new_empty(z.shape[0], 1, len(core) * self.frame_samples)
        for tile in core.tiles(tile_frames):
            steps = tile.shifted(-window.start).scaled(self.rates[0])
            wide = steps.widened(context, head.shape[-1])
            part = self._tail(head[..., wide.slice], samples_of(source, wide, step_samples))
            target = tile.shifted(-core.start).scaled(self.frame_samples)
            sound[..., target.slice] = part[..., steps.shifted(-wide.start).scaled(step_samples).slice]
        return sound

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
            excitation = self.noise_convs[stage](source if x.dim() == 3 else source.unsqueeze(2))
            x = x.add_(excitation)
        blocks = self.blocks(stage)
        total: Tensor = blocks[0](x)
        for block in blocks[1:]:
            total = total.add_(block(x))
        return total.div_(len(blocks))


class HifiGan(HifiGanBase):
    """RVC's vocoder; with `config.has_f0` its stages are excited by a sine source (GeneratorNSF)."""

    def __init__(self, config: SynthesizerConfig, *, training: bool) -> None:
        super().__init__(config)
        self.n_blocks = len(config.resblock_kernel_sizes)
        if config.has_f0:
            self.m_source = SineSource(config.sample_rate, config.frame_samples)
        self.conv_pre = _end_conv(config.inter_channels, self.channels[0])
        self.ups = self._upsamplers(training=training)
        if config.has_f0:
            self.noise_convs = self._source_convs()
        block = ResBlock1 if config.resblock == "1" else ResBlock2
        self.resblocks = nn.ModuleList(
            block(width, kernel, dilations, training=training)
            for width in self.channels[1:]
            for kernel, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
        )
        self.conv_post = _end_conv(self.channels[-1], 1, bias=False)
        self.cond = nn.Conv1d(config.gin_channels, self.channels[0], 1)

    def upsampler(self, stage: int) -> nn.Module:
        return self.ups[stage]

    def blocks(self, stage: int) -> Sequence[ResidualBlock]:
        blocks = self.resblocks[stage * self.n_blocks : (stage + 1) * self.n_blocks]
        return [cast("ResidualBlock", block) for block in blocks]


class MrfHifiGan(HifiGanBase):
    """Applio's "MRF HiFi-GAN": the same arithmetic with eight overtones in the source, under other names."""

    def __init__(self, config: SynthesizerConfig, *, training: bool) -> None:
        super().__init__(config)
        self.m_source = SineSource(config.sample_rate, config.frame_samples, overtones=MRF_OVERTONES)
        self.conv_pre = maybe_weight_norm(_end_conv(config.inter_channels, self.channels[0]), training=training)
        self.upsamples = self._upsamplers(training=training)
        self.noise_convs = self._source_convs()
        self.mrfs = nn.ModuleList(
            nn.ModuleList(
                MrfBlock(width, kernel, dilations, training=training)
                for kernel, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
            )
            for width in self.channels[1:]
        )
        self.conv_post = maybe_weight_norm(_end_conv(self.channels[-1], 1), training=training)
        self.cond = nn.Conv1d(config.gin_channels, self.channels[0], 1)

    def upsampler(self, stage: int) -> nn.Module:
        return self.upsamples[stage]

    def blocks(self, stage: int) -> Sequence[ResidualBlock]:
        return [cast("ResidualBlock", block) for block in cast("nn.ModuleList", self.mrfs[stage])]


def _end_conv(channels_in: int, channels_out: int, *, bias: bool = True) -> TimeConv:
    """The first or last convolution."""
    return TimeConv(channels_in, channels_out, END_KERNEL, padding=same_padding(END_KERNEL), bias=bias)
