"""A whole HiFi-GAN decoder on the kernels.

Every layer works in blocks that stay in the cache, so a signal passes through layer after layer at full length; the
fast stages, where a second of sound takes several megabytes, go from tile to tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from menura.kernels.cache import Packing
from menura.kernels.convolution import Convolution, LastConvolution, SourceConvolution, Upsampling
from menura.kernels.library import KernelLibrary
from menura.kernels.packing import padded_channels
from menura.kernels.residual_stage import residual_blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWeights:
    """A layer as a checkpoint has it."""

    weight: Tensor
    bias: Tensor | None
    dilation: int = 1
    stride: int = 1
    padding: int = 0

    @property
    def bias_or_zeros(self) -> Tensor:
        """The bias of a convolution, (channels_out,)."""
        return self.weight.new_zeros(self.weight.shape[0]) if self.bias is None else self.bias


@dataclass(frozen=True, slots=True, kw_only=True)
class StageWeights:
    """One stage: upsampling, excitation, and residual blocks whose outputs are averaged."""

    upsampling: LayerWeights
    source: LayerWeights | None
    blocks: tuple[tuple[tuple[LayerWeights, ...], ...], ...]
    """Of every block its residual steps, of every step its one or two convolutions."""
    context_steps: int
    """Steps of the signal that enters the stage, on each side, that the sound of a step depends on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderWeights:
    """All layers."""

    first: LayerWeights
    stages: tuple[StageWeights, ...]
    last: LayerWeights
    slope: float
    """Of the leaky ReLUs, but the last."""
    last_slope: float

    def packed_layers(self) -> Iterator[LayerWeights]:
        """Those whose weights are packed, in a fixed order."""
        yield self.first
        for stage in self.stages:
            yield stage.upsampling
            yield from (layer for block in stage.blocks for step in block for layer in step)


TILE_FRAMES = 200
"""Frames whose fast stages are computed at once: 2 s, some 50 MB. Shorter tiles compute more of their context twice."""

FIRST_STAGE_FRAMES = 700
"""Frames that the first, slow stage computes at once."""


class _Stage:
    """A stage's packed layers."""

    def __init__(self, library: KernelLibrary, weights: StageWeights, slope: float, packing: Packing) -> None:
        up = weights.upsampling
        self.rate, self.slope, self.context_steps = up.stride, slope, weights.context_steps
        self._channels = padded_channels(up.weight.shape[1])
        self._upsampling = Upsampling.of(library, up.weight, up.bias, up.stride, up.padding, packing)
        source = weights.source
        self._source = None
        if source is not None:
            self._source = SourceConvolution.of(library, source.weight, source.bias, source.stride, source.padding)
        blocks = [
            [[Convolution.of(library, c.weight, c.bias, c.dilation, None, packing) for c in step] for step in block]
            for block in weights.blocks
        ]
        self._blocks = residual_blocks(library, blocks)

    def layers(self) -> list[Convolution | Upsampling | SourceConvolution | LastConvolution]:
        """All of them."""
        return [self._upsampling, *([] if self._source is None else [self._source]), *self._blocks.layers]

    def __call__(self, x: Tensor, source: Tensor | None) -> Tensor:
        """(steps, channels) to (steps * rate, channels) of the next stage."""
        steps = x.shape[0] * self.rate
        excited = self._upsampling(x, x.new_empty(steps, self._channels), self.slope)
        if self._source is not None and source is not None:
            self._source(source, excited)
        return self._blocks(excited, torch.empty_like(excited), self.slope)


class Decoder:
    """A decoder ready to run. Rows of a batch are decoded one after the other: each keeps all threads busy."""

    def __init__(self, library: KernelLibrary, weights: DecoderWeights, packing: Packing) -> None:
        """Pack all weights, or take them packed.

        Args:
            library: whose kernels will run.
            weights: float32 tensors on the CPU; they are not kept.
            packing: where packed weights may come from.
        """
        first, last = weights.first, weights.last
        self._first = Convolution.of(library, first.weight, first.bias, packing=packing)
        self._stages = [_Stage(library, stage, weights.slope, packing) for stage in weights.stages]
        self._last = LastConvolution.of(library, last.weight, last.bias)
        self._last_slope = weights.last_slope
        self._channels_in = padded_channels(first.weight.shape[1])

    def decode(self, z: Tensor, offset: Tensor, source: Tensor | None, core: tuple[int, int]) -> Tensor:
        """Sound of some frames of a latent.

        Args:
            z: (channels, frames).
            offset: (first layer's channels,): its bias with the speaker's condition.
            source: (frames * frame_samples,) excitation; None for none.
            core: first frame that is wanted, and the first after it that isn't.

        Returns:
            (core frames * frame_samples,).
        """
        z = z.float()
        source = None if source is None else source.float().contiguous()
        frame_samples = self._step_samples(0)
        start, stop = _widened(core, self._stages[0].context_steps, z.shape[1])
        x = z.new_zeros(stop - start, self._channels_in)
        x[:, : z.shape[0]] = z[:, start:stop].T
        x = self._first.with_bias(offset)(x, x.new_empty(x.shape[0], padded_channels(offset.shape[0])))
        x, begun = self._first_stage(x, source, start)
        sound = z.new_empty((core[1] - core[0]) * frame_samples)
        for at in range(core[0], core[1], TILE_FRAMES):
            tile = at, min(at + TILE_FRAMES, core[1])
            samples = sound[(tile[0] - core[0]) * frame_samples : (tile[1] - core[0]) * frame_samples]
            self._tile(x, begun, source, tile, samples)
        return sound

    def _first_stage(self, x: Tensor, source: Tensor | None, start: int) -> tuple[Tensor, int]:
        """As `_stage`, in parts: its buffers are five times what comes out of it."""
        stage, frames = self._stages[0], x.shape[0]
        if frames <= FIRST_STAGE_FRAMES + 2 * stage.context_steps:
            return self._stage(0, x, source, start)
        parts = []
        for at in range(0, frames, FIRST_STAGE_FRAMES):
            stop = min(at + FIRST_STAGE_FRAMES, frames)
            low, high = _widened((at, stop), stage.context_steps, frames)
            made, _ = self._stage(0, x[low:high], source, start + low)
            parts.append(made[(at - low) * stage.rate : (stop - low) * stage.rate].clone())
        return torch.cat(parts), start * stage.rate

    def _tile(self, x: Tensor, begun: int, source: Tensor | None, tile: tuple[int, int], samples: Tensor) -> None:
        """Sound of some frames from what entered the second stage, whose first step is `begun`."""
        frame_samples = self._step_samples(0)
        for number in range(1, len(self._stages)):
            per_frame = frame_samples // self._step_samples(number)
            wide = _widened(
                (tile[0] * per_frame, tile[1] * per_frame),
                self._stages[number].context_steps,
                begun + x.shape[0],
                begun,
            )
            x, begun = self._stage(number, x[wide[0] - begun : wide[1] - begun], source, wide[0])
        made = self._last(x, x.new_empty(x.shape[0]), self._last_slope)
        samples.copy_(made[tile[0] * frame_samples - begun :][: samples.shape[0]])

    def _stage(self, number: int, x: Tensor, source: Tensor | None, begun: int) -> tuple[Tensor, int]:
        """A stage's output and the number of its first step; `begun` is that of its input."""
        stage, size = self._stages[number], self._step_samples(number)
        span = None if source is None else source[begun * size : (begun + x.shape[0]) * size]
        return stage(x, span), begun * stage.rate

    def _step_samples(self, number: int) -> int:
        """Samples in one step of what enters a stage."""
        product = 1
        for stage in self._stages[number:]:
            product *= stage.rate
        return product

    def tensors(self) -> list[Tensor]:
        """All packed weights."""
        layers: list[Convolution | Upsampling | SourceConvolution | LastConvolution] = [self._first, self._last]
        for stage in self._stages:
            layers += stage.layers()
        return [t for layer in layers for t in (layer.weights, layer.bias)]


def _widened(span: tuple[int, int], steps: int, end: int, begin: int = 0) -> tuple[int, int]:
    return max(begin, span[0] - steps), min(end, span[1] + steps)
