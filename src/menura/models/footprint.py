"""How much memory a network holds."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from torch import Tensor, nn


def network_bytes(network: nn.Module) -> int:
    """Bytes of a network's parameters and buffers, those that are shared counted once, and released ones not at all."""
    return tensor_bytes(chain(network.parameters(), network.buffers()))


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors; the same one counts once, one without memory not at all."""
    different = {id(tensor): tensor for tensor in tensors}
    return sum(tensor.numel() * tensor.element_size() for tensor in different.values() if not tensor.is_meta)
