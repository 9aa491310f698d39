"""How much memory there is, and how much of it a pass may take."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from menura.models.config import SynthesizerConfig

_ATTENTION_COPIES = 5
"""Score-sized tensors alive at once in the text encoder's relative attention."""

_BYTES_A_FRAME = 4 * 40_000
"""Everything that grows with the length itself: features, latent, source, sound."""

_CPU_FRAMES = 1200
_DEVICE_BYTES_A_FRAME = 500_000
"""Estimated from a full-size voice's decoder at 40 kHz: some copies of its widest layers, 51 kB a frame each."""


def available_memory_bytes() -> int:
    """Memory that new allocations can have without swapping; a quarter of all where the system doesn't say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    except (AttributeError, OSError, ValueError):
        return 2**32


def whole_bytes(frames: int, config: SynthesizerConfig, reach_frames: int | None) -> int:
    """About how much memory one window takes, in bytes.

    Args:
        frames: of the window.
        config: the voice's.
        reach_frames: how far attention reaches; None for all of the window, whose scores grow with its square.
    """
    scores = frames * frames if reach_frames is None else 0
    return _ATTENTION_COPIES * 4 * config.n_heads * scores + _BYTES_A_FRAME * frames


def frame_budget(device: torch.device) -> int:
    """Frames that the windows of recordings converted together may have.

    On a CPU a pass gains from company only while it is short. Measured on one core: four windows of 4 s together cost
    full-size ContentVec and RMVPE a quarter less and the decoder the same, four of 3 s the starter voice's networks a
    quarter less; four of 7 s gain nothing. On CUDA the budget is what half of the free memory holds.
    """
    if device.type != "cuda":
        return _CPU_FRAMES
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return max(_CPU_FRAMES, free // 2 // _DEVICE_BYTES_A_FRAME)
