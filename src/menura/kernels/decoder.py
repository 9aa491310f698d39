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

    def __call__(self, x: Tensor, source: Tensor | None) -> Tensor:
        """(steps, channels) to (steps * rate, channels) of the next stage."""
        steps = x.shape[0] * self.rate
        excited = self._upsampling(x, x.new_empty(steps, self._channels), LEAKY_SLOPE)
        if self._source is not None and source is not None:
            self._source(source, excited)
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

    def tiled(self, z: Tensor, g: Tensor, source: Tensor | None, core: tuple[int, int]) -> Tensor:
        """See `Synthesizer.decode_tiled`."""
        offsets = self.condition(g)[:, :, 0] + self._first_bias
        rows = [
            self.decode(latent, offset, None if source is None else source[row, 0], core)
            for row, (latent, offset) in enumerate(zip(z, offsets, strict=True))
        ]
        return torch.stack(rows)

    def decode(self, z: Tensor, offset: Tensor, source: Tensor | None, core: tuple[int, int]) -> Tensor:
        """Sound of some frames of a latent.

        Args:
            z: (channels, frames).
            offset: (first layer's channels,): its bias with the speaker's condition.
            source: (frames * frame_samples,) excitation; None for none.
            core: frames [start, stop) to decode.

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
        x, first_step = self._first_stage(x, source, start)
        sound = z.new_empty((core[1] - core[0]) * frame_samples)
        for at in range(core[0], core[1], TILE_FRAMES):
            tile = at, min(at + TILE_FRAMES, core[1])
            samples = sound[(tile[0] - core[0]) * frame_samples : (tile[1] - core[0]) * frame_samples]
            self._tile(x, first_step, source, tile, samples)
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
            output, _ = self._stage(0, x[low:high], source, start + low)
            parts.append(output[(at - low) * stage.rate : (stop - low) * stage.rate].clone())
        return torch.cat(parts), start * stage.rate

    def _tile(self, x: Tensor, first_step: int, source: Tensor | None, tile: tuple[int, int], samples: Tensor) -> None:
        """Sound of some frames from what entered the second stage, whose first step is `first_step`."""
        frame_samples = self._step_samples(0)
        for number in range(1, len(self._stages)):
            per_frame = frame_samples // self._step_samples(number)
            wide = _widened(
                (tile[0] * per_frame, tile[1] * per_frame),
                self._stages[number].context_steps,
                first_step + x.shape[0],
                first_step,
            )
            x, first_step = self._stage(number, x[wide[0] - first_step : wide[1] - first_step], source, wide[0])
        sound = self._last(x, x.new_empty(x.shape[0]), LAST_SLOPE)
        samples.copy_(sound[tile[0] * frame_samples - first_step :][: samples.shape[0]])

    def _stage(self, number: int, x: Tensor, source: Tensor | None, first_step: int) -> tuple[Tensor, int]:
        """A stage's output and the number of its first step; `first_step` is that of its input."""
        stage, size = self._stages[number], self._step_samples(number)
        span = None if source is None else source[first_step * size : (first_step + x.shape[0]) * size]
        return stage(x, span), first_step * stage.rate

    def _step_samples(self, number: int) -> int:
        """Samples in one step of what enters a stage."""
        product = 1
        for stage in self._stages[number:]:
            product *= stage.rate
        return product


def _widened(span: tuple[int, int], steps: int, end: int, begin: int = 0) -> tuple[int, int]:
    return max(begin, span[0] - steps), min(end, span[1] + steps)
