"""A voice's flow, from the prior's latent to the decoder's, on the kernels: one row of a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from menura.kernels.attention import gate, spread
from menura.kernels.cache import Packing
from menura.kernels.convolution import Convolution, Epilogue
from menura.kernels.decoder import LayerWeights
from menura.kernels.library import KernelLibrary, Mode
from menura.kernels.packing import padded_channels

BLOCK_FRAMES = 5000
"""Frames that are computed at once: 25 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CouplingWeights:
    """One half of the latent moves by what a WaveNet makes of the other; both keep their halves."""

    first: LayerWeights
    gated: tuple[LayerWeights, ...]
    """Convolutions of a "same" length to twice the channels."""
    mixing: tuple[LayerWeights, ...]
    """Of one tap, to what is added to the signal (not in the last) and what is added to the WaveNet's output."""
    last: LayerWeights
    flipped: bool
    """Whether the first half moves, and the channels of both count backwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowWeights:
    """All couplings in the order in which the inverse applies them."""

    couplings: tuple[CouplingWeights, ...]

    def packed_layers(self) -> Iterator[LayerWeights]:
        """Those whose weights are packed, in a fixed order."""
        for coupling in self.couplings:
            yield from (coupling.first, *coupling.gated, *coupling.mixing, coupling.last)


class _Coupling:
    def __init__(self, library: KernelLibrary, weights: CouplingWeights, packing: Packing) -> None:
        def packed(weight: Tensor, bias: Tensor | None) -> Convolution:
            return Convolution.of(library, weight, bias, packing=packing)

        self._library, self.flipped = library, weights.flipped
        first = weights.first
        self._channels = padded_channels(first.weight.shape[0])
        self._first = packed(first.weight.flip(1) if weights.flipped else first.weight, first.bias)
        self._gated = [packed(spread(layer.weight, 2), spread(layer.bias_or_zeros, 2)) for layer in weights.gated]
        self._biases = [layer.bias_or_zeros.detach().clone() for layer in weights.gated]
        channels = first.weight.shape[0]
        self._added = [packed(layer.weight[:channels], layer.bias_or_zeros[:channels]) for layer in weights.mixing[:-1]]
        self._moves = [packed(weight, bias) for weight, bias in _moves(weights)]
        self.context_frames = sum(layer.weight.shape[2] // 2 for layer in weights.gated)

    def __call__(self, still: Tensor, moving: Tensor, condition: Tensor) -> None:
        """Move a half in place.

        Args:
            still: (frames, padded half).
            moving: of the same shape.
            condition: (layers * 2 * channels,), added by the gated convolutions.
        """
        frames = still.shape[0]
        x = self._first(still, still.new_empty(frames, self._channels))
        wide, narrow = still.new_empty(frames, 2 * self._channels), torch.empty_like(x)
        offsets = condition.chunk(len(self._gated))
        for number, layer in enumerate(self._gated):
            offset = spread(self._biases[number] + offsets[number], 2)
            gate(self._library, layer.with_bias(offset)(x, wide), narrow)
            self._moves[number](narrow, moving, epilogue=Epilogue(mode=Mode.ADD_RESIDUAL, residual=moving))
            if number < len(self._added):
                self._added[number](narrow, x, epilogue=Epilogue(mode=Mode.ADD_RESIDUAL, residual=x))

    def tensors(self) -> list[Tensor]:
        """All packed weights."""
        layers = (self._first, *self._gated, *self._added, *self._moves)
        return [t for layer in layers for t in (layer.weights, layer.bias)]


class InverseFlow:
    """A flow's inverse ready to run."""

    def __init__(self, library: KernelLibrary, weights: FlowWeights, packing: Packing) -> None:
        """Pack all weights, or take them packed.

        Args:
            library: whose kernels will run.
            weights: float32 tensors on the CPU; they are not kept.
            packing: where packed weights may come from.
        """
        self._couplings = [_Coupling(library, coupling, packing) for coupling in weights.couplings]
        self._context_frames = sum(coupling.context_frames for coupling in self._couplings)

    def apply(self, z_p: Tensor, conditions: Sequence[Tensor]) -> Tensor:
        """One row.

        Args:
            z_p: (frames, channels) of the prior's latent.
            conditions: of every coupling what its gated convolutions add, (layers * 2 * channels,).

        Returns:
            (frames, channels) of the decoder's latent.
        """
        frames, context = z_p.shape[0], self._context_frames
        made = z_p.new_empty(z_p.shape)
        for start in range(0, frames, BLOCK_FRAMES):
            stop = min(start + BLOCK_FRAMES, frames)
            low, high = max(0, start - context), min(frames, stop + context)
            halves = [_padded(half) for half in z_p[low:high].chunk(2, dim=1)]
            for coupling, condition in zip(self._couplings, conditions, strict=True):
                still, moving = halves[::-1] if coupling.flipped else halves
                coupling(still, moving, condition)
            for half, place in zip(halves, made.chunk(2, dim=1), strict=True):
                place[start:stop] = half[start - low : stop - low, : place.shape[1]]
        return made

    def tensors(self) -> list[Tensor]:
        """All packed weights."""
        return [t for coupling in self._couplings for t in coupling.tensors()]


def _moves(weights: CouplingWeights) -> Iterator[tuple[Tensor, Tensor]]:
    """Of every layer weight and bias of what a half moves by, as it leaves the gate.

    What a layer adds to the WaveNet's output goes through the last convolution, of one tap as well: one product of both
    does for them, and nothing has to be summed up in between. Negative, for the inverse takes the moves back.
    """
    last, channels = weights.last, weights.first.weight.shape[0]
    out = -last.weight[:, :, 0].double()
    bias = -last.bias_or_zeros.double()
    if weights.flipped:
        out, bias = out.flip(0), bias.flip(0)
    for number, layer in enumerate(weights.mixing):
        weight, own = layer.weight[-channels:, :, 0].double(), layer.bias_or_zeros[-channels:].double()
        yield (out @ weight).float()[:, :, None], (out @ own + (bias if number == 0 else 0)).float()


def _padded(half: Tensor) -> Tensor:
    """A copy of (frames, channels) with zeros for the channels that fill up."""
    padded = half.new_zeros(half.shape[0], padded_channels(half.shape[1]))
    padded[:, : half.shape[1]] = half
    return padded
