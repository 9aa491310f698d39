"""A whole HiFi-GAN decoder on the kernels.

Every layer works in blocks that stay in the cache, so a signal passes through layer after layer at full length; the
fast stages, where a second of sound takes several megabytes, go from tile to tile.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from menura.kernels.cache import Packing
from menura.kernels.layers import Convolution, LastConvolution, Layer, SourceConvolution, Upsampling, bias_of
from menura.kernels.library import CallArguments, KernelLibrary, LayerArguments, LayerEnd, Mode, StageArguments, address
from menura.kernels.packing import padded
from menura.models.layers import LEAKY_SLOPE, Span, samples_of
from menura.models.vocoders import LAST_SLOPE, HifiGan

TILE_FRAMES = 200
"""Frames whose fast stages are computed at once: 2 s, about 50 MB. Shorter tiles recompute more context."""

FIRST_STAGE_FRAMES = 700
"""Frames that the first, slow stage computes at once."""

CHUNKED_CHANNELS = 64
"""Stages of at most so many channels are computed chunk by chunk. Wider ones would read more weights, again for every
chunk, than the cache saves."""

Blocks = Sequence[Sequence[Sequence[Layer]]]
"""Of every block its residual steps, of every step its one or two convolutions."""


class LayeredBlocks:
    """Residual blocks with the same input, whose outputs are averaged: layer after layer at full length."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks

    def __call__(self, x: Tensor, output: Tensor, slope: float) -> Tensor:
        """The mean of the blocks of (steps, channels) into `output` of the same shape, which isn't `x` itself."""
        free = torch.empty_like(x), torch.empty_like(x)
        for number, block in enumerate(self._blocks):
            mode, carried = Mode.ADD_TO_MEAN if number else Mode.START_MEAN, x
            for place, (*inner, last) in enumerate(block):
                y, spare = carried, free[carried is free[0]]
                for convolution in inner:
                    y = convolution(y, spare, slope)
                if place == len(block) - 1:
                    last(y, output, slope, carried, mode, 1 / len(self._blocks))
                else:  # in place after two convolutions, but not into the block's input: it's its neighbours' too
                    carried = last(y, spare if y is carried else free[1] if carried is x else carried, slope, carried)
        return output


class ChunkedBlocks:
    """The same in less time and memory: a thread takes a chunk through all layers of all blocks within its cache.

    The context of a chunk is recomputed, 2 to 5 % of the work.
    """

    def __init__(self, library: KernelLibrary, blocks: Blocks) -> None:
        self._library, self._scale = library, 1 / len(blocks)
        ends: list[LayerEnd] = []
        for block in blocks:
            for step in block:
                ends += [LayerEnd.WITHIN_STEP] * (len(step) - 1) + [LayerEnd.STEP]
            ends[-1] = LayerEnd.BLOCK
        count = len(ends)
        self._layers = [layer for block in blocks for step in block for layer in step]
        self._arguments = (LayerArguments * count)(*(layer.arguments for layer in self._layers))
        self._ends = (ctypes.c_int32 * count)(*ends)
        self._stage = StageArguments(ctypes.addressof(self._arguments), ctypes.addressof(self._ends), count)

    def __call__(self, x: Tensor, output: Tensor, slope: float) -> Tensor:
        if x.shape != output.shape:
            raise ValueError(f"an output of shape {tuple(output.shape)} for an input of {tuple(x.shape)}")
        call = CallArguments(
            input=address(x, self._arguments[0].channels_in),
            output=address(output),
            steps_in=len(x),
            steps_out=len(x),
            slope=slope,
            scale=self._scale,
        )
        self._library.call("menura_run_blocks", self._stage, call)
        return output


class _Stage:
    """Upsampling, excitation, and residual blocks whose outputs are averaged."""

    def __init__(self, vocoder: HifiGan, number: int, packing: Packing) -> None:
        up = cast("nn.ConvTranspose1d", vocoder.upsampler(number))
        self.rate = vocoder.rates[number]
        self.context_steps = vocoder.context_steps(number)
        """Of the signal that enters the stage, on each side, that the sound of a step depends on."""
        self.step_samples = vocoder.samples_per_step(number)
        self._upsampling = Upsampling(packing, up.weight, up.bias, self.rate, int(up.padding[0]))
        self._source = None
        if hasattr(vocoder, "noise_convs"):
            conv = cast("nn.Conv1d", vocoder.noise_convs[number])
            numbers = conv.stride[0], int(conv.padding[0])
            self._source = SourceConvolution(packing.library, conv.weight, conv.bias, *numbers)

        def packed(conv: nn.Module) -> Convolution:
            assert isinstance(conv, nn.Conv1d)
            return Convolution(packing, conv.weight, conv.bias, conv.dilation[0])

        blocks = [[list(map(packed, step)) for step in block.steps()] for block in vocoder.blocks(number)]
        self._channels = blocks[0][0][0].arguments.channels_in
        chunked = self._channels <= CHUNKED_CHANNELS
        self._blocks = ChunkedBlocks(packing.library, blocks) if chunked else LayeredBlocks(blocks)

    def __call__(self, x: Tensor, span: Span, source: Tensor | None) -> Tensor:
        """(steps, channels), steps `span` of what enters the stage, to (steps * rate, channels) of the next one."""
        excited = self._upsampling(x, x.new_empty(len(span) * self.rate, self._channels), LEAKY_SLOPE)
        excitation = samples_of(source, span, self.step_samples)
        if self._source is not None and excitation is not None:
            self._source(excitation, excited)
        return self._blocks(excited, torch.empty_like(excited), LEAKY_SLOPE)


class Decoder:
    """A decoder ready to run. Rows of a batch are decoded one after the other: each keeps all threads busy."""

    def __init__(self, vocoder: HifiGan, packing: Packing) -> None:
        """Pack the weights; of the vocoder only what the speaker's embedding goes through is kept."""
        first, last = cast("nn.Conv1d", vocoder.conv_pre), cast("nn.Conv1d", vocoder.conv_post)
        self.condition = vocoder.cond
        """The part of the network that is kept."""
        self._first = Convolution(packing, first.weight, first.bias)
        self._first_bias = bias_of(first).detach().clone()
        self._stages = [_Stage(vocoder, number, packing) for number in range(len(vocoder.rates))]
        self._last = LastConvolution(packing.library, last.weight, last.bias)

    def tiled(self, z: Tensor, g: Tensor, source: Tensor | None, core: Span) -> Tensor:
        """See `Synthesizer.decode_tiled`."""
        offsets = self.condition(g)[:, :, 0] + self._first_bias
        sources = [None] * len(z) if source is None else [row[0].float().contiguous() for row in source]
        return torch.stack([self._decode(*row, core) for row in zip(z.float(), offsets, sources, strict=True)])

    def _decode(self, z: Tensor, offset: Tensor, source: Tensor | None, core: Span) -> Tensor:
        """Some frames' sound (samples,) of z (channels, frames); the offset is the first bias and the speaker."""
        frames = core.widened(self._stages[0].context_steps, z.shape[1])
        x = self._first.with_bias(offset)(padded(z[:, frames.slice].T).contiguous())
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
