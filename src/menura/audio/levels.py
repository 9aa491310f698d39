"""How loud a recording is at most, apart from clicks: float files can hold single samples far above full scale."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from menura.types import FloatArray

_FEWEST_SAMPLES = 64
"""So many samples near the peak are sound."""
_CLICK_RATIO = 10.0


class PeakMeter:
    """Takes (samples,) in any blocks."""

    def __init__(self) -> None:
        self.peak = 0.0
        """Largest |sample| so far."""
        self._largest: FloatArray = np.zeros(0, dtype=np.float32)

    def push(self, samples: FloatArray) -> None:
        """Take the next samples."""
        magnitudes = np.abs(samples)
        peak = float(magnitudes.max(initial=0.0))
        self.peak = max(self.peak, peak)
        if peak > 1.0:
            joined = np.concatenate([self._largest, magnitudes[magnitudes > 1.0]])
            kept = min(_FEWEST_SAMPLES, len(joined))
            self._largest = np.partition(joined, -kept)[-kept:]

    @property
    def limit(self) -> float:
        """Largest |sample| without the clicks: fewer than 64 samples, over full scale and 20 dB above all others.

        Infinite where there are none.
        """
        several = len(self._largest) == _FEWEST_SAMPLES
        rest = float(self._largest.min()) if several else 1.0
        return rest if self.peak > _CLICK_RATIO * rest else math.inf


def within_full_scale(samples: FloatArray) -> FloatArray:
    """(samples,) without clicks, and scaled down where they still exceed full scale: float files aren't clipped."""
    meter = PeakMeter()
    meter.push(samples)
    peak = min(meter.peak, meter.limit)
    if meter.peak <= 1.0:
        return samples
    return np.asarray(np.clip(samples, -peak, peak) / np.float32(max(peak, 1.0)), dtype=np.float32)
