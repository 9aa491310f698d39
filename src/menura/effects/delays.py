"""Effects that FFmpeg lacks, made of delays with feedback: whole stretches at once, as long as the shortest delay."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from menura.effects.definitions import Chorus, Delay, Reverb
from menura.effects.framed import Framed
from menura.types import Float64Array, FloatArray

_COMBS = (1116, 1188, 1277, 1356, 1422, 1491, 1557, 1617)  # Freeverb's, in samples at 44.1 kHz
_ALL_PASSES = (556, 441, 341, 225)
_SPREAD = 23  # by which the right side's are longer
_TUNED_RATE_HZ = 44_100
_INPUT_GAIN, _WET_SCALE, _DRY_SCALE = 0.015, 3.0, 2.0
_ROOM_SCALE, _ROOM_OFFSET, _DAMPING_SCALE = 0.28, 0.7, 0.4
_NEGLIGIBLE = 1e-18
_SWING_S, _SHORTEST_S = 0.005, 0.001


class _Line:
    """What went in comes out so many samples later; at most so many are read before they are written."""

    def __init__(self, delay_samples: int, *shape: int) -> None:
        self.delay_samples = delay_samples
        self.past: Float64Array = np.zeros((delay_samples, *shape))

    def write(self, samples: Float64Array) -> None:
        self.past = np.concatenate([self.past[len(samples) :], samples])


def _stretches(length: int, longest: int) -> Iterator[slice]:
    return (slice(start, min(start + longest, length)) for start in range(0, length, longest))


class Echoes(Framed):
    def __init__(self, effect: Delay, rate_hz: int) -> None:
        super().__init__()
        self._effect, self._delay_samples = effect, round(max(effect.seconds, _SHORTEST_S) * rate_hz)

    def _begin(self, channels: int) -> None:
        self._line = _Line(self._delay_samples, channels)

    def _treated(self, frame: FloatArray) -> FloatArray:
        if not self._effect.seconds:
            return frame
        out, mix = np.empty_like(frame), self._effect.mix
        for part in _stretches(len(frame), self._delay_samples):
            sound = frame[part].astype(np.float64)
            echo = self._line.past[: len(sound)]
            out[part] = sound * (1 - mix) + echo * mix
            self._line.write(sound + echo * self._effect.feedback)
        return out


class SecondVoice(Framed):
    """The delay follows a sine, and lies between samples by linear interpolation."""

    def __init__(self, effect: Chorus, rate_hz: int) -> None:
        super().__init__()
        self._effect, self._rate_hz = effect, rate_hz
        swing_s, middle_s = effect.depth * _SWING_S, effect.delay / 1000
        self._swing, self._middle = swing_s * rate_hz, middle_s * rate_hz
        self._shortest = max(middle_s - swing_s, _SHORTEST_S) * rate_hz
        self._stretch = max(1, int(self._shortest) - 1)
        self._longest = int(self._middle + self._swing) + 3
        self._position = 0

    def _begin(self, channels: int) -> None:
        self._line = _Line(self._longest + self._stretch, channels)
        self._last = np.zeros((1, channels))

    def _treated(self, frame: FloatArray) -> FloatArray:
        out, mix = np.empty_like(frame), self._effect.mix
        for part in _stretches(len(frame), self._stretch):
            sound = frame[part].astype(np.float64)
            other = self._delayed(len(sound))
            fed_back = np.concatenate([self._last, other[:-1]])
            self._line.write(sound - fed_back * self._effect.feedback)
            self._last = other[-1:]
            out[part] = sound * (1 - mix) + other * mix
        return out

    def _delayed(self, count: int) -> Float64Array:
        at = np.arange(count)
        turn = self._effect.rate / self._rate_hz * (self._position + at)
        self._position += count
        delay = np.maximum(self._middle + self._swing * np.sin(2 * np.pi * (turn % 1.0)), self._shortest)
        place = len(self._line.past) + at - delay
        before = place.astype(np.int64)
        weight = (place - before)[:, None]
        mixed: Float64Array = self._line.past[before] * (1 - weight) + self._line.past[before + 1] * weight
        return mixed


class _Comb:
    def __init__(self, delay_samples: int, feedback: float, damping: float) -> None:
        self._line, self._feedback, self._damping, self._last = _Line(delay_samples), feedback, damping, 0.0

    def treated(self, sound: Float64Array) -> Float64Array:
        out = np.empty_like(sound)
        for part in _stretches(len(sound), self._line.delay_samples):
            stretch = sound[part]
            out[part] = echo = self._line.past[: len(stretch)]
            self._line.write(stretch + self._damped(echo) * self._feedback)
        return out

    def _damped(self, echo: Float64Array) -> Float64Array:
        """A one-pole low-pass, summed up in doubling steps."""
        result, factor, reach = echo * (1 - self._damping), self._damping, 1
        result[0] += self._damping * self._last
        while reach < len(result) and factor > _NEGLIGIBLE:
            result[reach:] = result[reach:] + factor * result[:-reach]
            factor, reach = factor * factor, 2 * reach
        self._last = float(result[-1])
        return result


class _AllPass:
    def __init__(self, delay_samples: int) -> None:
        self._line = _Line(delay_samples)

    def treated(self, sound: Float64Array) -> Float64Array:
        out = np.empty_like(sound)
        for part in _stretches(len(sound), self._line.delay_samples):
            stretch = sound[part]
            echo = self._line.past[: len(stretch)]
            out[part] = echo - stretch
            self._line.write(stretch + 0.5 * echo)
        return out


class Room(Framed):
    """Freeverb: one room for all channels, heard on the left and on the right."""

    def __init__(self, effect: Reverb, rate_hz: int) -> None:
        super().__init__()
        self._effect, self._scale = effect, rate_hz / _TUNED_RATE_HZ
        wet = effect.wet * _WET_SCALE * (effect.freeze < 0.5)
        self._near, self._far = wet * (1 + effect.width) / 2, wet * (1 - effect.width) / 2

    def _begin(self, channels: int) -> None:
        feedback, damping = self._effect.room * _ROOM_SCALE + _ROOM_OFFSET, self._effect.damping * _DAMPING_SCALE
        spreads = (0, _SPREAD)[: min(channels, 2)]
        self._combs = [[_Comb(self._samples(n + s), feedback, damping) for n in _COMBS] for s in spreads]
        self._all_passes = [[_AllPass(self._samples(n + s)) for n in _ALL_PASSES] for s in spreads]

    def _samples(self, tuned: int) -> int:
        return max(1, round(tuned * self._scale))

    def _treated(self, frame: FloatArray) -> FloatArray:
        channels = frame.shape[1]
        sound = frame.sum(axis=1, dtype=np.float64) * (_INPUT_GAIN * min(1.0, 2 / channels))
        sides = []
        for combs, all_passes in zip(self._combs, self._all_passes, strict=True):
            side = sum((comb.treated(sound) for comb in combs), np.zeros(len(sound)))
            for all_pass in all_passes:
                side = all_pass.treated(side)
            sides.append(side)
        out = frame * (self._effect.dry * _DRY_SCALE)
        for channel in range(channels):
            out[:, channel] += sides[channel % 2 if channels > 1 else 0] * self._near
            if channels > 1:
                out[:, channel] += sides[1 - channel % 2] * self._far
        return out.astype(np.float32)
