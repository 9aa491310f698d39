"""Networks without weights, the names and forms in which files store them, and the memory that they take.

Weight norm comes in three forms: RVC's (`weight_g`, `weight_v`), torch's parametrization (`original0` and `original1`;
newer Applio, and Menura in training), and folded into one `weight`, as inference wants it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

State = dict[str, Tensor]

_FILLS = {Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_}
_SCALINGS = {Tensor.mul, Tensor.__mul__, torch.mul}
_PARAMETRIZED = ".parametrizations.weight.original"


class _NoInitialisation(TorchFunctionMode):
    """Gives shapes in place of first, random weights: for them torch would import its compiler, which takes seconds."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func in _FILLS:
            return args[0] if args else given["tensor"]
        if func is torch.randn:
            return torch.empty(*args, **given)
        if func in _SCALINGS and isinstance(args[1], float):
            return torch.empty_like(args[0])
        if func is torch.norm_except_dim:  # of weight norm's parametrization: (v, power, dim)
            weight, _, dim = args
            return weight.new_empty([size if axis == dim else 1 for axis, size in enumerate(weight.shape)])
        return func(*args, **given)


@contextlib.contextmanager
def without_weights() -> Iterator[None]:
    """Modules built inside have shapes, but hold no memory; load their weights with `assign=True`."""
    with torch.device("meta"), _NoInitialisation():
        yield


@contextlib.contextmanager
def reading_weights() -> Iterator[None]:
    """Raises ValueError with the reason where weights don't fit the network that the block loads them into."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"the weights lack {error}") from None
    except RuntimeError as error:
        detail = re.sub(r"\s+", " ", str(error))[:300]
        raise ValueError(f"the weights have other shapes than the network ({detail})") from error


def network_bytes(network: nn.Module) -> int:
    """Bytes of a network's parameters and buffers, those that are shared counted once, and released ones not at all."""
    return tensor_bytes(chain(network.parameters(), network.buffers()))


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors; the same one counts once, one without memory not at all."""
    return sum(tensor.nbytes for tensor in set(tensors) if not tensor.is_meta)


def classic(state: Mapping[str, Tensor]) -> State:
    """The weights under RVC's names."""
    return {
        name.replace(f"{_PARAMETRIZED}0", ".weight_g").replace(f"{_PARAMETRIZED}1", ".weight_v"): tensor
        for name, tensor in state.items()
    }


def parametrized(state: Mapping[str, Tensor]) -> State:
    """The weights under the names of torch's parametrization, as `Synthesizer(config, training=True)` has them."""
    return {
        name.replace(".weight_g", f"{_PARAMETRIZED}0").replace(".weight_v", f"{_PARAMETRIZED}1"): tensor
        for name, tensor in state.items()
    }


def folded(state: Mapping[str, Tensor]) -> State:
    """The weights with every norm multiplied in, as `Synthesizer(config)` has them: w = g v / |v|, |v| by output."""
    result: State = {}
    source = classic(state)
    for name, tensor in source.items():
        if name.endswith(".weight_g"):
            stem = name.removesuffix("_g")
            result[stem] = torch._weight_norm(source[f"{stem}_v"], tensor, 0)
        elif not name.endswith(".weight_v"):
            result[name] = tensor
    return result


def unfolded(state: Mapping[str, Tensor], normed: Iterable[str]) -> State:
    """The weights under RVC's names; folded ones whose `weight_g` is in `normed` split into gain and direction."""
    result = classic(state)
    for gain_name in normed:
        stem = gain_name.removesuffix("_g")
        weight = result.get(stem)
        if gain_name not in result and weight is not None and weight.dim() > 1:  # a flat one is damaged and stays
            del result[stem]
            result[gain_name] = weight.flatten(1).norm(dim=1).reshape(-1, *[1] * (weight.dim() - 1))
            result[f"{stem}_v"] = weight
    return result
