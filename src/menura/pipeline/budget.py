"""How many frames a forward pass may take on at once."""

from __future__ import annotations

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


class FrameBudget:
    """Frames that a pass may have: no limit until memory ran out, then half of what was tried, for good."""

    def __init__(self, least_frames: int, frames: int | None = None) -> None:
        """Begin with a limit, or without.

        Args:
            least_frames: smaller passes are not worth trying.
            frames: the limit.
        """
        self.frames = frames
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
