"""What is known of a stream at absolute positions: appended at the end, read anywhere, forgotten from the start."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


class Track:
    """A growing array over an absolute axis; only [start, end) is held."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.end = start
        self._parts: list[npt.NDArray[Any]] = []

    def append(self, values: npt.NDArray[Any]) -> None:
        """Put `values` (length, ...) at the end."""
        if len(values):
            self._parts.append(values)
            self.end += len(values)

    def read(self, start: int, end: int) -> npt.NDArray[Any]:
        """Values at [start, end), which must be held."""
        if not self.start <= start <= end <= self.end:
            raise IndexError(f"[{start}, {end}) is not within [{self.start}, {self.end})")
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts)]
        if not self._parts:
            return np.zeros(0, dtype=np.float32)
        return self._parts[0][start - self.start : end - self.start]

    def forget(self, before: int) -> None:
        """Drop what lies before an absolute position."""
        before = min(before, self.end)
        if before > self.start:
            rest = self.read(before, self.end)
            self._parts = [rest.copy()] if len(rest) else []
            self.start = before
