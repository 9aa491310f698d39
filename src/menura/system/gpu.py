"""GPUs: which there are, whether they work, and what their errors mean. Importing this loads no torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from menura.errors import DeviceError, ResourceError
from menura.system.memory import is_out_of_memory
from menura.system.text import system_text

if TYPE_CHECKING:
    import torch

_DEVICES = Path("/dev")
_DRIVER_FILE = Path("/proc/driver/nvidia/version")
_DRIVER_ANSWERS_S = 10.0
_NVIDIA_NAME = re.compile(r"nvidia\d+")
_DRIVER_VERSION = re.compile(r"\b\d{3}\.\d+(?:\.\d+)?\b")

_LASTING = re.compile(
    r"illegal (?:memory access|instruction|address)|misaligned address|invalid program counter|hardware stack error"
    r"|device-side assert|unspecified launch failure|launch timed out|ECC error|device (?:is |was )?lost"
    r"|(?:CUDA|HIP) error: unknown error|peer GPU memory|NVLink",
    re.IGNORECASE,
)
"""What CUDA and HIP say of errors that never pass: every later call of the process fails too."""


def cuda_devices() -> int:
    """CUDA devices that torch can use; torch is imported only where there is a driver for one."""
    drivers = (_DEVICES / "kfd", _DEVICES / "dxg")
    nvidia = any(_NVIDIA_NAME.fullmatch(path.name) for path in _DEVICES.glob("nvidia*"))
    if sys.platform == "darwin" or (sys.platform != "win32" and not nvidia and not any(d.exists() for d in drivers)):
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def failure_of(device: torch.device) -> str:
    """What a convolution of one number comes to on a device: '' if it works, else the first line of its error.

    It waits for what the device was given before, and tells of errors in that as well.
    """
    import torch

    one = torch.ones(1, 1, 1)
    try:
        torch.conv1d(one.to(device), one.to(device)).cpu()
    except (AssertionError, RuntimeError) as error:
        return _first_line(error)
    return ""


@contextmanager
def device_errors(device: torch.device) -> Iterator[None]:
    """Raise ResourceError where something fails on a GPU, but for want of memory; DeviceError if it's then useless."""
    try:
        with lasting_errors():
            yield
    except RuntimeError as error:
        if device.type == "cpu" or is_out_of_memory(error):
            raise
        if (failure := failure_of(device)) and not is_out_of_memory(RuntimeError(failure)):
            raise _lost(failure) from error
        problem = f"{device.type} reported an error ({_first_line(error)})"
        raise ResourceError(None, problem, "Try another {device}") from error


@contextmanager
def lasting_errors() -> Iterator[None]:
    """Raise DeviceError where the block meets an error after which a GPU does nothing more for this process."""
    try:
        yield
    except RuntimeError as error:
        if not _LASTING.search(str(error)):
            raise
        raise _lost(_first_line(error)) from error


def _lost(failure: str) -> DeviceError:
    advice = "Start again: what is finished is kept. If it comes again, update the GPU's driver, or use {device=cpu}"
    return DeviceError(None, f"the GPU has stopped working for this process ({failure})", advice)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(" .:")


def nvidia_driver() -> str:
    """The version of NVIDIA's driver, 'of unknown version' where only its being there is known, '' without one."""
    if found := _DRIVER_VERSION.search(system_text(_DRIVER_FILE)):
        return found[0]
    if (command := shutil.which("nvidia-smi")) is not None:  # Windows, and Linux within it
        asked = [command, "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            run = subprocess.run(asked, capture_output=True, text=True, timeout=_DRIVER_ANSWERS_S, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        found = _DRIVER_VERSION.search(run.stdout)
        return found[0] if found and run.returncode == 0 else ""
    library = Path(os.environ.get("SYSTEMROOT", "C:/Windows")) / "System32" / "nvcuda.dll"
    return "of unknown version" if sys.platform == "win32" and library.exists() else ""


def unused_gpu() -> str:
    """Why this torch can't use a GPU that is there, and what to do; '' where it can, and where there is none."""
    import torch

    python = f'"{sys.executable}"' if " " in sys.executable else sys.executable
    run = (
        f"run {python} -m pip install --force-reinstall torch --index-url URL, "
        "with the URL that the install selector on pytorch.org shows for"
    )
    if torch.cuda.is_available():
        if not (failure := failure_of(torch.device("cuda"))):
            return ""
        major, minor = torch.cuda.get_device_capability(0)
        what = f"{torch.cuda.get_device_name(0)} (compute capability {major}.{minor})"
        return f"This PyTorch can't compute on {what}: {failure}. To have one that can, {run} it."
    if "CUDA_VISIBLE_DEVICES" in os.environ or not (driver := nvidia_driver()):
        return ""
    there = f"NVIDIA's driver ({driver}) is installed, but this PyTorch"
    if torch.version.cuda is None:
        return f"{there} was built without CUDA. To use the GPU, {run} CUDA."
    return f"{there}, built for CUDA {torch.version.cuda}, can't use it. Update the driver, or {run} an older CUDA."
