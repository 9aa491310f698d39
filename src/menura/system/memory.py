"""How much memory there is, what to do when it runs out, and giving it back. Importing this loads no torch."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from menura.errors import ResourceError
from menura.system.text import system_text

if TYPE_CHECKING:
    import torch

_SIGNS = re.compile(
    r"out of memory|not enough memory|can(?:'t|not) allocate memory|DefaultCPUAllocator|bad_alloc"
    r"|\w_ALLOC(?:ATION)?_FAILED|StatusAllocFailed|rocblas_status_memory_error"  # cuBLAS, cuDNN, cuFFT, ROCm's kin
    r"|_STATUS_NOT_INITIALIZED|CUDNN_STATUS_INTERNAL_ERROR"  # there was no memory for their handles and workspaces
    r"|unable to find an engine to execute this computation"
    r"|could not (?:create|execute) a primitive(?! descriptor)",
    re.IGNORECASE,
)
"""What torch, its allocators and its libraries say in RuntimeErrors of no type of their own; the last is oneDNN's."""

_FILE_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+p \S+ \S+ [1-9][0-9]* ", re.MULTILINE)
"""Of /proc/self/maps: a range of the process's own whose inode isn't 0, so that a file is behind it."""

_DONT_NEED = 4  # MADV_DONTNEED of Linux, the only system on which any pages are found

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Of glibc's mallopt."""
_KEPT_BYTES, _MOST_IN_OLD_GLIBC = 1 << 28, 1 << 25

_LEAST_ADDRESSES_BYTES = 1_500_000_000
"""Address space that a conversion with a starter voice takes; with less, libraries abort the process or fail oddly."""


def check_address_space() -> None:
    """Raise ResourceError where the process's address space is limited too narrowly (`ulimit -v`)."""
    try:
        import resource
    except ImportError:  # Windows
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < _LEAST_ADDRESSES_BYTES:
        problem = f"the address space is limited to {limit / 1e6:.0f} MB"
        raise ResourceError(None, problem, "Allow at least 1500 MB (ulimit -v)")


def available_memory_bytes() -> int:
    """Memory that new allocations can have without swapping; a quarter of all where the system doesn't say."""
    if found := re.search(r"MemAvailable:\s*(\d+)", system_text(Path("/proc/meminfo"))):
        return int(found[1]) * 1024
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    except (AttributeError, OSError, ValueError):
        return 2**32


def free_bytes(device: torch.device) -> int:
    """Memory that new tensors on a device can have, with what torch keeps there for reuse."""
    import torch

    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + kept)
    if device.type == "mps" and hasattr(torch.mps, "recommended_max_memory"):  # of the system's; since torch 2.5
        recommended = torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
        return min(available_memory_bytes(), max(0, recommended))
    return available_memory_bytes()


def is_out_of_memory(error: BaseException) -> bool:
    """True if an allocation failed, on whatever device."""
    import torch

    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and _SIGNS.search(str(error)) is not None


def trim_heap() -> None:
    """Give what was freed, and glibc keeps, back to the system: the stages' passes allocate in sizes of their own."""
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def keep_heap() -> None:
    """Have glibc keep what is freed, in one heap for all threads, for a process of Menura's own; what a user set stays.

    By default each pass of the networks asks the system for its memory anew, the more so in a thread with a heap of its
    own: a tenth of the time went there. `trim_heap` gives it back after long passes.
    """
    if sys.platform == "linux" and not any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        with suppress(AttributeError):  # another C library
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(_M_ARENA_MAX, 1)
            mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
            if not mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES):
                mallopt(_M_MMAP_THRESHOLD, _MOST_IN_OLD_GLIBC)


def free_memory(device: torch.device) -> None:
    """Give back what is only kept for reuse."""
    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


@contextmanager
def enough_memory(advice: str) -> Iterator[None]:
    """Raise ResourceError with this advice where the block runs out of memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError(None, "not enough memory", advice) from error


class MappedPages:
    """The pages that weights mapped from files lie on; tensors elsewhere have none.

    For weights that nothing ever changes: what was written to such a page would be lost. They stay alive with this
    object. Pages that were given back stay in the system's cache of files and come back when they are touched.
    """

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        weights = [tensor for tensor in tensors if tensor.device.type == "cpu" and tensor.numel()]
        self._kept = [tensor.untyped_storage() for tensor in weights]
        maps, page = system_text(Path("/proc/self/maps")) if weights else "", mmap.PAGESIZE
        mappings = [(int(match[1], 16), int(match[2], 16)) for match in _FILE_MAPPING.finditer(maps)]
        spans = [(tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes) for tensor in weights]
        mapped = [(a, b) for a, b in spans if any(low <= a and b <= high for low, high in mappings)]
        whole = [(-(-a // page) * page, b // page * page) for a, b in mapped]
        self._spans = [(first, last) for first, last in whole if first < last]

    def release(self) -> None:
        """Give them back. Takes milliseconds, and reading them again tens of them for hundreds of megabytes."""
        for first, last in self._spans:
            ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _DONT_NEED)
