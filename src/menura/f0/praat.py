"""Praat's autocorrelation method (pm in RVC WebUI), by the library parselmouth, an extra: it is under the GPL."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from menura.types import FloatArray
from menura.units import ANALYSIS_RATE_HZ, FRAME_RATE_HZ, FRAME_SAMPLES

_FLOOR_HZ, _CEILING_HZ, _VOICING_THRESHOLD = 50.0, 1100.0, 0.6
"""RVC's."""
_SEEN_SAMPLES = round(3 * ANALYSIS_RATE_HZ / _FLOOR_HZ)
"""Of a frame: three periods of the lowest pitch. Praat lays as many frames as fit amid what it is given."""


class PraatEstimator:
    """F0 by Praat, on the CPU wherever the samples are."""

    name = "pm"
    core_frames = 2000
    context_frames = 104
    """A frame sees 30 ms each way; the rest is for the path that Praat seeks, and a sound to tell silence by."""
    resident_bytes = 0

    def estimate(self, samples: Tensor) -> Tensor:
        rows = [_contour(row) for row in samples.cpu().numpy()]
        return torch.from_numpy(np.stack(rows)).to(samples.device)


def _contour(samples: FloatArray) -> FloatArray:
    """(samples // 160 + 1,) of (samples,); what is added in front and behind puts frame i on sample 160 i."""
    import parselmouth

    frames = len(samples) // FRAME_SAMPLES + 1
    around = _SEEN_SAMPLES // 2 + FRAME_SAMPLES // 4  # half a frame's step to spare: as many frames fit, no more
    after = (frames - 1) * FRAME_SAMPLES + around - len(samples)
    padded = np.pad(samples.astype(np.float64), (around, after))
    pitch = parselmouth.Sound(padded, ANALYSIS_RATE_HZ).to_pitch_ac(
        time_step=1 / FRAME_RATE_HZ,
        pitch_floor=_FLOOR_HZ,
        pitch_ceiling=_CEILING_HZ,
        voicing_threshold=_VOICING_THRESHOLD,
    )
    return np.asarray(pitch.selected_array["frequency"], dtype=np.float32)
