"""SwiftF0 (Nieradzik 2025, arXiv:2508.18440; package swift-f0, MIT) as an F0Estimator: its weights are inside."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from menura.f0.contour import Float64Array
from menura.system.device import silence_onnxruntime
from menura.types import FloatArray
from menura.units import ANALYSIS_RATE_HZ, FRAME_SAMPLES

_SESSION_BYTES = 1 << 20
_LOW_HZ, _HIGH_HZ = 50.0, 1400.0
"""From about G1, where RVC's pitch classes begin too, to a soprano's F6; wider bands invite octave errors."""
_VOICED_CONFIDENCE = 0.5
"""The package calibrates its confidence so."""


class SwiftEstimator:
    """F0 by SwiftF0, on the CPU, which gives a frame every 16 ms, centred on sample 256 k.

    A frame of 10 ms takes the voicing of the nearest of these (the earlier of two equally near), and between two voiced
    ones log F0 is interpolated. Windows that begin on multiples of eight frames give what the whole recording gives.
    """

    name = "swift"
    core_frames = 400
    """4 s: ONNX Runtime keeps the memory of its largest windows, 35 MB of these and 140 MB of 20 s, in equal time."""
    context_frames = 24
    """The network reaches 2815 samples (17.6 frames) each way, the interpolation one frame of 16 ms more."""

    def __init__(self, *, threads: int | None = None) -> None:
        silence_onnxruntime()
        from swift_f0 import SwiftF0

        # Spinning pools would take the cores from torch between two calls.
        self._detector = SwiftF0(threads=threads or torch.get_num_threads(), spin=False)

    @property
    def resident_bytes(self) -> int:
        return _SESSION_BYTES  # little beside ONNX Runtime's own

    def estimate(self, samples: Tensor) -> Tensor:
        rows = [torch.from_numpy(self._row(row)) for row in samples.float().cpu().numpy()]
        return torch.stack(rows).to(samples.device)

    def _row(self, samples: FloatArray) -> FloatArray:
        result = self._detector.detect(samples, ANALYSIS_RATE_HZ, fmin=_LOW_HZ, fmax=_HIGH_HZ)
        return resampled_contour(result.pitch_hz, result.confidence, len(samples) // FRAME_SAMPLES + 1)


def resampled_contour(pitch_hz: Float64Array, confidence: Float64Array, frames: int) -> FloatArray:
    """(frames,) F0 every 10 ms, 0 where unvoiced, from estimates (n,) every 16 ms from time 0 on, the last one held."""
    # Frame j lies at 160 j / 256 = 5 j / 8 estimates: integers decide which is nearer.
    eighths = 5 * np.arange(frames)
    before = np.minimum(eighths // 8, len(pitch_hz) - 1)
    after = np.minimum(before + 1, len(pitch_hz) - 1)
    part = (eighths % 8) / 8
    voiced = confidence >= _VOICED_CONFIDENCE
    nearest = np.where(part <= 0.5, before, after)
    log_f0 = np.log(np.where(voiced, pitch_hz, 1.0))
    both = voiced[before] & voiced[after]
    value = np.where(both, log_f0[before] * (1 - part) + log_f0[after] * part, log_f0[nearest])
    return np.where(voiced[nearest], np.exp(value), 0.0).astype(np.float32)
