"""What torch says of GPUs, pretended."""

from __future__ import annotations

import pytest
import torch

from menura.system import device

GIB = 2**30


def fake_memory(patch: pytest.MonkeyPatch, *, free: float, reserved: float, allocated: float) -> None:
    """Of a CUDA device, in GiB: torch holds `reserved`, of which `allocated` are in use."""
    patch.setattr(torch.cuda, "mem_get_info", lambda _device=None: (int(free * GIB), 24 * GIB))
    patch.setattr(torch.cuda, "memory_reserved", lambda _device=None: int(reserved * GIB))
    patch.setattr(torch.cuda, "memory_allocated", lambda _device=None: int(allocated * GIB))


def fake_gpus(patch: pytest.MonkeyPatch, count: int, failure: str = "") -> None:
    """So many CUDA devices, on each of which a convolution works, or fails by such an error."""
    patch.setattr(torch.cuda, "is_available", lambda: count > 0)
    patch.setattr(torch.cuda, "device_count", lambda: count)
    patch.setattr(device, "failure_of", lambda tried: "" if tried.type == "cpu" else failure)
    patch.setattr(device, "_works", device._works.__wrapped__)
