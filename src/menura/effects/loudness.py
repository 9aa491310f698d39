"""How loud a recording is (ITU-R BS.1770), and the one gain that brings it to a target, or to another's loudness."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from menura.audio.filters import Recursion, States
from menura.audio.processor import StreamResampler
from menura.types import Float64Array, FloatArray

STEPS_A_SECOND = 10
HEADROOM = 10 ** (-1 / 20)
"""Peaks of what is brought to a loudness reach -1 dB at most."""
FULL_SCALE = 0.99
"""What is louder is scaled down to this, as RVC does."""
_SILENT_POWER, _STEPS_A_BLOCK = 10 ** ((-70 + 0.691) / 10), 4
_TOLD_DB = 1.0
_FAINT_LUFS = -60.0
_CHUNK_SAMPLES, _BLOCK_SAMPLES = 48_000, 40  # fixed, so that the result can't depend on how blocks arrive
_LOWEST_RATE_HZ = 4000  # that holds anything of the shelf
_PEAK_RATE_HZ = 160_000  # at which a sample is near enough to every peak
_CHANNEL_WEIGHTS = {5: (1.0, 1.0, 1.0, 1.41, 1.41), 6: (1.0, 1.0, 1.0, 0.0, 1.41, 1.41)}
"""Those at the back count for more, and the low one doesn't."""

Powers: TypeAlias = npt.NDArray[np.floating]


@lru_cache
def _k_weighting(rate_hz: int) -> tuple[Recursion, int]:
    """The norm's high-pass and shelf, by the bilinear transform of their analog forms, and how many poles they have."""
    low = _second_order(38.13547087602444, 0.5003270373238773, rate_hz)
    gain, zeros, poles = 1 / low[0], np.ones(2), np.roots(low)
    if rate_hz >= _LOWEST_RATE_HZ:
        frequency_hz, q, high = 1681.974450955533, 0.7071752369554196, 10 ** (3.999843853973347 / 20)
        below = _second_order(frequency_hz, q, rate_hz)
        above = _second_order(frequency_hz, q, rate_hz, high, high**0.4996667741545416)
        gain = above[0] / below[0]
        zeros, poles = np.concatenate([zeros, np.roots(above)]), np.concatenate([poles, np.roots(below)])
    p = poles.astype(np.complex128)
    residues: States = gain * (p[:, None] - zeros).prod(axis=1) / (p[:, None] - p + np.eye(len(p))).prod(axis=1)
    upper = p.imag > 0  # of a pair of conjugates one is enough
    return Recursion(gain, p[upper], 2 * residues[upper], _BLOCK_SAMPLES), int(np.sum(upper))


def _second_order(frequency_hz: float, q: float, rate_hz: int, high: float = 1.0, band: float = 1.0) -> list[float]:
    k = math.tan(math.pi * frequency_hz / rate_hz)
    return [high + band * k / q + k * k, 2 * (k * k - high), high - band * k / q + k * k]


class LoudnessMeter:
    """Takes one stream, (samples,) or (samples, channels) in any blocks; then `powers`."""

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz, (self._filter, self._order) = rate_hz, _k_weighting(rate_hz)
        self._held: FloatArray = np.zeros((0, 0), dtype=np.float32)
        self._states: list[States] = []
        self._squares: Float64Array = np.zeros((0, 0))
        """(channels, samples) of the step under way."""
        self._steps: list[Float64Array] = []

    def push(self, samples: FloatArray) -> None:
        if not len(samples):
            return
        block = samples.reshape(len(samples), -1).T
        self._held = np.concatenate([self._held, block], axis=1) if self._held.size else block
        while self._held.shape[1] >= _CHUNK_SAMPLES:
            self._measure(self._held[:, :_CHUNK_SAMPLES])
            self._held = self._held[:, _CHUNK_SAMPLES:]

    def powers(self) -> Float64Array:
        """(steps, channels): mean squares of the weighted stream by tenths of a second; the stream is over."""
        if self._held.size:
            self._measure(self._held)
        if len(self._steps) < _STEPS_A_BLOCK and self._squares.size:
            self._steps.append(self._squares.mean(axis=1))  # else the norm leaves it out
        return np.stack(self._steps) if self._steps else np.zeros((0, 1))

    def _measure(self, chunk: FloatArray) -> None:
        if not self._states:
            self._states = [np.zeros(self._order, np.complex128) for _ in chunk]
            self._squares = np.zeros((len(chunk), 0))
        weighted = []
        for number, channel in enumerate(chunk):
            filtered, self._states[number] = self._filter.run(channel.astype(np.float64), self._states[number])
            weighted.append(np.square(filtered))
        self._squares = np.concatenate([self._squares, np.stack(weighted)], axis=1)
        while self._squares.shape[1] >= (length := self._end(len(self._steps) + 1) - self._end(len(self._steps))):
            self._steps.append(self._squares[:, :length].mean(axis=1))
            self._squares = self._squares[:, length:]

    def _end(self, steps: int) -> int:
        return steps * self._rate_hz // STEPS_A_SECOND


def integrated(powers: Powers, raised: float = 1.0) -> float | None:
    """Loudness in LUFS of (steps, channels), gated; of less than 0.4 s without overlap. None for silence.

    What is quieter than speech may be `raised` by a factor, for the gate alone.
    """
    channels = powers.shape[1]
    steps = np.asarray(powers, dtype=np.float64) @ np.array(_CHANNEL_WEIGHTS.get(channels, (1.0,) * channels))
    if not len(steps):
        return None
    width = min(_STEPS_A_BLOCK, len(steps))
    blocks = np.convolve(steps, np.full(width, 1 / width), "valid")
    blocks = blocks[blocks > _SILENT_POWER / raised**2]
    if not len(blocks):
        return None
    return float(-0.691 + 10 * np.log10(blocks[blocks > blocks.mean() / 10].mean()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """What brings a sound to a loudness: a factor, as far as a highest peak permits it."""

    gain: float = 1.0
    highest: float = FULL_SCALE
    lufs: float = 0.0
    """What it aims at."""
    told_db: float = _TOLD_DB
    """A note tells of what lacks more than this."""

    @classmethod
    def of(cls, made: Powers, source: Powers, peak: float, raised: float = 1.0) -> Match:
        """Brings one sound to another's loudness, by the `powers` of both; `peak` is the other's.

        What was over full scale counts as if scaled down to it, and is `raised` as in `integrated`. What was made
        of silence becomes silent, too.
        """
        have, want = integrated(made), integrated(source, raised)
        if have is None or want is None:
            return cls(gain=1.0 if have is None else 0.0)
        want -= 20 * math.log10(max(peak, 1.0))
        return cls(gain=10 ** ((want - have) / 20), highest=min(max(peak, HEADROOM), FULL_SCALE), lufs=want)

    def limited(self, peak: float) -> tuple[float, tuple[str, ...]]:
        """The factor for a sound of this peak; and a note if it doesn't reach what it aims at."""
        gain = min(self.gain, self.highest / peak) if peak else self.gain
        if not gain or (lost_db := 20 * math.log10(self.gain / gain)) <= self.told_db:
            faint = f"The output is as faint as the recording, {self.lufs:.1f} LUFS."
            return gain, (faint,) * (self.lufs < _FAINT_LUFS)
        return gain, (f"Peaks allow a loudness of {self.lufs - lost_db:.1f} LUFS, not {self.lufs:.1f}.",)


def measured(blocks: Iterable[FloatArray], rate_hz: int) -> tuple[float | None, float]:
    """Loudness in LUFS, and true peak, of (samples,) or (samples, channels) in blocks of any length."""
    meter, finer = LoudnessMeter(rate_hz), StreamResampler(rate_hz, -(-_PEAK_RATE_HZ // rate_hz) * rate_hz)
    peak = 0.0
    for block in blocks:
        meter.push(block)
        peak = max(peak, *(float(np.abs(each).max(initial=0.0)) for each in (block, finer.push(block))))
    return integrated(meter.powers()), max(peak, float(np.abs(finer.flush()).max(initial=0.0)))


def towards(lufs: float, blocks: Iterable[FloatArray], rate_hz: int) -> tuple[float, tuple[str, ...]]:
    """The factor that brings a sound to a loudness, as far as its true peak permits; and a note if it doesn't."""
    have, peak = measured(blocks, rate_hz)
    gain = 1.0 if have is None else 10 ** ((lufs - have) / 20)
    return Match(gain=gain, highest=HEADROOM, lufs=lufs, told_db=0.0 if have is not None else math.inf).limited(peak)
