"""Where, with how many threads and in what environment a process computes. Importing this loads no torch."""

from __future__ import annotations

import gc
import logging
import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from menura.errors import OptionError
from menura.system.gpu import failure_of
from menura.system.memory import keep_heap
from menura.system.text import system_text

if TYPE_CHECKING:
    import torch

_log = logging.getLogger("menura")

_CPU_TOPOLOGY = Path("/sys/devices/system/cpu")
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
_CPU_INFO = Path("/proc/cpuinfo")
_OWN_STATUS = Path("/proc/self/status")
_MAKERS = {"AuthenticAMD": "AMD", "GenuineIntel": "Intel"}
_DENORMAL = 1e-39
_HALF_CAPABILITY = (7, 0)
"""Of CUDA: GPUs from Volta on have units for half precision, older ones are slower in it."""
_COLLECTED_EVERY = 10_000
"""New objects, instead of 700 or 2000: while torch is imported there is next to no garbage among them to be found."""
_OPENMP_WAIT = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
"""How long OpenMP's threads wait busily for each other: about 10 µs (GCC's runtime) and 1 ms (Intel's and LLVM's).

By default it is 3 ms and 200 ms at every barrier. Beside other busy programs that takes the time from the very threads
that are waited for: with eight of them on two cores, 7 s of speech took 65 s instead of 23 s.
"""


def resolve_device(name: str) -> torch.device:
    """A device by its name: "auto" (CUDA, else MPS, else the CPU), "cpu", "cuda", "cuda:N" or "mps".

    A GPU is tried before it is answered. One that doesn't work is no choice of "auto", which logs a warning once.

    Raises OptionError where this machine has no such device, it doesn't work, or there is no such name.
    """
    import torch

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        device = torch.device("cuda" if cuda else "mps" if mps else "cpu")
        return device if _works(device) else torch.device("cpu")
    kind, _, number = name.partition(":")
    problem = ""
    if kind not in ("cpu", "cuda", "mps") or (":" in name and not (kind == "cuda" and number.isdecimal())):
        problem = f"'{name}' is not one of auto, cpu, cuda, cuda:N, mps"
    elif kind == "cuda" and not cuda:
        problem = "no usable NVIDIA or AMD GPU, or PyTorch was built without support for it"
    elif number and int(number) >= torch.cuda.device_count():
        problem = f"no GPU {number}; the last one is cuda:{torch.cuda.device_count() - 1}"
    elif kind == "mps" and not mps:
        problem = "no Apple GPU"
    elif kind != "cpu" and (failure := failure_of(torch.device(name))):
        problem = f"this PyTorch can't compute on {name} ({failure})"
    if problem:
        raise OptionError(None, problem, "Use {device=auto} or {device=cpu}; 'menura doctor' says more", "device")
    return torch.device(name)


@cache
def _works(device: torch.device) -> bool:
    failure = "" if device.type == "cpu" else failure_of(device)
    if failure:
        _log.warning("the GPU can't be used, the CPU computes: %s ('menura doctor' says more)", failure)
    return not failure


def physical_cores() -> int:
    """Cores this process may use: hyper-threads counted once, within its affinity and its control group's quota."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    # A core by the logical CPUs that are its threads; where the system doesn't say, each is one.
    cores = {system_text(_CPU_TOPOLOGY / f"cpu{cpu}/topology/thread_siblings_list") or cpu for cpu in allowed}
    return max(1, int(min([len(cores), *_quotas()])))


def _quotas() -> Iterator[float]:
    """CPUs within the quotas of the process's control groups (v2 and v1), on all their levels."""
    for line in system_text(_OWN_CGROUP).splitlines():
        _, controllers, path = [*line.split(":", 2), "-", "-"][:3]
        mounts = [""] if not controllers else [controllers, "cpu"] if "cpu" in controllers.split(",") else []
        own = [_CGROUPS / mount / path.lstrip("/") for mount in mounts]
        for folder in (level for lowest in own for level in (lowest, *lowest.parents)):
            for names in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
                numbers = " ".join(system_text(folder / name) for name in names).split()
                if len(numbers) == 2 and all(map(str.isdecimal, numbers)):  # "max" or -1 for none
                    yield int(numbers[0]) / int(numbers[1])


def default_threads() -> int:
    """Threads of a process of Menura's own: OMP_NUM_THREADS where it is set, else the physical cores."""
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(asked) if asked.isdecimal() and int(asked) else physical_cores()


def prepare_own_process() -> None:
    """Set up a process that is Menura's own, before torch is loaded; what the user set stays."""
    keep_heap()
    gc.set_threshold(_COLLECTED_EVERY)
    silence_onnxruntime()
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # what Apple's GPUs lack is computed on the CPU
    os.environ.setdefault("OMP_NUM_THREADS", str(default_threads()))
    if not os.environ.keys() & {*_OPENMP_WAIT, "OMP_WAIT_POLICY"}:
        os.environ.update(_OPENMP_WAIT)


def silence_onnxruntime() -> None:
    """Before its import: switch off ONNX Runtime's telemetry, which numbers the computer and reports to its maker."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def configure_torch(threads: int | None = None, *, cudnn: bool = True, exact: bool = False) -> None:
    """Set torch's compute threads, turn cuDNN and TF32 off for the whole process, where that is asked for."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    if not cudnn:
        torch.backends.cudnn.enabled = False
    if exact:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def in_half(precision: str, device: torch.device) -> bool:
    """Whether what gains by it is computed in half precision. Raises OptionError where the device isn't made for it."""
    import torch

    if precision == "fp16" and device.type != "cuda":
        problem = f"half precision is for NVIDIA and AMD GPUs, and the device is {device}"
        raise OptionError(None, problem, "Use {precision=auto}", "precision")
    able = device.type == "cuda" and torch.cuda.get_device_capability(device) >= _HALF_CAPABILITY
    return precision == "fp16" or (precision == "auto" and able)


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on a device: to CUDA by way of pinned memory, so that nothing has to wait for what it is doing."""
    if tensor.device.type == "cpu" and device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Denormal numbers, which take many times as long, are zero in this thread, and those it starts, in the block."""
    import numpy as np
    import torch

    flushed = float(np.float32(_DENORMAL) * np.float32(1)) == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        if not flushed:
            torch.set_flush_denormal(False)


def processor_name() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()


def processor_maker() -> str:
    """'AMD' or 'Intel'; '' for other makers, and where the system doesn't say."""
    vendor = _cpu_info("vendor_id") or platform.processor()
    return next((maker for name, maker in _MAKERS.items() if name in vendor), "")


@cache
def processor_family() -> int:
    """By its maker's count (AMD's: 25 for Zen 3 and 4, 26 for Zen 5); 0 where the system doesn't say."""
    found = re.search(r"\d+", _cpu_info("cpu family") or platform.processor().partition("Family")[2])
    return int(found.group()) if found else 0


def has_bfloat16() -> bool:
    """Whether the CPU computes in bfloat16; False where the system doesn't say."""
    return "avx512_bf16" in _cpu_info("flags").split()


def _cpu_info(name: str) -> str:
    """A field of Linux's /proc/cpuinfo for the first CPU; '' if there is none."""
    fields = (line.partition(":") for line in system_text(_CPU_INFO).splitlines())
    return next((value.strip() for field, _, value in fields if field.strip() == name), "")


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MiB; 0 where the system doesn't say."""
    # Linux: unlike getrusage, not inherited from the process that started this one
    if found := re.search(r"VmHWM:\s*(\d+)", system_text(_OWN_STATUS)):
        return int(found[1]) / 2**10
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB on Linux
