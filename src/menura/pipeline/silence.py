"""Where a recording is silent for long enough that no network needs to see it (`--split-silence`).

Silent is what lies 50 dB below the recording's own speech and below -50 dBFS for half a second and more. The 0.15 s
after a sound and the 0.1 s before one are kept, so that no release and no attack is cut; the rest is faded over 40 ms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from menura.pipeline.windows import Span
from menura.types import FloatArray
from menura.units import FRAME_SAMPLES

BELOW_SPEECH_DB = 50.0
CEILING_DB = -50.0
SHORTEST_FRAMES = 50
RELEASE_FRAMES = 15
ATTACK_FRAMES = 10
FADE_FRAMES = 4

_STEPS_A_DB = 2
_SPEECH_PERCENTILE = 90
_FAR = 1 << 40


class SilenceFinder:
    """Takes a recording's 16 kHz samples in any blocks; two bytes a frame are kept."""

    def __init__(self) -> None:
        self._pending: FloatArray = np.zeros(0, dtype=np.float32)
        self._levels: list[npt.NDArray[np.int16]] = []

    def push(self, samples: FloatArray) -> None:
        held = np.concatenate([self._pending, samples])
        frames = len(held) // FRAME_SAMPLES
        self._pending = held[frames * FRAME_SAMPLES :]
        self._measure(held[: frames * FRAME_SAMPLES].reshape(frames, FRAME_SAMPLES))

    def finish(self, gain: float) -> Silences:
        """The silent spans of all that was pushed, as it is after a gain."""
        if len(self._pending):
            self._measure(self._pending[None, :])
        levels = np.concatenate([np.zeros(0, np.int16), *self._levels]) / _STEPS_A_DB + 20 * np.log10(gain)
        speech = levels[levels > CEILING_DB]
        loud_db = float(np.percentile(speech, _SPEECH_PERCENTILE)) if len(speech) else 0.0
        quiet = levels < min(loud_db - BELOW_SPEECH_DB, CEILING_DB)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], quiet.astype(np.int8), [0]])))
        runs = [(int(a), int(b)) for a, b in edges.reshape(-1, 2) if b - a >= SHORTEST_FRAMES]
        trimmed = [
            (a + RELEASE_FRAMES if a else -_FAR, b - ATTACK_FRAMES if b < len(levels) else _FAR) for a, b in runs
        ]
        return Silences(spans=tuple(trimmed), frames=len(levels))

    def _measure(self, frames: FloatArray) -> None:
        power = np.mean(np.square(frames, dtype=np.float64), axis=1)
        levels_db = 10 * np.log10(np.maximum(power, 1e-20))  # float files reach far above 0 dB
        self._levels.append(np.rint(_STEPS_A_DB * levels_db).astype(np.int16))


@dataclass(frozen=True, slots=True, kw_only=True)
class Silences:
    """Spans of frames [start, end) without sound, in order; the first and the last may reach beyond the recording."""

    spans: tuple[Span, ...] = ()
    frames: int = 0
    """Of the recording."""

    @property
    def skipped_frames(self) -> int:
        return sum(min(end, self.frames) - max(start, 0) for start, end in self.spans)

    def sounding(self, start: int, end: int) -> tuple[Span, ...]:
        """What of [start, end) is to be computed: all but the silent spans, their fades included."""
        pieces, at = [], start
        for quiet_start, quiet_end in self.spans:
            stop, resume = quiet_start + FADE_FRAMES, quiet_end - FADE_FRAMES
            if resume <= at:
                continue
            if stop >= end:
                break
            if stop > at:
                pieces.append((at, stop))
            at = resume
        if at < end:
            pieces.append((at, end))
        return tuple(pieces)

    def hides(self, start: int, end: int) -> bool:
        """True if all of [start, end) is in one silent span."""
        return any(quiet_start <= start and end <= quiet_end for quiet_start, quiet_end in self.spans)

    def gate(self, start: int, end: int, frame_samples: int) -> FloatArray | None:
        """Factors for the samples of frames [start, end): 1 where there is sound, 0 in silence; None for all 1."""
        near = [span for span in self.spans if span[0] < end and span[1] > start]
        if not near:
            return None
        places = [place for a, b in near for place in (a, a + FADE_FRAMES, b - FADE_FRAMES, b)]
        at = start + (np.arange((end - start) * frame_samples) + 0.5) / frame_samples
        return np.interp(at, places, [1.0, 0.0, 0.0, 1.0] * len(near)).astype(np.float32)
