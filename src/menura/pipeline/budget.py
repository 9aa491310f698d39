"""How much a forward pass may take on at once, and what to do when memory runs out."""

from __future__ import annotations

import ctypes
import functools
import gc
import sys
from collections.abc import Callable

import torch

_SIGNS = ("out of memory", "not enough memory", "can't allocate memory", "DefaultCPUAllocator", "bad_alloc")
"""What torch, its allocators and its convolution libraries say, in RuntimeErrors of no type of their own."""


class FrameBudget:
    """Frames that a pass may have: no limit until memory ran out, then half of what was tried, for good."""

    def __init__(self, least_frames: int) -> None:
        """Begin without a limit.

        Args:
            least_frames: smaller passes are not worth trying.
        """
        self.frames: int | None = None
        self._least_frames = least_frames

    def rows(self, count: int, row_frames: int) -> int:
        """How many of `count` rows of that length may go together; always one."""
        return count if self.frames is None else max(1, min(count, self.frames // max(1, row_frames)))

    def halve(self, tried_frames: int) -> bool:
        """Take note that a pass of that many frames didn't fit; False if there is nothing left to halve."""
        tried = tried_frames if self.frames is None else min(self.frames, tried_frames)
        if tried <= self._least_frames:
            return False
        self.frames = max(self._least_frames, tried // 2)
        return True


def is_out_of_memory(error: BaseException) -> bool:
    """True if an allocation failed, on whatever device."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign.lower() in str(error).lower() for sign in _SIGNS)


def trim_heap() -> None:
    """Give memory that was freed back to the system, where the C library keeps it (glibc). Takes milliseconds.

    Kept, it hardly serves again: the stages' passes allocate in other sizes, so that what each leaves adds up.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    if sys.platform != "linux":
        return None
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # another C library
        return None
    return found


def free_memory(device: torch.device) -> None:
    """Give back what is only kept for reuse."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
