"""What is done to an F0 contour before the synthesizer gets it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from menura.types import FloatArray

COARSE_BINS = 256
"""Rows of RVC's pitch embedding; 0 is its padding, 1 is unvoiced or below the lowest."""
_COARSE_RANGE_HZ = (50.0, 1100.0)


def transpose(f0_hz: FloatArray, semitones: float) -> FloatArray:
    """Shift a contour (frames,); 0 stays 0."""
    if not semitones:
        return f0_hz
    return np.asarray(f0_hz * 2.0 ** (semitones / 12.0), dtype=np.float32)


def median_voiced_hz(f0_hz: FloatArray) -> float | None:
    """Median of the voiced frames of (frames,), None where there is none."""
    voiced = f0_hz[f0_hz > 0]
    return float(np.median(voiced)) if len(voiced) else None


def semitones_between(from_hz: float, to_hz: float) -> float:
    """Whole semitones from one F0 to another, at most two octaves: more would be a mistaken estimate."""
    return float(np.clip(np.rint(12 * np.log2(to_hz / from_hz)), -24, 24))


def coarse_bins(f0_hz: FloatArray) -> npt.NDArray[np.int64]:
    """RVC's pitch classes of (frames,): 1 to 255, even steps of mel (1127 ln(1 + f/700)) from 50 to 1100 Hz."""
    mel = _mel(f0_hz.astype(np.float64))
    low, high = _mel(np.array(_COARSE_RANGE_HZ))
    bins = (mel - low) * (COARSE_BINS - 2) / (high - low) + 1
    classes: npt.NDArray[np.int64] = np.rint(np.clip(bins, 1, COARSE_BINS - 1)).astype(np.int64)
    return classes


def fill_unvoiced(f0_hz: FloatArray) -> FloatArray:
    """Interpolate through unvoiced frames, the ends held (RVC WebUI's way); a contour without voice stays 0."""
    voiced = np.flatnonzero(f0_hz > 0)
    if not len(voiced) or len(voiced) == len(f0_hz):
        return f0_hz
    return np.interp(np.arange(len(f0_hz)), voiced, f0_hz[voiced]).astype(np.float32)


def _mel(hz: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return 1127.0 * np.log1p(hz / 700.0)
