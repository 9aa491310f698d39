"""HiFi-GAN generators (Kong et al., 2020), with RVC's harmonic source (NSF) or without.

Latent frames go in, samples come out. Every output sample depends on a bounded stretch of input, which
`context_frames` derives from the layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from menura.models.config import SynthesizerConfig
from menura.models.layers import (
    LEAKY_SLOPE,
    ResBlock1,
    ResBlock2,
    TimeConv,
    TimeConvTranspose,
    maybe_weight_norm,
    same_padding,
)
from menura.models.source import SineSource
from menura.units import ceil_div

PRE_POST_KERNEL = 7


@dataclass(frozen=True, slots=True)
class Span:
    """Steps [start, stop) of some signal."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def widened(self, steps: int, length: int) -> Span:
        """With that many more on each side, as far as a signal of that length goes."""
        return Span(max(0, self.start - steps), min(length, self.stop + steps))

    def shifted(self, steps: int) -> Span:
        """Moved by that many steps."""
        return Span(self.start + steps, self.stop + steps)

    def scaled(self, factor: int) -> Span:
        """The same time at a rate that is higher by a factor."""
        return Span(self.start * factor, self.stop * factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Margins:
    """Samples needed before and after a stretch, at some stage's rate."""

    left: int
    right: int

    def widened(self, samples: int) -> Margins:
        """The margins with that many more on both sides."""
        return Margins(left=self.left + samples, right=self.right + samples)


class HifiGan(nn.Module):
    """HiFi-GAN; with `config.has_f0` its stages are excited by a sine source (GeneratorNSF)."""

    def __init__(self, config: SynthesizerConfig, *, training: bool) -> None:
        super().__init__()
        self.rates = config.upsample_rates
        self.kernels = config.upsample_kernel_sizes
        self.n_resblocks = len(config.resblock_kernel_sizes)
        self.frame_samples = config.frame_samples
        channels = [config.upsample_initial_channel // 2**i for i in range(len(self.rates) + 1)]
        if config.has_f0:
            self.m_source = SineSource(config.sample_rate, config.frame_samples)
        self.conv_pre = TimeConv(
            config.inter_channels, channels[0], PRE_POST_KERNEL, padding=same_padding(PRE_POST_KERNEL)
        )
        self.ups = nn.ModuleList(
            _upsampler(channels[i], channels[i + 1], self.rates[i], self.kernels[i], training=training)
            for i in range(len(self.rates))
        )
        if config.has_f0:
            self.noise_convs = nn.ModuleList(
                _source_conv(channels[i + 1], self.samples_per_step(i + 1)) for i in range(len(self.rates))
            )
        block = ResBlock1 if config.resblock == "1" else ResBlock2
        self.resblocks = nn.ModuleList(
            block(width, kernel, dilations, training=training)
            for width in channels[1:]
            for kernel, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
        )
        self.conv_post = TimeConv(channels[-1], 1, PRE_POST_KERNEL, padding=same_padding(PRE_POST_KERNEL), bias=False)
        self.cond = TimeConv(config.gin_channels, channels[0], 1)

    def samples_per_step(self, stage: int) -> int:
        """Output samples in one step of the signal that enters a stage (stage 0: latent frames)."""
        product = 1
        for rate in self.rates[stage:]:
            product *= rate
        return product

    @property
    def context_frames(self) -> int:
        """Latent (and source) frames on each side that the samples of a frame depend on."""
        return self._context_steps(0)

    def _context_steps(self, first_stage: int) -> int:
        """Steps of the signal that enters a stage, on each side, that the samples of one step depend on."""
        entry_step = self.samples_per_step(first_stage)
        margins = Margins(left=0, right=0).widened(same_padding(PRE_POST_KERNEL))
        source_samples = 0
        for stage in reversed(range(first_stage, len(self.rates))):
            margins = margins.widened(self._resblock_context(stage))
            # The source's convolution reads less than a step further than the steps it makes.
            source_samples = max(
                source_samples, (max(margins.left, margins.right) + 1) * self.samples_per_step(stage + 1)
            )
            margins = self._before_upsampling(margins, stage)
        if first_stage == 0:
            margins = margins.widened(same_padding(PRE_POST_KERNEL))
        return max(margins.left, margins.right, ceil_div(source_samples, entry_step))

    def _resblock_context(self, stage: int) -> int:
        blocks = self.resblocks[stage * self.n_resblocks : (stage + 1) * self.n_resblocks]
        return max(int(block.context_samples) for block in blocks)  # type: ignore[arg-type]

    def _before_upsampling(self, margins: Margins, stage: int) -> Margins:
        """Margins at a stage's input: output n of the transposed convolution reads inputs (n + p - [0, k)) / u."""
        rate, kernel = self.rates[stage], self.kernels[stage]
        padding = ceil_div(kernel - rate, 2)
        return Margins(
            left=(margins.left + kernel - 1 - padding) // rate, right=(margins.right + padding - 1) // rate + 1
        )

    def forward(self, z: Tensor, g: Tensor, source: Tensor | None) -> Tensor:
        """Latent to sound.

        Args:
            z: (batch, inter_channels, frames).
            g: (batch, gin_channels, 1).
            source: (batch, 1, frames * frame_samples) of `m_source`; None for a voice without F0.

        Returns:
            (batch, 1, frames * frame_samples), within ±1.
        """
        return self._tail(self._head(z, g, source), source)

    def tiled(self, z: Tensor, g: Tensor, source: Tensor | None, core: Span, tile_frames: int) -> Tensor:
        """Sound of a stretch of a latent, equal to that part of `forward`, in little memory and no gradients.

        The stages that run at a few hundred steps a second see the stretch and its context at once; the fast ones,
        where the memory would be, go from tile to tile.

        Args:
            z: as for `forward`.
            g: as for `forward`.
            source: as for `forward`.
            core: the latent frames whose sound is wanted.
            tile_frames: frames decoded at once.

        Returns:
            (batch, 1, core frames * frame_samples).
        """
        window = core.widened(self.context_frames, z.shape[-1])
        source = _samples(source, window, self.frame_samples)
        head = self._head(z[..., window.start : window.stop], g, source)
        step_samples, context = self.samples_per_step(1), self._context_steps(1)
        sound = z.new_empty(z.shape[0], 1, len(core) * self.frame_samples)
        for start in range(core.start, core.stop, tile_frames):
            tile = Span(start, min(start + tile_frames, core.stop))
            steps = tile.shifted(-window.start).scaled(self.rates[0])
            wide = steps.widened(context, head.shape[-1])
            part = self._tail(head[..., wide.start : wide.stop], _samples(source, wide, step_samples))
            wanted = steps.shifted(-wide.start).scaled(step_samples)
            place = tile.shifted(-core.start).scaled(self.frame_samples)
            sound[..., place.start : place.stop] = part[..., wanted.start : wanted.stop]
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
        return torch.tanh(self.conv_post(F.leaky_relu(x))).reshape(x.shape[0], 1, -1)

    def _stage(self, stage: int, x: Tensor, source: Tensor | None) -> Tensor:
        x = self.ups[stage](F.leaky_relu(x, LEAKY_SLOPE))
        if source is not None:
            excitation = self.noise_convs[stage](source if x.dim() == 3 else source.unsqueeze(2))
            x = x.add_(excitation)
        blocks = self.resblocks[stage * self.n_resblocks : (stage + 1) * self.n_resblocks]
        total: Tensor | None = None
        for block in blocks:
            total = block(x) if total is None else total.add_(block(x))
        assert total is not None
        return total.div_(self.n_resblocks)


def _samples(source: Tensor | None, steps: Span, step_samples: int) -> Tensor | None:
    """The part of a (batch, 1, samples) signal that belongs to some steps."""
    span = steps.scaled(step_samples)
    return None if source is None else source[..., span.start : span.stop]


def _upsampler(channels_in: int, channels_out: int, rate: int, kernel: int, *, training: bool) -> nn.Module:
    # An odd difference (Applio's odd rates) is made up by one more sample at the end.
    conv = TimeConvTranspose(
        channels_in, channels_out, kernel, rate, ceil_div(kernel - rate, 2), output_padding=(kernel - rate) % 2
    )
    nn.init.normal_(conv.weight, 0.0, 0.01)
    return maybe_weight_norm(conv, training=training)


def _source_conv(channels: int, stride: int) -> TimeConv:
    """Brings the source down to a stage's rate."""
    if stride == 1:
        return TimeConv(1, channels, 1)
    kernel = 2 * stride - stride % 2
    return TimeConv(1, channels, kernel, stride, (kernel - stride) // 2)
