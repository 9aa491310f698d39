"""Networks built without weights, for checkpoints that bring their own, and what can be wrong with those."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_FILLS = {Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_}
_SCALINGS = {Tensor.mul, Tensor.__mul__, torch.mul}


class _NoInitialisation(TorchFunctionMode):
    """Gives shapes where a module would compute its first, random weights.

    On meta tensors their values are nothing, but computing them makes torch import its compiler, which takes seconds.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _shaped(func, args, kwargs or {})


def _shaped(func: Callable[..., Any], args: tuple[Any, ...], given: Mapping[str, Any]) -> Any:
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


def normed_parts(tensors: Mapping[str, Tensor], layer: str) -> tuple[Tensor, Tensor]:
    """Gain and direction of a layer's weight norm, by either style of names that torch has written."""
    if f"{layer}.weight_g" in tensors:
        return tensors[f"{layer}.weight_g"], tensors[f"{layer}.weight_v"]
    first, second = (tensors[f"{layer}.parametrizations.weight.original{n}"] for n in (0, 1))
    return first, second
