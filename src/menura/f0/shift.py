"""The automatic shift: by how much pitch is moved so that a recording lies in a voice's range. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from menura.types import FloatArray

_STEADY_STEPS, _MOST_STEP, _LEAST_STEADY, _STEADY_SHARE = 5, 1.0, 15, 1 / 3
"""Voice goes on for 50 ms at least and moves by less than a semitone a frame; of it there must be 150 ms, and a third
of all that is taken for voice. Whispered real speech had 0.05 s in a minute and a half, 3 % of what was voiced; the
same speech spoken 83 to 98 %."""
_LEAST_FRAMES, _LEAST_SHARE, _REGISTERS_APART, _VALLEY = 100, 0.15, 7.0, 0.35
"""A register's voice: a second of it, and its share of all. How many semitones two are apart, and how deep the valley
between them is, as a share of the lower peak."""
_SPEECH_HZ = 500.0
"""Higher registers are sung or shouted."""
_ONE_SPEAKER, _GAP, _SPREAD = 6.0, 4.0, 8.0
"""Semitones: how far a recording may be from its batch's speaker; between medians of different speakers; and how far
apart all of one's are. Short recordings of one reader were up to 4 apart."""
_USUAL_RANGE = 2**-0.5
_MOST_SEMITONES = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """Where a voice speaks, and the shifts of the batch that a recording belongs to."""

    median_hz: float
    low_hz: float
    """5th percentile."""
    high_hz: float
    """95th percentile."""
    shifts: tuple[float, ...] = ()
    """In semitones, one for each speaker of the batch, most of its sound first."""
    forced: bool = False
    """Whether a batch has one shift, whatever the recording."""

    @classmethod
    def of(
        cls,
        target_hz: float,
        range_hz: tuple[float, float] | None,
        median_hz: float | None,
        *,
        shifts: tuple[float, ...],
        forced: bool,
    ) -> Aim:
        """At a pitch, with the range of a voice around its median, or half an octave each way where it isn't known."""
        low, high = (_USUAL_RANGE, 1 / _USUAL_RANGE)
        if range_hz is not None and median_hz is not None:
            low, high = range_hz[0] / median_hz, range_hz[1] / median_hz
        return cls(median_hz=target_hz, low_hz=low * target_hz, high_hz=high * target_hz, shifts=shifts, forced=forced)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """By how much a recording is moved, and what should be known of it."""

    semitones: float = 0.0
    notes: tuple[str, ...] = ()


def settled(f0_hz: FloatArray, aim: Aim) -> Shift:
    """The shift of a recording with F0 (frames,) at 100 a second, 0 where unvoiced, in whole semitones.

    It brings the median to the voice's. Of two registers it's the one with more voice that counts (speech before what
    is higher), but both are kept in the voice's range where that is wide enough. A batch's shift is taken where it
    suits the recording: where that has too little voice, or else lies in the range with it, and near the batch's
    speaker. 0 where nothing is known.
    """
    given = aim.shifts[0] if aim.shifts else 0.0
    if (aim.forced and aim.shifts) or not f0_hz.any():
        return Shift(semitones=given)
    if not is_sure(f0_hz):
        note = "There is too little voice to tell its pitch by; it was not moved."
        if aim.shifts:
            note = "There is too little voice to tell its pitch by; it was moved like the other recordings."
        return Shift(semitones=given, notes=(note,))
    registers = registers_hz(f0_hz)
    own = _own(registers, aim)
    near = min(aim.shifts, key=lambda shift: abs(shift - own), default=own)
    follows = abs(near - own) <= _ONE_SPEAKER and (_fits(registers, aim, near) or near == own)
    shift = near if follows else own
    notes: tuple[str, ...] = ()
    if len(registers) > 1:
        notes = (_two(registers, fit=_fits(registers, aim, shift)),)
    if not follows:
        notes += (f"At {registers[0]:.0f} Hz it isn't like the other recordings, so it has a shift of its own.",)
    return Shift(semitones=shift, notes=notes)


def shifts_of(curves: Sequence[FloatArray], aim: Aim) -> tuple[float, ...]:
    """The shifts of a batch, from F0 of some of its recordings: one for each speaker, most voice first.

    Speakers are told by the recordings' medians. If these are strewn, so that no speaker can be told from another,
    there is none, and recordings are to be judged alone. Where `forced`, there is one, from all of them.
    """
    sure = [(float(np.median(f0_hz[f0_hz > 0])), f0_hz[f0_hz > 0]) for f0_hz in curves if is_sure(f0_hz)]
    groups: list[list[tuple[float, FloatArray]]] = []
    for pair in sorted(sure, key=lambda pair: pair[0]):
        if groups and (aim.forced or _semitones(groups[-1][-1][0], pair[0]) <= _GAP):
            groups[-1].append(pair)
        else:
            groups.append([pair])
    found: dict[float, int] = {}
    for group in groups:
        if aim.forced or _semitones(group[0][0], group[-1][0]) <= _SPREAD:
            voiced = np.concatenate([own for _, own in group])
            shift = semitones_between(float(np.median(voiced)), aim.median_hz)
            found[shift] = found.get(shift, 0) + len(voiced)
    return tuple(sorted(found, key=lambda shift: -found[shift])) or (0.0,) * aim.forced


def is_sure(f0_hz: FloatArray) -> bool:
    """Whether (frames,) F0 holds enough steady voice to tell a pitch by: false frames in noise are few, and jump."""
    voiced = f0_hz > 0
    notes = 12 * np.log2(np.where(voiced, f0_hz, 1.0))
    goes_on = voiced[1:] & voiced[:-1] & (np.abs(np.diff(notes)) < _MOST_STEP)
    edges = np.flatnonzero(np.diff(goes_on.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
    lengths = edges[:, 1] - edges[:, 0]
    steady = int(lengths[lengths >= _STEADY_STEPS].sum())
    return steady >= max(_LEAST_STEADY, _STEADY_SHARE * np.count_nonzero(voiced))


def registers_hz(f0_hz: FloatArray) -> tuple[float, ...]:
    """Medians of the registers in (frames,) F0, two at most, the one that counts first; none without voice."""
    notes = 12 * np.log2(f0_hz[f0_hz > 0].astype(np.float64))
    if not len(notes):
        return ()
    first = math.floor(notes.min())
    counts = np.convolve(np.bincount(np.floor(notes).astype(np.int64) - first), [1, 2, 3, 2, 1], mode="same")
    below, above = np.maximum.accumulate(counts), np.maximum.accumulate(counts[::-1])[::-1]
    depths = counts / np.minimum(below, above)
    valley = int(np.argmin(depths))
    sides = [notes[notes < first + valley + 0.5], notes[notes >= first + valley + 0.5]]
    least = max(_LEAST_FRAMES, _LEAST_SHARE * len(notes))
    two = depths[valley] <= _VALLEY and min(map(len, sides)) >= least
    if not two or np.median(sides[1]) - np.median(sides[0]) < _REGISTERS_APART:
        return (float(np.median(f0_hz[f0_hz > 0])),)
    medians = {float(2 ** (np.median(side) / 12)): len(side) for side in sides}
    return tuple(sorted(medians, key=lambda hz: (hz >= _SPEECH_HZ, -medians[hz])))


def semitones_between(from_hz: float, to_hz: float) -> float:
    """Whole semitones from one F0 to another, at most four octaves; never -0."""
    return float(max(-_MOST_SEMITONES, min(_MOST_SEMITONES, round(_semitones(from_hz, to_hz)))))


def _semitones(from_hz: float, to_hz: float) -> float:
    return 12 * math.log2(to_hz / from_hz)


def _own(registers: Sequence[float], aim: Aim) -> float:
    """What brings the first register to the voice's median, as far as none leaves the range, if all can be in it."""
    shift = semitones_between(registers[0], aim.median_hz)
    least = max(math.ceil(_semitones(hz, aim.low_hz)) for hz in registers)
    most = min(math.floor(_semitones(hz, aim.high_hz)) for hz in registers)
    return float(min(max(shift, least), most)) if least <= most else shift


def _two(registers: Sequence[float], *, fit: bool) -> str:
    low, high, first = min(registers), max(registers), registers[0]
    if fit:
        return (
            f"There are two registers or speakers, around {low:.0f} and {high:.0f} Hz; with this shift both lie in the "
            "voice's range."
        )
    return (
        f"There are two registers or speakers, around {low:.0f} and {high:.0f} Hz; the shift is for the one around "
        f"{first:.0f} Hz."
    )


def _fits(registers: Sequence[float], aim: Aim, shift: float) -> bool:
    return all(aim.low_hz <= hz * 2 ** (shift / 12) <= aim.high_hz for hz in registers)
