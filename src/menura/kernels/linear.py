"""Linear layers by the quicker of two libraries that torch brings: MKL, behind `F.linear`, or oneDNN.

On an AMD processor with AVX-512 MKL's product runs at half speed; oneDNN's takes 0.45 of its time there. The choice
follows from the machine alone and is never timed, so that results don't change from one run to the next.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from menura.errors import OptionError
from menura.system.device import processor_maker

SWITCH = "MENURA_LINEAR"
"""Environment variable: `torch` or `onednn` instead of Menura's own choice."""
TORCH, ONEDNN = "torch", "onednn"
MEANS = (TORCH, ONEDNN)

LARGEST_ERROR = 1e-5
"""Of a product's largest value, against float64."""
FEWEST_ROWS = 64
"""Products of fewer rows stay with `F.linear`: what is padded would cost more than it gains."""
_ROWS_BITS = 4
"""Of the number of rows that is computed, if it is large."""

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(..., in), (out, in) and (out,) or None to (..., out)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearStatus:
    """What multiplies, and why."""

    product: Product | None
    """OneDNN's; None for `F.linear`."""
    reason: str


class Linear(nn.Linear):
    """`nn.Linear`, with the same parameters by the same names, computed by `linear`."""

    def __init__(self, in_features: int, out_features: int) -> None:
        """Make a layer with a bias.

        Raises:
            OptionError: the environment asks for means that don't exist (said before the first product).
        """
        _wanted()
        super().__init__(in_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As `F.linear`; by it wherever gradients are recorded, and for what isn't float32 on the CPU.

    Args:
        x: (..., in).
        weight: (out, in).
        bias: (out,) or None.

    Returns:
        (..., out).

    Raises:
        OptionError: the environment asks for means that don't exist.
    """
    product = _product(x, weight, bias)
    return F.linear(x, weight, bias) if product is None else product(x, weight, bias)


def linear_into(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> None:
    """Put a product where it is needed.

    Args:
        out: (rows, out) that is filled; its rows may lie apart.
        x: (rows, in).
        weight: (out, in).
        bias: (out,).

    Raises:
        OptionError: the environment asks for means that don't exist.
    """
    product = _product(x, weight, bias)
    if product is None:
        torch.addmm(bias, x, weight.T, out=out)
    else:
        out.copy_(product(x, weight, bias))


def linear_status(wanted: str | None = None) -> LinearStatus:
    """What multiplies and why, as `menura doctor` says it.

    Args:
        wanted: "torch", "onednn", or "" for Menura's choice; None asks the environment.

    Raises:
        OptionError: the environment asks for means that don't exist.
    """
    return _status(_wanted() if wanted is None else wanted)


def linear_in_words() -> str:
    """Which library multiplies and why."""
    try:
        return linear_status().reason
    except OptionError as error:
        return str(error)


def _wanted() -> str:
    wanted = os.environ.get(SWITCH, "").strip().lower()
    if wanted not in ("", *MEANS):
        raise OptionError(
            f"{SWITCH}: '{wanted}' is not one of {', '.join(MEANS)}; unset it to leave Menura the choice."
        )
    return wanted


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Product | None:
    """OneDNN's where it is to be used and takes these."""
    if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return None
    tensors = (x, weight) if bias is None else (x, weight, bias)
    if any(tensor.dtype != torch.float32 or tensor.device.type != "cpu" for tensor in tensors):
        return None
    if x.numel() < FEWEST_ROWS * weight.shape[1]:
        return None
    return linear_status().product


@cache
def _status(wanted: str) -> LinearStatus:
    if wanted == TORCH:
        return LinearStatus(product=None, reason=f"torch's: {SWITCH}={TORCH}")
    if not wanted and not (processor_maker() == "AMD" and torch.backends.cpu.get_cpu_capability() == "AVX512"):
        return LinearStatus(product=None, reason="torch's: oneDNN's gain on AMD's processors with AVX-512")
    product, problem = _onednn()
    if product is None:
        return LinearStatus(product=None, reason=f"torch's: {problem}")
    why = f"{SWITCH}={ONEDNN}" if wanted else "AMD's processor with AVX-512, where they gain"
    return LinearStatus(product=product, reason=f"oneDNN's: {why}")


def _onednn() -> tuple[Product | None, str]:
    """OneDNN's product, tried; None and why where it can't be had."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None, "this torch has no oneDNN"
    try:
        operator = torch.ops.mkldnn._linear_pointwise.default  # private, so it may go, or change
    except (AttributeError, RuntimeError):
        return None, "this torch offers no product of oneDNN's"

    def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        wanted = _rounded(len(rows))
        padded = rows if wanted == len(rows) else F.pad(rows, (0, 0, 0, wanted - len(rows)))
        made: Tensor = operator(padded, weight, bias, "none", [], "")
        return made[: len(rows)].view(*x.shape[:-1], len(weight))

    try:
        error = _largest_error(product)
    except (RuntimeError, TypeError, ValueError) as problem:
        return None, f"oneDNN's fail ({' '.join(str(problem).split())[:200]})"
    if error > LARGEST_ERROR:
        return None, f"oneDNN's are wrong by {error:.1e}"
    return product, ""


def _rounded(rows: int) -> int:
    """The number of rows that is computed.

    OneDNN prepares code for each, and keeps half a megabyte with it for each layer's shape: so there are few.
    """
    step = max(FEWEST_ROWS, 1 << max(0, rows.bit_length() - _ROWS_BITS))
    return -(-rows // step) * step


@torch.inference_mode()
def _largest_error(product: Product) -> float:
    """Difference from float64 with a bias and without, in parts of the largest value."""
    random = torch.Generator().manual_seed(21)
    x, weight, bias = (torch.randn(*shape, generator=random) for shape in ((2, 37, 48), (40, 48), (40,)))
    errors = []
    for added in (bias, None):
        wanted = F.linear(x.double(), weight.double(), None if added is None else added.double())
        made = product(x, weight, added)
        if made.shape != wanted.shape or made.dtype != torch.float32:
            raise ValueError(f"made {made.dtype} of shape {tuple(made.shape)}")
        error = float((made.double() - wanted).abs().max() / wanted.abs().max())
        errors.append(error if error == error else float("inf"))
    return max(errors)
