"""What becomes of estimated or given F0 before it is committed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from menura.f0.contour import fill_unvoiced, median_voiced_hz, semitones_between, transpose
from menura.pipeline.recording import reflect
from menura.units import FRAME_SAMPLES, ceil_div

if TYPE_CHECKING:
    from menura.pipeline.windows import Extent
    from menura.types import FloatArray


ENOUGH_VOICED_FRAMES = 3000
"""30 s of voice fix a recording's median to well within a semitone."""

FARTHEST_FRAMES = 30_000
"""They are looked for in the first five minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PitchShift:
    """Transposition, and RVC WebUI's interpolation through unvoiced frames."""

    semitones: float = 0.0
    fill: bool = False
    target_hz: float | None = None
    """The voice's median, where the shift is to be found from the recording's; None where it is known."""
    given: FloatArray | None = None
    """(frames,) final F0 of the whole timeline where the user gave it, else None."""

    def settled(self, f0_hz: FloatArray) -> PitchShift:
        """The shift settled from F0 of the recording; none if there is no voice in it."""
        median = median_voiced_hz(f0_hz)
        if self.target_hz is None or median is None:
            return replace(self, target_hz=None)
        return replace(self, target_hz=None, semitones=semitones_between(median, self.target_hz))

    def finish(self, f0_hz: FloatArray) -> FloatArray:
        shifted = transpose(f0_hz, self.semitones)
        return fill_unvoiced(shifted) if self.fill else shifted


def given_f0(recording_f0_hz: FloatArray, extent: Extent, shift: PitchShift) -> PitchShift:
    """The shift with F0 given for the recording's own frames, reflected at both ends like its samples.

    Args:
        recording_f0_hz: (frames,) from the recording's start; padded with unvoiced frames or cut to its length.
        extent: the recording's timeline.
        shift: how to finish it.
    """
    frames = ceil_div(extent.length_samples, FRAME_SAMPLES)
    own = np.zeros(frames, dtype=np.float32)
    count = min(frames, len(recording_f0_hz))
    own[:count] = recording_f0_hz[:count]
    right = extent.end_frames - frames
    padded = reflect(own, extent.left_frames, max(0, right))[: extent.left_frames + extent.end_frames]
    shift = shift.settled(own)
    return replace(shift, given=shift.finish(padded))
