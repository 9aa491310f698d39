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
from menura.models.layers import LEAKY_SLOPE, ResBlock1, ResBlock2, maybe_weight_norm, same_padding
from menura.models.source import SineSource
from menura.units import ceil_div

PRE_POST_KERNEL = 7


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
        self.conv_pre = nn.Conv1d(
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
        self.conv_post = nn.Conv1d(channels[-1], 1, PRE_POST_KERNEL, padding=same_padding(PRE_POST_KERNEL), bias=False)
        self.cond = nn.Conv1d(config.gin_channels, channels[0], 1)

    def samples_per_step(self, stage: int) -> int:
        """Output samples in one step of the signal that enters a stage (stage 0: latent frames)."""
        product = 1
        for rate in self.rates[stage:]:
            product *= rate
        return product

    @property
    def context_frames(self) -> int:
        """Latent (and source) frames on each side that the samples of a frame depend on."""
        margins = Margins(left=0, right=0).widened(same_padding(PRE_POST_KERNEL))
        source_samples = 0
        for stage in reversed(range(len(self.rates))):
            margins = margins.widened(self._resblock_context(stage))
            step = self.samples_per_step(stage + 1)
            source_samples = max(source_samples, (max(margins.left, margins.right) + 1) * step)
            margins = self._before_upsampling(margins, stage)
        margins = margins.widened(same_padding(PRE_POST_KERNEL))
        return max(margins.left, margins.right, ceil_div(source_samples, self.frame_samples))

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
        x = self.conv_pre(z).add_(self.cond(g))
        for stage in range(len(self.rates)):
            x = self._stage(stage, x, source)
        return torch.tanh(self.conv_post(F.leaky_relu(x)))

    def _stage(self, stage: int, x: Tensor, source: Tensor | None) -> Tensor:
        x = self.ups[stage](F.leaky_relu(x, LEAKY_SLOPE))
        if source is not None:
            x = x.add_(self.noise_convs[stage](source))
        blocks = self.resblocks[stage * self.n_resblocks : (stage + 1) * self.n_resblocks]
        total: Tensor | None = None
        for block in blocks:
            total = block(x) if total is None else total.add_(block(x))
        assert total is not None
        return total.div_(self.n_resblocks)


def _upsampler(channels_in: int, channels_out: int, rate: int, kernel: int, *, training: bool) -> nn.Module:
    # An odd difference (Applio's odd rates) is made up by one more sample at the end.
    conv = nn.ConvTranspose1d(
        channels_in, channels_out, kernel, rate, ceil_div(kernel - rate, 2), output_padding=(kernel - rate) % 2
    )
    nn.init.normal_(conv.weight, 0.0, 0.01)
    return maybe_weight_norm(conv, training=training)


def _source_conv(channels: int, stride: int) -> nn.Conv1d:
    """Brings the source down to a stage's rate."""
    if stride == 1:
        return nn.Conv1d(1, channels, 1)
    kernel = 2 * stride - stride % 2
    return nn.Conv1d(1, channels, kernel, stride, (kernel - stride) // 2)
