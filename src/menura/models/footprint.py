"""How much memory a network holds."""

from __future__ import annotations

from itertools import chain

from torch import nn


def network_bytes(network: nn.Module) -> int:
    """Bytes of a network's parameters and buffers, those that are shared counted once, and released ones not at all."""
    tensors = {id(tensor): tensor for tensor in chain(network.parameters(), network.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values() if not tensor.is_meta)
