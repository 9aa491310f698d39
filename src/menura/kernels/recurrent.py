"""Gated recurrent units on the kernels."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurrent:
    """A layer of torch's GRU, and the tensors that its arguments point to."""

    library: KernelLibrary
    input_weights: Tensor
    """(directions * 3 * hidden, inputs)"""
    input_bias: Tensor
    weights: Tensor
    bias: Tensor
    arguments: RecurrentLayerArguments

    @staticmethod
    def fits(gru: nn.GRU) -> bool:
        """Whether the kernels take it."""
        return gru.num_layers == 1 and gru.batch_first and bool(gru.bias) and gru.hidden_size % CHANNEL_MULTIPLE == 0

    @classmethod
    def of(cls, library: KernelLibrary, gru: nn.GRU) -> Recurrent:
        """Pack a layer that `fits`; float32, on the CPU."""
        endings = ("", "_reverse") if gru.bidirectional else ("",)

        def joined(name: str) -> Tensor:
            return torch.cat([getattr(gru, f"{name}_l0{ending}").detach() for ending in endings]).contiguous()

        matrices = [getattr(gru, f"weight_hh_l0{ending}").detach() for ending in endings]
        weights = torch.cat([_panels(matrix.T, library.panel_channels // 2) for matrix in matrices])
        bias = joined("bias_hh")
        arguments = RecurrentLayerArguments(
            weights=weights.data_ptr(), bias=bias.data_ptr(), hidden=gru.hidden_size, directions=len(endings)
        )
        return cls(
            library=library,
            input_weights=joined("weight_ih"),
            input_bias=joined("bias_ih"),
            weights=weights,
            bias=bias,
            arguments=arguments,
        )

    def __call__(self, x: Tensor) -> Tensor:
        """(sequences, steps, inputs) to the states (sequences, steps, directions * hidden), from zero."""
        sequences, steps, _ = x.shape
        gates = F.linear(x, self.input_weights, self.input_bias)
        states = x.new_empty(sequences, steps, self.arguments.directions * self.arguments.hidden)
        call = RecurrentCallArguments(
            input=address(gates),
            output=address(states),
            sequences=sequences,
            steps=steps,
            threads=torch.get_num_threads(),
        )
        self.library.call("menura_run_recurrent", self.arguments, call)
        return states


def _panels(matrix: Tensor, lanes: int) -> Tensor:
    """(hidden, gates) in panels of some columns each, flat."""
    wide, narrow = _STATE_VECTORS * lanes, _REST_VECTORS * lanes
    whole = matrix.shape[1] // wide * wide
    parts = (matrix[:, :whole], wide), (matrix[:, whole:], narrow)
    return torch.cat([part.reshape(len(matrix), -1, width).transpose(0, 1).flatten() for part, width in parts])
