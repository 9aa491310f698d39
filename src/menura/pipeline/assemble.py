"""Where neighbouring segments are cut, and how their sound is joined."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from menura.types import FloatArray

_QUIET_WINDOW_FRAMES = 5


def quietest_frame(level: FloatArray, start_frames: int) -> int:
    """Absolute frame around which the sum of |x| over 50 ms is least; the middle one among equals.

    Args:
        level: (frames,) sum of |x| of each frame from `start_frames` on, at least 5.
        start_frames: absolute frame of level[0].
    """
    sums = np.convolve(level.astype(np.float64), np.ones(_QUIET_WINDOW_FRAMES), mode="valid")
    best = np.flatnonzero(sums <= sums.min() * (1 + 1e-9))
    middle = (len(sums) - 1) / 2
    return int(start_frames + _QUIET_WINDOW_FRAMES // 2 + best[np.argmin(np.abs(best - middle))])


class Assembler:
    """Joins segments that overlap by a crossfade into one gapless signal."""

    def __init__(self) -> None:
        self._tail: FloatArray = np.zeros(0, dtype=np.float32)

    def push(self, samples: FloatArray, overlap_samples: int) -> FloatArray:
        """Take the next segment and give what is final.

        Args:
            samples: (samples,) whose first len(tail) overlap the segment before.
            overlap_samples: how many at its end overlap the segment after (0 for the last one).
        """
        fade = len(self._tail)
        if fade:
            ramp = (np.arange(fade, dtype=np.float32) + 0.5) / fade
            samples = samples.copy()
            samples[:fade] = self._tail * (1 - ramp) + samples[:fade] * ramp
        keep = len(samples) - overlap_samples
        self._tail = samples[keep:].copy()
        return samples[:keep]
