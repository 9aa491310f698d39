"""A voice's flow, from the prior's latent to the decoder's, on the kernels: one row of a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from menura.kernels.attention import gate, spread
from menura.kernels.cache import Packing
from menura.kernels.convolution import Convolution, bias_of
from menura.kernels.library import KernelLibrary
from menura.kernels.packing import padded_channels
from menura.models.spans import Span
from menura.models.synthesizer import Coupling, Flow

BLOCK_FRAMES = 5000
"""Frames computed at once: 25 MB."""


class _Coupling:
    def __init__(self, library: KernelLibrary, coupling: Coupling, *, flipped: bool, packing: Packing) -> None:
        def packed(weight: Tensor, bias: Tensor | None) -> Convolution:
            return Convolution(library, weight, bias, packing=packing)

        first, wavenet = coupling.pre, coupling.enc
        gated, mixing = (
            [cast("nn.Conv1d", layer) for layer in layers] for layers in (wavenet.in_layers, wavenet.res_skip_layers)
        )
        channels = first.weight.shape[0]
        self._library, self.flipped = library, flipped
        self.condition = wavenet.cond_layer
        self._channels = padded_channels(channels)
        self._first = packed(first.weight.flip(1) if flipped else first.weight, first.bias)
        self._gated = [packed(spread(layer.weight, 2), spread(bias_of(layer), 2)) for layer in gated]
        self._biases = [bias_of(layer).detach().clone() for layer in gated]
        self._added = [packed(layer.weight[:channels], bias_of(layer)[:channels]) for layer in mixing[:-1]]
        self._moves = [packed(weight, bias) for weight, bias in _moves(mixing, coupling.post, channels, flipped)]

    def __call__(self, still: Tensor, moving: Tensor, condition: Tensor) -> None:
        """Undo the coupling: changes `moving` by `still`, both (frames, padded half).

        `condition` (layers * 2 * channels,) is added by the gated convolutions.
        """
        frames = still.shape[0]
        x = self._first(still, still.new_empty(frames, self._channels))
        wide, narrow = still.new_empty(frames, 2 * self._channels), torch.empty_like(x)
        offsets = condition.chunk(len(self._gated))
        for number, layer in enumerate(self._gated):
            offset = spread(self._biases[number] + offsets[number], 2)
            gate(self._library, layer.with_bias(offset)(x, wide), narrow)
            self._moves[number](narrow, moving, residual=moving)
            if number < len(self._added):
                self._added[number](narrow, x, residual=x)


class InverseFlow:
    """A flow's inverse ready to run."""

    def __init__(self, library: KernelLibrary, flow: Flow, packing: Packing) -> None:
        """Pack the weights; of the flow only what the speaker's embedding goes through is kept."""
        self._couplings = [
            _Coupling(library, coupling, flipped=flipped, packing=packing) for coupling, flipped in flow.inverse_order()
        ]
        self._context_frames = flow.context_frames

    @property
    def modules(self) -> list[nn.Module]:
        """What is kept of the network."""
        return [coupling.condition for coupling in self._couplings]

    def reverse(self, z_p: Tensor, mask: Tensor, g: Tensor) -> Tensor:
        """See `Synthesizer.reverse_flow`; a row's mask has to be ones, then zeros."""
        mask, g = mask.expand(z_p.shape[0], -1, -1), g.expand(z_p.shape[0], -1, -1)
        conditions = [coupling.condition(g)[:, :, 0] for coupling in self._couplings]
        z = z_p.new_zeros(z_p.shape[0], z_p.shape[2], z_p.shape[1])
        for row, length in enumerate(mask[:, 0].sum(dim=1).long().tolist()):
            own = [condition[row] for condition in conditions]
            z[row, :length] = self.apply(z_p[row, :, :length].T.float(), own)
        return z.transpose(1, 2)

    def apply(self, z_p: Tensor, conditions: Sequence[Tensor]) -> Tensor:
        """One row's z_p (frames, channels) to z of the same shape; conditions by coupling, (layers * 2 * channels,)."""
        frames, context = z_p.shape[0], self._context_frames
        z = z_p.new_empty(z_p.shape)
        for block in Span(0, frames).tiles(BLOCK_FRAMES):
            wide = block.widened(context, frames)
            halves = [_padded(half) for half in z_p[wide.slice].chunk(2, dim=1)]
            for coupling, condition in zip(self._couplings, conditions, strict=True):
                still, moving = halves[::-1] if coupling.flipped else halves
                coupling(still, moving, condition)
            for half, target in zip(halves, z.chunk(2, dim=1), strict=True):
                target[block.slice] = half[block.shifted(-wide.start).slice, : target.shape[1]]
        return z


def _moves(
    mixing: Sequence[nn.Conv1d], last: nn.Conv1d, channels: int, flipped: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Weight and bias from each layer's gate to its share in what the coupling adds.

    A layer's skip output goes through the last convolution, which has one tap as well: one product of both replaces
    them, and no sum is kept in between. Negative, for the inverse.
    """
    out, bias = -last.weight[:, :, 0].double(), -bias_of(last).double()
    if flipped:
        out, bias = out.flip(0), bias.flip(0)
    for number, layer in enumerate(mixing):
        weight, own = layer.weight[-channels:, :, 0].double(), bias_of(layer)[-channels:].double()
        yield (out @ weight).float()[:, :, None], (out @ own + (bias if number == 0 else 0)).float()


def _padded(half: Tensor) -> Tensor:
    """A copy of (frames, channels) with zeros for the channels that fill up."""
    missing = padded_channels(half.shape[1]) - half.shape[1]
    return F.pad(half, (0, missing)) if missing else half.clone(memory_format=torch.contiguous_format)
