"""Reads F0 that the user gives: CSV lines `seconds,hz`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from menura.errors import OptionError
from menura.units import FRAME_RATE_HZ

if TYPE_CHECKING:
    from menura.types import FloatArray

MAX_FILE_BYTES = 64 * 2**20
"""About 40 hours at 10 ms."""
MAX_HZ = 8000.0
MAX_SECONDS = 7 * 24 * 3600.0


def read_f0_file(path: Path) -> FloatArray:
    """F0 of a recording's frames from a CSV file of lines `seconds,hz`, 0 Hz where unvoiced.

    Frame i is at i / 100 s. Lines at other times are interpolated linearly between two voiced lines; a frame beside
    an unvoiced line takes the nearer line. Before the first line and after the last one all is unvoiced (a frame
    within 5 ms of them takes their value). A first line without numbers is a header; empty lines and those that
    begin with '#' are skipped.

    Args:
        path: the file, UTF-8.

    Returns:
        (frames,) up to the last line's frame.

    Raises:
        OptionError: it can't be read, or a line is wrong; the message names the line.
    """
    points = _parse(path, _read_text(path))
    if not points:
        raise OptionError(f"f0_file: {path} holds no line 'seconds,hz'.")
    times, values = np.array(points, dtype=np.float64).T
    return _at_frames(times * FRAME_RATE_HZ, values).astype(np.float32)


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise OptionError(f"f0_file: {path} is larger than {MAX_FILE_BYTES // 2**20} MB; give lines at 10 ms.")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise OptionError(f"f0_file: {path} can't be read ({error.strerror}). Check the path.") from error
    except UnicodeDecodeError:
        raise OptionError(f"f0_file: {path} is no UTF-8 text; give CSV lines 'seconds,hz'.") from None


def _parse(path: Path, text: str) -> list[tuple[float, float]]:
    points: list[tuple[float, float]] = []
    seen_content = False
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        fields = [field.strip() for field in stripped.replace(";", ",").split(",")]
        is_header = not seen_content and not _is_number(fields[0])
        seen_content = True
        if is_header:
            continue
        problem = _problem(fields, points)
        if problem:
            raise OptionError(f"f0_file: {path}, line {number}: {problem} ('{stripped[:60]}').")
        points.append((float(fields[0]), float(fields[1])))
    return points


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _problem(fields: list[str], points: list[tuple[float, float]]) -> str | None:
    """What is wrong with a line, None if nothing is."""
    if len(fields) != 2 or not all(_is_number(field) for field in fields):
        return "needs two numbers 'seconds,hz'"
    seconds, hz = float(fields[0]), float(fields[1])
    if not (math.isfinite(seconds) and 0 <= seconds <= MAX_SECONDS):
        return f"the time must be 0 to {MAX_SECONDS:g} seconds"
    if not (math.isfinite(hz) and 0 <= hz <= MAX_HZ):
        return f"F0 must be 0 (unvoiced) to {MAX_HZ:g} Hz"
    if points and seconds <= points[-1][0]:
        return "the time must be later than the line before"
    return None


def _at_frames(places: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Values at whole frames, from values at `places` (in frames, increasing)."""
    frames = np.arange(math.floor(places[-1] + 0.5) + 1, dtype=np.float64)
    after = np.searchsorted(places, frames - 1e-6).clip(max=len(places) - 1)
    before = np.maximum(after - 1, 0)
    nearer = np.where(np.abs(frames - places[before]) < np.abs(places[after] - frames), before, after)
    both_voiced = (values[before] > 0) & (values[after] > 0)
    result = np.where(both_voiced, np.interp(frames, places, values), values[nearer])
    result[frames < places[0] - 0.5] = 0.0
    return result
