"""What is known of a recording at absolute positions: content, F0 and source phase, committed once, read by all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from menura.f0.contour import coarse_bins
from menura.types import Features, FloatArray
from menura.units import FRAME_RATE_HZ, ceil_div

if TYPE_CHECKING:
    from menura.retrieval.faiss_index import FaissIndex


class Track:
    """A growing array over an absolute axis; only [start, end) is held."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.end = start
        self._parts: list[npt.NDArray[Any]] = []

    def append(self, values: npt.NDArray[Any]) -> None:
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
        before = min(before, self.end)
        if before > self.start:
            rest = self.read(before, self.end)
            self._parts = [rest.copy()] if len(rest) else []
            self.start = before


class FeatureTimeline:
    """Content at 50 vectors a second, F0 at 100 frames a second, from an even frame on."""

    def __init__(
        self,
        *,
        start_frames: int,
        has_f0: bool,
        index: FaissIndex | None = None,
        index_rate: float = 0.0,
        protect: float = 0.5,
    ) -> None:
        self._index = index if index_rate > 0 else None
        self._index_rate, self._protect, self._has_f0 = index_rate, protect, has_f0
        self._content = Track(start_frames // 2)
        self._plain = Track(start_frames // 2)  # before retrieval; only kept where protect needs it
        self._f0, self._phase = Track(start_frames), Track(start_frames)
        self._phase_end = 0.0
        self._keep_plain = has_f0 and self._index is not None and protect < 0.5

    @property
    def content_end_frames(self) -> int:
        return 2 * self._content.end

    @property
    def f0_end_frames(self) -> int:
        """F0 is committed up to here (everywhere for a voice without F0)."""
        return self._f0.end if self._has_f0 else self.content_end_frames

    def commit_content(self, content: FloatArray) -> None:
        """Append (vectors, dim) content, retrieving its neighbours where there is an index."""
        if self._keep_plain:
            self._plain.append(content)
        if self._index is not None:
            found = self._index.retrieve(content)
            content = found * np.float32(self._index_rate) + content * np.float32(1 - self._index_rate)
        self._content.append(content)

    def commit_f0(self, f0_hz: FloatArray) -> None:
        """Append (frames,) final F0 (transposed, 0 where unvoiced); the phase is its prefix sum in float64."""
        self._f0.append(f0_hz)
        after = self._phase_end + np.cumsum(f0_hz.astype(np.float64) / FRAME_RATE_HZ)
        self._phase.append(np.concatenate([[self._phase_end], after[:-1]]) % 1.0)
        if len(after):
            self._phase_end = float(after[-1] % 1.0)

    def read(self, start: int, end: int) -> Features:
        content = self._at_frames(self._content, start, end)
        f0 = self._f0.read(start, end).copy() if self._has_f0 else None
        if self._keep_plain and f0 is not None:
            content = self._protected(content, self._at_frames(self._plain, start, end), f0)
        return Features(
            start_frames=start,
            content=content,
            f0_hz=f0,
            f0_coarse=None if f0 is None else coarse_bins(f0),
            phase_cycles=float(self._phase.read(start, start + 1)[0]) if f0 is not None else 0.0,
        )

    def content(self, start: int, end: int) -> FloatArray:
        """(vectors, dim) content of frames [start, end), both even."""
        return self._content.read(start // 2, end // 2)

    def f0_hz(self, start: int, end: int) -> FloatArray:
        """(frames,) F0 of frames [start, end)."""
        return self._f0.read(start, end)

    def forget(self, before: int) -> None:
        for track in (self._content, self._plain):
            track.forget(before // 2)
        for track in (self._f0, self._phase):
            track.forget(before)

    @staticmethod
    def _at_frames(track: Track, start: int, end: int) -> FloatArray:
        """Each content vector serves two frames, as in RVC."""
        vectors = track.read(start // 2, ceil_div(end, 2))
        skip = start - 2 * (start // 2)
        return np.ascontiguousarray(np.repeat(vectors, 2, axis=0)[skip : skip + end - start])

    def _protected(self, content: FloatArray, plain: FloatArray, f0_hz: FloatArray) -> FloatArray:
        """Unvoiced frames keep 1 - protect of the content before retrieval."""
        weight = np.where(f0_hz < 1, self._protect, 1.0).astype(np.float32)[:, None]
        return content * weight + plain * (1 - weight)
