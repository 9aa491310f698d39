"""Reads F0 that the user gives: CSV lines `seconds,hz`."""

from __future__ import annotations

import io
import math
from array import array
from pathlib import Path
from typing import TextIO

import numpy as np
import numpy.typing as npt

from menura.errors import OptionError
from menura.system.files import read_small
from menura.types import FloatArray
from menura.units import FRAME_RATE_HZ

MAX_FILE_BYTES = 64 * 2**20
"""About 40 hours at 10 ms."""
MAX_HZ = 8000.0
MAX_SECONDS = 48 * 3600.0
"""Bounds the contour of a file of few lines to 70 MB."""
_FORM = "Give CSV lines 'seconds,hz'"
_PART_FRAMES = 1 << 16
_UNLIKE_S, _UNLIKE_SHARE = 0.5, 0.02
_LIKELY_MILLISECONDS = 20.0


def read_f0_file(path: Path) -> FloatArray:
    """F0 of a recording's frames from a CSV file of lines `seconds,hz`, 0 Hz where unvoiced.

    Frame i is at i / 100 s. Lines at other times are interpolated linearly between two voiced lines; a frame beside
    an unvoiced line takes the nearer line. Before the first line and after the last one all is unvoiced (a frame
    within 5 ms of them takes their value). A first line without numbers is a header; empty lines and those that
    begin with '#' are skipped.

    Returns:
        (frames,) up to the last line's frame.

    Raises:
        OptionError: it can't be read, or a line is wrong; the problem names the line.
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


def _parse(path: Path, file: TextIO) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    times, values = array("d"), array("d")
    seen_content = False
    for number, line in enumerate(file, start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        fields = stripped.replace(";", ",").split(",")
        is_header = not seen_content and not _is_number(fields[0])
        seen_content = True
        if is_header:
            continue
        try:
            seconds, hz = _numbers(fields, times[-1] if times else -1.0)
        except ValueError as error:
            raise _error(path, f"line {number} ('{stripped[:60]}'): {error}") from None
        times.append(seconds)
        values.append(hz)
    return np.array(times), np.array(values)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(fields: list[str], before_s: float) -> tuple[float, float]:
    """A line's time and F0; ValueError says what is wrong with it."""
    if len(fields) != 2 or not all(_is_number(field) for field in fields):
        raise ValueError("two numbers 'seconds,hz' are needed")
    seconds, hz = map(float, fields)
    if not 0 <= seconds <= MAX_SECONDS:
        raise ValueError(f"the time must be 0 to {MAX_SECONDS:g} seconds (not milliseconds)")
    if not 0 <= hz <= MAX_HZ:
        raise ValueError(f"F0 must be 0 (unvoiced) to {MAX_HZ:g} Hz")
    if seconds <= before_s:
        raise ValueError("the time must be later than the line before")
    return seconds, hz


def _at_frames(places: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> FloatArray:
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
