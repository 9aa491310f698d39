"""Linear layers by oneDNN or by the compiled kernels, on AMD's CPUs, where MKL's product, which torch takes, is slower.

With AVX-512 oneDNN takes 0.45 of MKL's time on Zen 5, which saves a tenth of a conversion, and 0.92 to 0.98 on Zen 4,
which is lost where rows have to be padded. HuBERT's layers take the kernels up to Zen 4, with AVX2 as well. The choice
follows from the machine alone and is never timed, so that results don't change from one run to the next.
"""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from menura.kernels.library import CHANNEL_MULTIPLE, CallArguments, KernelLibrary, LayerArguments, address
from menura.system.device import processor_family, processor_maker

_FEWEST_ROWS = 64
"""Padding fewer would cost more than it gains."""
_ZEN_4, _MOST_PADDED = 25, 0.02
"""A family of AMD's processors, and of how many of its rows padding costs no more than oneDNN gains there."""
_FEWEST_WEIGHTS = 1 << 10
"""Smaller layers, such as a vocoder's source has, gain nothing."""
_LARGEST_ERROR = 1e-5
"""Relative to the largest value, against torch's own product."""


def use_onednn(network: nn.Module) -> None:
    """Compute an inference network's linear layers by oneDNN if this machine gains by it. For float32 on the CPU."""
    if onednn_gains():
        for layer in network.modules():
            if type(layer) is nn.Linear and layer.weight.numel() >= _FEWEST_WEIGHTS:
                layer.__class__ = OneDnnLinear


def onednn_gains() -> bool:
    return processor_maker() == "AMD" and torch.backends.cpu.get_cpu_capability() == "AVX512" and onednn_works()


class OneDnnLinear(nn.Linear):
    """`nn.Linear` by other means, where no gradients are recorded and the number of rows suits them."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        rows = x.reshape(-1, x.shape[-1])
        if not _gains_by(len(rows)) or torch.is_grad_enabled() or x.dtype != torch.float32:
            return super().forward(x)
        return onednn_product(rows, self.weight, self.bias).view(*x.shape[:-1], self.out_features)


def use_products(network: nn.Module, library: KernelLibrary) -> None:
    """Compute an inference network's linear layers by the kernels if this machine gains by it; as `use_onednn`."""
    if processor_maker() == "AMD" and processor_family() <= _ZEN_4:
        for layer in network.modules():
            if isinstance(layer, nn.Linear) and fits_kernels(layer.weight, layer.bias):
                layer.__class__ = NativeLinear
                cast("NativeLinear", layer).library = library


class NativeLinear(nn.Linear):
    """`nn.Linear` by the kernels, which take weights as they lie: those that are mapped from a file need no copy."""

    library: KernelLibrary

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        rows = x.reshape(-1, x.shape[-1])
        if len(rows) < _FEWEST_ROWS or torch.is_grad_enabled() or x.dtype != torch.float32:
            return super().forward(x)
        return native_product(self.library, rows, self.weight, self.bias).view(*x.shape[:-1], self.out_features)


def fits_kernels(weight: Tensor, bias: Tensor | None) -> bool:
    """Whether the kernels take a layer of weights (out, in) and a bias (out,)."""
    return bias is not None and weight.is_contiguous() and not any(size % CHANNEL_MULTIPLE for size in weight.shape)


def native_product(library: KernelLibrary, rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As `onednn_product`, of what `fits_kernels`."""
    rows, output = rows.contiguous(), rows.new_empty(len(rows), len(weight))
    numbers = {"channels_in": weight.shape[1], "channels_out": len(weight), "taps": 1}
    layer = LayerArguments(weights=address(weight), bias=address(bias), **numbers)
    steps = {"steps_in": len(rows), "steps_out": len(rows)}
    library.call("menura_product", layer, CallArguments(input=address(rows), output=address(output), **steps))
    return output


def onednn_product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(rows, in), (out, in) and (out,) to (rows, out)."""
    missing = _missing(len(rows))
    padded = F.pad(rows, (0, 0, 0, missing)) if missing else rows
    product: Any = torch.ops.mkldnn._linear_pointwise.default  # private, so it may go, or change
    output: Tensor = product(padded, weight, bias, "none", [], "")
    return output[: len(rows)]


def _missing(rows: int) -> int:
    """OneDNN keeps half a megabyte of code for each number of rows, so they are padded to a few numbers."""
    return -rows % max(_FEWEST_ROWS, 1 << max(0, rows.bit_length() - 4))


def _gains_by(rows: int) -> bool:
    return rows >= _FEWEST_ROWS and (processor_family() != _ZEN_4 or _missing(rows) <= _MOST_PADDED * rows)


@cache
def onednn_works() -> bool:
    """Whether this torch has oneDNN's product, and it is right; tried once."""
    random = torch.Generator().manual_seed(21)
    x, weight, bias = (torch.randn(*shape, generator=random) for shape in ((70, 48), (40, 48), (40,)))
    expected = F.linear(x, weight, bias)
    try:
        error = (onednn_product(x, weight, bias) - expected).abs().max() / expected.abs().max()
    except (AttributeError, RuntimeError, TypeError):
        return False
    return bool(error < _LARGEST_ERROR)
