"""The residual blocks of a decoder's stage."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from menura.kernels.convolution import Convolution
from menura.kernels.library import CallArguments, KernelLibrary, LayerArguments, LayerEnd, Mode, StageArguments, address

CHUNKED_CHANNELS = 64
"""Stages of at most so many channels are computed chunk by chunk. Wider ones would read more weights, again for every
chunk, than the cache saves."""

Blocks = Sequence[Sequence[Sequence[Convolution]]]
"""Of every block its residual steps, of every step its one or two convolutions."""


class LayeredBlocks:
    """Blocks with the same input, whose outputs are averaged: layer after layer at full length."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks

    def __call__(self, x: Tensor, output: Tensor, slope: float) -> Tensor:
        """The mean of the blocks of (steps, channels) into `output` of the same shape, which isn't `x` itself."""
        free = [torch.empty_like(x) for _ in range(3)]
        for number, block in enumerate(self._blocks):
            mode, carried = Mode.ADD_TO_MEAN if number else Mode.START_MEAN, x
            for place, (*inner, last) in enumerate(block):
                y = carried
                for convolution in inner:
                    y = convolution(y, free[2], slope)
                if place == len(block) - 1:
                    last(y, output, slope, carried, mode, 1 / len(self._blocks))
                else:
                    # Never into what is read: the block's input belongs to its neighbours too.
                    carried = last(y, free[place % 2], slope, carried)
        return output


class ChunkedBlocks:
    """The same in less time and memory: a thread takes a chunk through all layers of all blocks within its cache.

    The context of a chunk is recomputed, 2 to 5 % of the work.
    """

    def __init__(self, library: KernelLibrary, blocks: Blocks) -> None:
        self._layers = [layer for block in blocks for step in block for layer in step]
        count = len(self._layers)
        self._library, self._scale = library, 1 / len(blocks)
        self._channels = self._layers[0].arguments.channels_in
        self._ends = (ctypes.c_int32 * count)(*_ends(blocks))
        self._arguments = (LayerArguments * count)(*(layer.arguments for layer in self._layers))
        self._stage = StageArguments(
            layers=ctypes.addressof(self._arguments), ends=ctypes.addressof(self._ends), count=count
        )

    def __call__(self, x: Tensor, output: Tensor, slope: float) -> Tensor:
        if x.shape != output.shape:
            raise ValueError(f"an output of shape {tuple(output.shape)} for an input of {tuple(x.shape)}")
        call = CallArguments(
            input=address(x, self._channels),
            output=address(output, self._channels),
            steps_in=len(x),
            steps_out=len(x),
            slope=slope,
            scale=self._scale,
        )
        self._library.call("menura_run_blocks", self._stage, call)
        return output


def residual_blocks(library: KernelLibrary, blocks: Blocks) -> LayeredBlocks | ChunkedBlocks:
    """The faster of the two."""
    wide = blocks[0][0][0].arguments.channels_in > CHUNKED_CHANNELS
    return LayeredBlocks(blocks) if wide else ChunkedBlocks(library, blocks)


def _ends(blocks: Blocks) -> list[LayerEnd]:
    ends = []
    for block in blocks:
        for step in block:
            ends += [LayerEnd.WITHIN_STEP] * (len(step) - 1) + [LayerEnd.STEP]
        ends[-1] = LayerEnd.BLOCK
    return ends
