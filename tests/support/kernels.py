"""The compiled kernels for tests, and what they are compared by."""

from __future__ import annotations

import torch
from torch import Tensor

from menura.kernels import library
from menura.kernels.library import KernelLibrary

LAYER_TOLERANCE = 2e-5
"""Of a layer's largest output."""


def built(path: str) -> KernelLibrary:
    status = library._status(path)
    assert status.library is not None, f"the kernels must be built for the tests: {status.reason}"
    return status.library


def paths() -> list[str]:
    """Those that this processor has; the library says so itself."""
    names = [path for path in ("avx2", "avx512") if library._status(path).library is not None]
    assert names, library.kernel_status().reason
    return names


def assert_close(made: Tensor, wanted: Tensor, *terms: Tensor) -> None:
    """Within the tolerance of the layer's scale: of its largest output, or of what was added up, should that cancel."""
    assert made.shape == wanted.shape
    scale = max([1e-3, *(float(tensor.abs().max()) for tensor in (wanted, *terms) if tensor.numel())])
    assert torch.allclose(made.double(), wanted, rtol=0, atol=LAYER_TOLERANCE * scale)


def largest_product(weight: Tensor, x: Tensor) -> Tensor:
    """The largest that a layer of few channels may have added up."""
    return weight.abs().max() * x.abs().max() if x.numel() else torch.zeros(())


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
