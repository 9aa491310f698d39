"""F0 contours: what is done to one before the synthesizer gets it, and those that the user gives in CSV files."""

from __future__ import annotations

import io
import math
from array import array
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from menura.errors import OptionError
from menura.options import KEYS, SCALES
from menura.system.files import read_small
from menura.types import FloatArray
from menura.units import FRAME_RATE_HZ

Float64Array = npt.NDArray[np.float64]

COARSE_BINS = 256
"""Rows of RVC's pitch embedding; 0 is its padding, 1 is unvoiced or below the lowest."""
_COARSE_RANGE_HZ = (50.0, 1100.0)

MAX_FILE_BYTES = 64 * 2**20
"""About 40 hours at 10 ms."""
MAX_HZ = 8000.0
MAX_SECONDS = 48 * 3600.0
"""Bounds the contour of a file of few lines to 70 MB."""
_FORM = "Give CSV lines 'seconds,hz'"
_LEAST_CONFIDENCE = 0.1
"""CREPE's of a voice, as RVC and Applio have it."""
_DENSE_S, _GAP_STEPS = 0.02, 5
_PART_FRAMES = 1 << 16
_UNLIKE_S, _UNLIKE_SHARE = 0.5, 0.02
_LIKELY_MILLISECONDS = 20.0


def transpose(f0_hz: FloatArray, semitones: float) -> FloatArray:
    """Shift a contour (frames,); 0 stays 0."""
    return np.asarray(f0_hz * 2.0 ** (semitones / 12.0), dtype=np.float32) if semitones else f0_hz


def autotuned(f0_hz: FloatArray, strength: float, key: str, scale: str) -> FloatArray:
    """A contour (frames,) moved towards the nearest notes of a key, of A at 440 Hz; 0 stays 0, 1 moves it there."""
    voiced = f0_hz > 0
    above_key = 12 * np.log2(np.where(voiced, f0_hz, 440.0).astype(np.float64) / 440.0) + 9 - KEYS.index(key)
    octave = np.floor(above_key / 12)
    notes = np.array([*SCALES[scale], 12])  # the next octave's first one may be the nearest
    within = above_key - 12 * octave
    nearest = notes[np.abs(within[:, None] - notes).argmin(axis=1)]
    return np.where(voiced, f0_hz * 2.0 ** (strength * (nearest - within) / 12), 0.0).astype(np.float32)


def median_voiced_hz(f0_hz: FloatArray) -> float | None:
    """Median of the voiced frames of (frames,), None where there is none."""
    voiced = f0_hz[f0_hz > 0]
    return float(np.median(voiced)) if len(voiced) else None


def coarse_bins(f0_hz: FloatArray) -> npt.NDArray[np.int64]:
    """RVC's pitch bins of (frames,): 1 to 255, even steps of mel (1127 ln(1 + f/700)) from 50 to 1100 Hz."""
    low, high = _mel(np.array(_COARSE_RANGE_HZ))
    bins = (_mel(f0_hz.astype(np.float64)) - low) * (COARSE_BINS - 2) / (high - low) + 1
    classes: npt.NDArray[np.int64] = np.rint(np.clip(bins, 1, COARSE_BINS - 1)).astype(np.int64)
    return classes


def _mel(hz: Float64Array) -> Float64Array:
    return 1127.0 * np.log1p(hz / 700.0)


def fill_unvoiced(f0_hz: FloatArray) -> FloatArray:
    """Interpolate through unvoiced frames, the ends held (RVC WebUI's way); a contour without voice stays 0."""
    voiced = np.flatnonzero(f0_hz > 0)
    if not len(voiced) or len(voiced) == len(f0_hz):
        return f0_hz
    return np.interp(np.arange(len(f0_hz)), voiced, f0_hz[voiced]).astype(np.float32)


def read_f0_file(path: Path) -> FloatArray:
    """(frames,) F0 up to the last line's from a CSV file of lines `seconds,hz`, 0 Hz where unvoiced.

    The forms of other programs are known: a third column is CREPE's confidence, or what a header calls so (below 0.1 is
    unvoiced); `voiced_flag` is librosa's; pYIN's have negative F0, NaN, or no line where there is no voice, and may
    begin with the recording's name.

    Frame i is at i / 100 s. Lines at other times are interpolated linearly between two voiced lines; a frame beside
    an unvoiced line takes the nearer line. Before the first line and after the last one all is unvoiced (a frame
    within 5 ms of them takes their value). A first line without numbers is a header; empty lines and those that
    begin with '#' are skipped. Raises OptionError, which names the line at fault.
    """
    try:
        data = read_small(path, MAX_FILE_BYTES)
        times, values = _parse(path, io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig"))
    except OSError as error:
        raise _error(path, f"can't be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise _error(path, "is not UTF-8 text", _FORM) from None
    if not len(times):
        raise _error(path, "has no line 'seconds,hz'", _FORM)
    return _at_frames(times * FRAME_RATE_HZ, values)


def length_notes(f0_frames: int, audio_s: float) -> tuple[str, ...]:
    """What to say of given F0 that is longer or shorter than its recording: at most one note."""
    f0_s = f0_frames / FRAME_RATE_HZ
    if abs(f0_s - audio_s) <= max(_UNLIKE_S, _UNLIKE_SHARE * audio_s):
        return ()
    lengths = f"The F0 file covers {f0_s:.2f} s, but the recording is {audio_s:.2f} s long"
    if f0_s < audio_s:
        return (f"{lengths}; the rest is treated as unvoiced.",)
    unit = " Times must be in seconds, not milliseconds." if f0_s > _LIKELY_MILLISECONDS * audio_s else ""
    return (f"{lengths}; the excess is ignored.{unit}",)


def _error(path: Path, problem: str, advice: str | None = None) -> OptionError:
    return OptionError(path, problem, advice, option="f0_file")


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where a line has what; None for what it lacks."""

    seconds: int = 0
    hz: int = 1
    sure: int | None = None
    voiced: int | None = None

    @classmethod
    def named(cls, header: Sequence[str]) -> _Columns:
        places = {name.strip(' "').lower(): place for place, name in enumerate(header)}

        def place(default: Any, *names: str) -> Any:
            return next((places[name] for name in names if name in places), default)

        seconds, hz = place(0, "time", "seconds", "start"), place(1, "frequency", "f0", "hz", "pitch")
        return cls(seconds, hz, place(None, "confidence", "periodicity"), place(None, "voiced_flag", "voiced"))


def _parse(path: Path, file: TextIO) -> tuple[Float64Array, Float64Array]:
    times, values = array("d"), array("d")
    columns: _Columns | None = None
    for number, line in enumerate(file, start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        fields = stripped.replace(";", ",").replace("\t", ",").split(",")
        if len(fields) > 2 and _number(fields[0]) is None and _number(fields[1]) is not None:
            del fields[0]  # the recording's name, or nothing in its place
        if columns is None:
            is_header = _number(fields[0]) is None
            columns = _Columns.named(fields) if is_header else _Columns(sure=2 if len(fields) == 3 else None)
            if is_header:
                continue
        try:
            seconds, hz = _checked(fields, columns, times[-1] if times else -1.0)
        except ValueError as error:
            raise _error(path, f"line {number} ('{stripped[:60]}'): {error}") from None
        times.append(seconds)
        values.append(hz)
    return _with_gaps(np.array(times), np.array(values))


def _number(text: str | None) -> float | None:
    with suppress(ValueError, TypeError):
        return float(text)  # type: ignore[arg-type]
    return None


def _checked(fields: Sequence[str], columns: _Columns, before_s: float) -> tuple[float, float]:
    """A line's time and F0; ValueError says what is wrong with it."""

    def field(place: int | None) -> str | None:
        return None if place is None or place >= len(fields) else fields[place].strip(' "')

    seconds, hz = _number(field(columns.seconds)), _number(field(columns.hz) or "nan")
    if seconds is None or hz is None or columns.hz >= len(fields):
        raise ValueError("two numbers 'seconds,hz' are needed")
    if not 0 <= seconds <= MAX_SECONDS:
        raise ValueError(f"the time must be 0 to {MAX_SECONDS:g} seconds (not milliseconds)")
    if hz > MAX_HZ:
        raise ValueError(f"F0 must be 0 (unvoiced) to {MAX_HZ:g} Hz")
    if seconds <= before_s:
        raise ValueError("the time must be later than the line before")
    sure, flag = _number(field(columns.sure)), (field(columns.voiced) or "").lower()
    unvoiced = math.isnan(hz) or hz < 0 or flag in ("false", "0") or (sure is not None and sure < _LEAST_CONFIDENCE)
    return seconds, 0.0 if unvoiced else hz


def _with_gaps(times: Float64Array, values: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Lines of no voice where a dense file has none: pYIN writes the voiced ones only."""
    steps = np.diff(times)
    usual = float(np.median(steps)) if len(steps) else 0.0
    if not 0 < usual <= _DENSE_S:
        return times, values
    gaps = np.flatnonzero(steps > _GAP_STEPS * usual)
    places = np.repeat(gaps + 1, 2)
    edges = np.stack((times[gaps] + usual, times[gaps + 1] - usual), axis=1).ravel()
    return np.insert(times, places, edges), np.insert(values, places, 0.0)


def _at_frames(places: Float64Array, values: Float64Array) -> FloatArray:
    """Values at whole frames, from values at `places` (in frames, increasing)."""
    result = np.zeros(math.floor(places[-1] + 0.5) + 1, dtype=np.float32)
    for start in range(0, len(result), _PART_FRAMES):
        part = result[start : start + _PART_FRAMES]
        frames = np.arange(start, start + len(part), dtype=np.float64)
        after = np.searchsorted(places, frames - 1e-6).clip(max=len(places) - 1)
        before = np.maximum(after - 1, 0)
        nearer = np.where(np.abs(frames - places[before]) < np.abs(places[after] - frames), before, after)
        both_voiced = (values[before] > 0) & (values[after] > 0)
        part[:] = np.where(both_voiced, np.interp(frames, places, values), values[nearer])
        part[frames < places[0] - 0.5] = 0.0
    return result
