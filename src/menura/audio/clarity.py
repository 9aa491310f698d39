"""Whether speech stands out from noise, music and other voices, and from the echoes of its room: without any network.

Speech has pauses, and sounds that end at once. What else is heard raises the level that a recording never falls
below; echoes let it fall slowly only. Both are seen in the levels of some frequency bands over some seconds.
"""

from __future__ import annotations

import numpy as np

from menura.types import FloatArray
from menura.units import ANALYSIS_RATE_HZ

_FRAME_SAMPLES, _HOP_SAMPLES = 512, 400
_EDGES_HZ = (100, 300, 700, 1300, 2200, 3700)  # a telephone has them too
_WINDOW_FRAMES, _FEWEST_FRAMES = 400, 120
_FALL_FRAMES = 100 * ANALYSIS_RATE_HZ // 1000 // _HOP_SAMPLES
_LOUD, _FLOOR, _FASTEST = 95, 10, 98
"""Percentiles of levels, and of how far those near the loudest fall within 100 ms."""
_NEAR_DB, _SPEAKING_DB, _DEEPEST, _NOTHING = 15.0, 25.0, 1e-6, 1e-9
_FLOOR_BIAS_DB = 3.0
"""By so much lies a steady noise's 10th percentile below its mean."""
_LEAST_DB, _UNSAFE_DB, _RANGE_SHARE = 0.0, 22.0, 0.25
"""Speech isn't safe below this, counting a quarter of its range: speech without pauses has one, noise takes it away."""
_UNSAFE_FALL_DB, _LEAST_RANGE_DB = 14.5, 6.0
"""Echoes are what lets levels fall no further than this, though they have a larger range by that."""

_FIRST_BINS = [-(-hz * _FRAME_SAMPLES // ANALYSIS_RATE_HZ) for hz in _EDGES_HZ]
_TAPER = np.hanning(_FRAME_SAMPLES).astype(np.float32)


class ClarityMeter:
    """Takes (samples,) at 16 kHz in any blocks; what it holds doesn't grow but by four numbers every ten seconds."""

    def __init__(self) -> None:
        self._pending: FloatArray = np.zeros(0, dtype=np.float32)
        self._powers: FloatArray = np.zeros((0, len(_EDGES_HZ) - 1), dtype=np.float32)
        self._windows: list[tuple[float, float, float, float]] = []

    def push(self, samples: FloatArray) -> None:
        held = np.concatenate([self._pending, samples])
        if count := max(0, (len(held) - _FRAME_SAMPLES) // _HOP_SAMPLES + 1):
            frames = np.lib.stride_tricks.sliding_window_view(held, _FRAME_SAMPLES)[::_HOP_SAMPLES]
            spectra = np.fft.rfft(frames * _TAPER)[:, : _FIRST_BINS[-1]]
            powers = np.add.reduceat(np.square(spectra.real) + np.square(spectra.imag), _FIRST_BINS[:-1], axis=1)
            self._powers = np.concatenate([self._powers, powers[powers.sum(axis=1) > _NOTHING]])
        self._pending = held[count * _HOP_SAMPLES :]
        while len(self._powers) >= _WINDOW_FRAMES:
            self._measure(self._powers[:_WINDOW_FRAMES])
            self._powers = self._powers[_WINDOW_FRAMES:]

    def finish(self) -> str:
        """What makes words unsafe, as a note; nothing if that is little, or if there is too little speech to tell."""
        if len(self._powers) >= (_WINDOW_FRAMES // 2 if self._windows else 1):
            self._measure(self._powers)
        windows = np.array(self._windows).reshape(-1, 4)
        spoken = windows[windows[:, 0] > windows[:, 0].max(initial=-np.inf) - _SPEAKING_DB]
        if not len(spoken):
            return ""
        _, above_db, fall_db, range_db = np.median(spoken, axis=0).tolist()
        if fall_db < _UNSAFE_FALL_DB and range_db > fall_db + _LEAST_RANGE_DB and above_db > _LEAST_DB:
            return (
                f"The room echoes for about {6 / max(2.0, fall_db - 4):.1f} s, so words may come out wrong: clean the "
                "recording first, or record closer to the microphone."
            )
        if above_db <= _LEAST_DB or above_db + _RANGE_SHARE * range_db >= _UNSAFE_DB:
            return ""
        return (
            f"Noise or other sounds are only about {above_db:.0f} dB below the speech, so words may come out wrong: "
            "clean the recording first, or record closer to the microphone."
        )

    def _measure(self, powers: FloatArray) -> None:
        """Of a window: its level, how far it stands out, its fastest fall, its range, in dB."""
        totals = powers.sum(axis=1, dtype=np.float64)
        least = _DEEPEST * float(np.percentile(totals, _LOUD))
        heard = totals > least
        if np.count_nonzero(heard) < _FEWEST_FRAMES:
            return
        mean, floor = totals[heard].mean(), np.percentile(totals[heard], _FLOOR)
        levels = 10 * np.log10(powers[:, 1:] + least)
        loud = np.percentile(levels[heard], _LOUD, axis=0)
        falls, near = levels[:-_FALL_FRAMES] - levels[_FALL_FRAMES:], levels[:-_FALL_FRAMES] > loud - _NEAR_DB
        self._windows.append(
            (
                10 * np.log10(mean),
                10 * np.log10(max(mean / floor - 1, 1e-9)) - _FLOOR_BIAS_DB,
                np.mean([np.percentile(fall[those], _FASTEST) for fall, those in zip(falls.T, near.T, strict=True)]),
                (loud - np.percentile(levels[heard], _FLOOR, axis=0)).mean(),
            )
        )
