"""Where something was measured: versions, hardware, commit, kernels."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from menura import __version__
from menura.kernels.selftest import kernels_in_words
from menura.system.device import physical_cores, processor_name

_PACKAGES = ("torch", "numpy", "onnxruntime", "faiss-cpu")
_PACKAGE = Path(__file__).resolve().parent.parent
_GIT_TIMEOUT_S = 10.0


def this_machine(device: torch.device, threads: int) -> dict[str, Any]:
    """What this process runs on, as a document.

    `commit` is that of the checkout that runs, with '-dirty' where it was changed, None for an installed package;
    `vector_instructions` are those that torch uses; `kernels` says which compiled convolutions run, and why.
    """
    return {
        "menura": __version__,
        "commit": commit(_PACKAGE),
        "python": platform.python_version(),
        "packages": _versions(),
        "system": platform.platform(),
        "processor": processor_name(),
        "logical_cores": os.cpu_count(),
        "physical_cores": physical_cores(),
        "memory_gb": _memory_gb(),
        "device": str(device) if device.type != "cuda" else f"{device} ({torch.cuda.get_device_name(device)})",
        "threads": threads,
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "kernels": kernels_in_words() if device.type == "cpu" else "torch's: they are for the CPU",
    }


def commit(package: Path) -> str | None:
    """The commit of the checkout that a package's folder lies in, None where it lies in none of its own."""
    root = package.parent.parent
    top = _git(root, "rev-parse", "--show-toplevel")
    # An environment's site-packages may lie in somebody else's checkout.
    if top is None or Path(top).resolve() != root or root / "src" / package.name != package:
        return None
    return _git(root, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_GIT_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _memory_gb() -> float | None:
    if sys.platform == "win32":
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
