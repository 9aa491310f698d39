"""A network's optimizer, its step (gradients scaled, shared, clipped, applied), and the numbers it computes in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from menura.system.device import has_bfloat16
from menura.train.events import OnEvent, ignore
from menura.train.learning.batches import Example

_BETAS = (0.8, 0.99)
_FIRST_SCALE = 2.0**16
_LEAST_SCALE = 1.0
"""Gradients that overflow float16 even so are none."""
LEFT_OUT = -1.0
"""In place of a gradient's norm: the step was left out."""
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    return torch.autocast(device.type, dtype=_DTYPES[precision]) if precision in _DTYPES else nullcontext()


def fastest_precision(device: torch.device) -> str:
    """The precision "bf16" or "fp16" where the device is fast in it, else "fp32"."""
    if device.type == "cuda":
        # Before Ampere (8) GPUs have no bfloat16, which torch emulates; before Volta (7) they are slow in float16 too.
        major = torch.cuda.get_device_capability(device)[0]
        return "bf16" if major >= 8 or torch.version.hip else "fp16" if major >= 7 else "fp32"
    return "bf16" if device.type == "cpu" and has_bfloat16() else "fp32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """The processes that train together, as one of them sees them."""

    rank: int = 0
    world: int = 1
    average: Callable[[Tensor], Tensor] | None = None
    """The mean of a tensor over all processes; None where there is one."""
    tell: OnEvent = ignore
    """Brings events to the session, from the process that leads."""

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, example: Example) -> Example:
        """Every `world`-th row of a batch."""
        return example if self.world == 1 else example.mapped(lambda tensor: tensor[self.rank :: self.world])

    def average_gradients(self, model: nn.Module) -> None:
        """Give all processes the gradients of the whole batch."""
        if self.average is not None:  # by hand: a wrapped module doesn't see calls of its parts
            gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            flat = self.average(torch.cat([gradient.flatten() for gradient in gradients]))
            means = torch.split(flat, [gradient.numel() for gradient in gradients])
            for gradient, mean in zip(gradients, means, strict=True):
                gradient.copy_(mean.view_as(gradient))


class Stepper:
    """Steps one network.

    With "fp16" losses are multiplied so that small gradients don't vanish in float16 (Micikevicius et al., Mixed
    Precision Training, 2018). Where large ones overflow, the step is left out and the factor halved.
    """

    def __init__(self, model: nn.Module, rate: float, *, device: torch.device, precision: str) -> None:
        self.model = model
        self._fused = device.type != "mps"  # torch 2.4 has no fused one there
        self._optimizer = torch.optim.AdamW(
            model.parameters(), lr=rate, betas=_BETAS, weight_decay=0.01, eps=1e-9, fused=self._fused
        )
        self._scaler = torch.amp.GradScaler(device.type, init_scale=_FIRST_SCALE, enabled=precision == "fp16")

    def step(self, loss: Tensor, peers: Peers, max_gradient: float) -> Tensor:
        """Minimise a loss by one step; the gradient's norm, or LEFT_OUT where it overflowed and nothing was done.

        Nothing here waits for a GPU: whether to leave the step out is decided there.
        """
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        peers.average_gradients(self.model)
        self._scaler.unscale_(self._optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), max_gradient)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if not self._scaler.is_enabled():
            return norm
        scale = self._scaler.scale(torch.ones_like(norm))  # `get_scale` would wait
        return torch.where(~norm.isfinite() & (scale >= _LEAST_SCALE), LEFT_OUT, norm)

    def set_rate(self, rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs; the optimizer's own layout where nothing is scaled."""
        scaler = self._scaler.state_dict()
        return self._optimizer.state_dict() | ({"scaler": scaler} if scaler else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for group in state["param_groups"]:
            group["fused"] = self._fused
        self._optimizer.load_state_dict({name: state[name] for name in ("state", "param_groups")})
        if self._scaler.is_enabled() and "scaler" in state:
            self._scaler.load_state_dict(state["scaler"])
