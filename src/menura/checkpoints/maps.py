"""Renames and reshapes weights between the forms in which checkpoints store weight norm.

- RVC's: `weight_g`, `weight_v`.
- torch's parametrization: `parametrizations.weight.original0`, `original1` (newer Applio, and Menura in training).
- folded: one `weight`, as inference wants it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

State = dict[str, Tensor]

_TO_CLASSIC = {
    ".parametrizations.weight.original0": ".weight_g",
    ".parametrizations.weight.original1": ".weight_v",
}
_TO_PARAMETRIZED = {classic: new for new, classic in _TO_CLASSIC.items()}


def _renamed(name: str, endings: Mapping[str, str]) -> str:
    for old, new in endings.items():
        if name.endswith(old):
            return name[: -len(old)] + new
    return name


def classic(state: Mapping[str, Tensor]) -> State:
    """The weights under RVC's names."""
    return {_renamed(name, _TO_CLASSIC): tensor for name, tensor in state.items()}


def parametrized(state: Mapping[str, Tensor]) -> State:
    """The weights under the names of torch's parametrization, as `Synthesizer(config, training=True)` has them."""
    return {_renamed(name, _TO_PARAMETRIZED): tensor for name, tensor in state.items()}


def folded(state: Mapping[str, Tensor]) -> State:
    """The weights with every norm multiplied in, as `Synthesizer(config)` has them: w = g v / |v|, |v| by output."""
    result: State = {}
    source = classic(state)
    for name, tensor in source.items():
        stem = name[: -len("_g")]
        if name.endswith(".weight_g"):
            result[stem] = torch._weight_norm(source[f"{stem}_v"], tensor, 0)
        elif not name.endswith(".weight_v"):
            result[name] = tensor
    return result


def unfolded(state: Mapping[str, Tensor], normed: Iterable[str]) -> State:
    """The weights under RVC's names; folded ones whose `weight_g` is in `normed` split into gain and direction."""
    result = classic(state)
    for gain_name in normed:
        stem = gain_name[: -len("_g")]
        weight = result.get(stem)
        if gain_name not in result and weight is not None and weight.dim() > 1:  # a flat one is damaged and stays
            del result[stem]
            result[gain_name] = weight.flatten(1).norm(dim=1).reshape(-1, *[1] * (weight.dim() - 1))
            result[f"{stem}_v"] = weight
    return result
