"""Gated recurrent units on the kernels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from menura.kernels.library import (
    CHANNEL_MULTIPLE,
    KernelLibrary,
    RecurrentCallArguments,
    RecurrentLayerArguments,
    address,
)

_STATE_VECTORS, _REST_VECTORS = 12, 3
"""Vectors in a panel and in a remainder's panel: kStateVecs and kRestVecs of cpp/recurrent.h."""


class Recurrent(nn.Module):
    """In the place of a GRU of torch."""

    weight: Tensor
    input_weight: Tensor

    def __init__(self, library: KernelLibrary, gru: nn.GRU) -> None:
        """Pack a layer that `fits`; float32, on the CPU."""
        super().__init__()
        endings = ("", "_reverse") if gru.bidirectional else ("",)

        def joined(name: str) -> Tensor:
            return torch.cat([getattr(gru, f"{name}_l0{ending}").detach() for ending in endings]).contiguous()

        matrices = [getattr(gru, f"weight_hh_l0{ending}").detach() for ending in endings]
        panels = torch.cat([_panels(matrix.T, library.panel_channels // 2) for matrix in matrices])
        self._library, self._bias, self._input_bias = library, joined("bias_hh"), joined("bias_ih")
        self.register_buffer("weight", panels)
        self.register_buffer("input_weight", joined("weight_ih"))
        """(directions * 3 * hidden, inputs)"""
        self._arguments = RecurrentLayerArguments(
            weights=self.weight.data_ptr(), bias=self._bias.data_ptr(), hidden=gru.hidden_size, directions=len(endings)
        )

    @staticmethod
    def fits(gru: nn.GRU) -> bool:
        """Whether the kernels take it."""
        return gru.num_layers == 1 and gru.batch_first and bool(gru.bias) and gru.hidden_size % CHANNEL_MULTIPLE == 0

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """(sequences, steps, inputs) to the states (sequences, steps, directions * hidden), from zero.

        The second is for the last state, which torch's GRU returns.
        """
        sequences, steps, _ = x.shape
        gates = F.linear(x, self.input_weight, self._input_bias)
        states = x.new_empty(sequences, steps, self._arguments.directions * self._arguments.hidden)
        call = RecurrentCallArguments(input=address(gates), output=address(states), sequences=sequences, steps=steps)
        self._library.call("menura_run_recurrent", self._arguments, call)
        return states, None


def _panels(matrix: Tensor, lanes: int) -> Tensor:
    """(hidden, gates) in panels of some columns each, flat."""
    wide, narrow = _STATE_VECTORS * lanes, _REST_VECTORS * lanes
    whole = matrix.shape[1] // wide * wide
    parts = (matrix[:, :whole], wide), (matrix[:, whole:], narrow)
    return torch.cat([part.reshape(len(matrix), -1, width).transpose(0, 1).flatten() for part, width in parts])
