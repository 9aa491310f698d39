"""A whole HiFi-GAN decoder on the kernels.

Every layer works in blocks that stay in the cache, so a signal passes through layer after layer at full length; the
fast stages, where a second of sound takes several megabytes, go from tile to tile.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from menura.kernels.cache import Packing
from menura.kernels.convolution import Convolution, LastConvolution, SourceConvolution, Upsampling, bias_of
from menura.kernels.library import KernelLibrary
from menura.kernels.packing import padded_channels
from menura.kernels.residual_stage import residual_blocks
from menura.models.layers import LEAKY_SLOPE
from menura.models.spans import Span, samples_of
from menura.models.vocoders import LAST_SLOPE, HifiGanBase

TILE_FRAMES = 200
"""Frames whose fast stages are computed at once: 2 s, about 50 MB. Shorter tiles recompute more context."""

FIRST_STAGE_FRAMES = 700
"""Frames that the first, slow stage computes at once."""


class _Stage:
    """Upsampling, excitation, and residual blocks whose outputs are averaged."""

    def __init__(self, library: KernelLibrary, vocoder: HifiGanBase, number: int, packing: Packing) -> None:
        up = cast("nn.ConvTranspose1d", vocoder.upsampler(number))
        self.rate = vocoder.rates[number]
        self.context_steps = vocoder.context_steps(number)
        """Of the signal that enters the stage, on each side, that the sound of a step depends on."""
        self.step_samples = vocoder.samples_per_step(number)
        self._channels = padded_channels(up.out_channels)
        self._upsampling = Upsampling(library, up.weight, up.bias, self.rate, int(up.padding[0]), packing)
        self._source = None
        if hasattr(vocoder, "noise_convs"):
            conv = cast("nn.Conv1d", vocoder.noise_convs[number])
            padding = int(conv.padding[0])
            self._source = SourceConvolution(library, conv.weight, conv.bias, conv.stride[0], padding)

        def packed(conv: nn.Conv1d) -> Convolution:
            return Convolution(library, conv.weight, conv.bias, conv.dilation[0], None, packing)

        blocks = [
            [[packed(cast("nn.Conv1d", conv)) for conv in step] for step in block.steps()]
            for block in vocoder.blocks(number)
        ]
        self._blocks = residual_blocks(library, blocks)

    def __call__(self, x: Tensor, span: Span, source: Tensor | None) -> Tensor:
        """(steps, channels), steps `span` of what enters the stage, to (steps * rate, channels) of the next one."""
        excited = self._upsampling(x, x.new_empty(len(span) * self.rate, self._channels), LEAKY_SLOPE)
        excitation = samples_of(source, span, self.step_samples)
        if self._source is not None and excitation is not None:
            self._source(excitation, excited)
        return self._blocks(excited, torch.empty_like(excited), LEAKY_SLOPE)


class Decoder:
    """A decoder ready to run. Rows of a batch are decoded one after the other: each keeps all threads busy."""

    def __init__(self, library: KernelLibrary, vocoder: HifiGanBase, packing: Packing) -> None:
        """Pack the weights; of the vocoder only what the speaker's embedding goes through is kept."""
        first, last = cast("nn.Conv1d", vocoder.conv_pre), cast("nn.Conv1d", vocoder.conv_post)
        self.condition = vocoder.cond
        """The part of the network that is kept."""
        self._first = Convolution(library, first.weight, first.bias, packing=packing)
        self._first_bias = bias_of(first).detach().clone()
        self._stages = [_Stage(library, vocoder, number, packing) for number in range(len(vocoder.rates))]
        self._last = LastConvolution(library, last.weight, last.bias)
        self._channels_in = padded_channels(first.in_channels)

    def tiled(self, z: Tensor, g: Tensor, source: Tensor | None, core: Span) -> Tensor:
        """See `Synthesizer.decode_tiled`."""
        offsets = self.condition(g)[:, :, 0] + self._first_bias
        rows = [
            self._decode(latent.float(), offset, None if source is None else source[row, 0].float().contiguous(), core)
            for row, (latent, offset) in enumerate(zip(z, offsets, strict=True))
        ]
        return torch.stack(rows)

    def _decode(self, z: Tensor, offset: Tensor, source: Tensor | None, core: Span) -> Tensor:
        """Sound (samples,) of some frames of z (channels, frames).

        `offset` is the first layer's bias with the speaker's condition, `source` all frames' (samples,).
        """
        frames = core.widened(self._stages[0].context_steps, z.shape[1])
        x = z.new_zeros(len(frames), self._channels_in)
        x[:, : z.shape[0]] = z[:, frames.slice].T
        x = self._first.with_bias(offset)(x, x.new_empty(len(x), padded_channels(len(offset))))
        x = self._first_stage(x, frames, source)
        frame_samples = self._stages[0].step_samples
        sound = z.new_empty(len(core) * frame_samples)
        for tile in core.tiles(TILE_FRAMES):
            target = tile.shifted(-core.start).scaled(frame_samples)
            sound[target.slice] = self._tile(x, frames.scaled(self._stages[0].rate), source, tile)
        return sound

    def _first_stage(self, x: Tensor, frames: Span, source: Tensor | None) -> Tensor:
        """The first stage in parts: its buffers are five times what comes out of it."""
        stage = self._stages[0]
        if len(x) <= FIRST_STAGE_FRAMES + 2 * stage.context_steps:
            return stage(x, frames, source)
        parts = []
        for part in Span(0, len(x)).tiles(FIRST_STAGE_FRAMES):
            wide = part.widened(stage.context_steps, len(x))
            output = stage(x[wide.slice], wide.shifted(frames.start), source)
            parts.append(output[part.shifted(-wide.start).scaled(stage.rate).slice].clone())
        return torch.cat(parts)

    def _tile(self, x: Tensor, span: Span, source: Tensor | None, tile: Span) -> Tensor:
        """Sound of some frames from what enters the second stage, of which x is the steps `span`."""
        frame_samples = self._stages[0].step_samples
        for stage in self._stages[1:]:
            steps = tile.scaled(frame_samples // stage.step_samples).shifted(-span.start)
            wide = steps.widened(stage.context_steps, len(span))
            here = wide.shifted(span.start)
            x, span = stage(x[wide.slice], here, source), here.scaled(stage.rate)
        sound = self._last(x, x.new_empty(len(x)), LAST_SLOPE)
        return sound[tile.scaled(frame_samples).shifted(-span.start).slice]
