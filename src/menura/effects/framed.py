"""Processors that work in frames of one length, so that how samples arrive makes no difference."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np

from menura.audio.processor import Processor
from menura.errors import OptionError
from menura.types import FloatArray

_LAYOUTS = ("", "mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1")
Filters: TypeAlias = tuple[tuple[str, str], ...]
"""Names of FFmpeg's filters, and their arguments."""


class Framed(Processor):
    """As many samples come out as went in, none shifted. Frames are (frame_samples, channels); the last is shorter."""

    frame_samples = 4096

    def __init__(self, late_samples: int = 0, early_samples: int = 0, spare_samples: int = 0) -> None:
        self._late, self._early = late_samples, early_samples
        """By how much what `_treated` gives lags behind, or runs ahead."""
        self._spare = late_samples + spare_samples
        """Silence after the end, until all is out."""
        self._held: list[FloatArray] = []
        self._taken = self._given = 0
        self._channels = 0

    @abstractmethod
    def _treated(self, frame: FloatArray) -> FloatArray:
        """(samples, channels) of what is ready."""

    def _begin(self, channels: int) -> None:
        """Called once, before the first frame."""

    def _end(self) -> FloatArray:
        """What is still held."""
        return np.zeros((0, self._channels), dtype=np.float32)

    def _push(self, samples: FloatArray) -> FloatArray:
        block = samples[:, None] if samples.ndim == 1 else samples
        if not self._channels and len(block):
            self._channels = block.shape[1]
            self._held = [np.zeros((self._early, self._channels), dtype=np.float32)]
            self._begin(self._channels)
        self._taken += len(block)
        self._held.append(block)
        if sum(map(len, self._held)) < self.frame_samples:
            return self._nothing
        joined = np.concatenate(self._held)
        whole = len(joined) - len(joined) % self.frame_samples
        self._held = [joined[whole:]]
        return self._ready([self._treated(frame) for frame in self._cut(joined[:whole])])

    def _flush(self) -> FloatArray:
        if not self._channels:
            return self._nothing
        rest = np.concatenate([*self._held, np.zeros((self._spare, self._channels), dtype=np.float32)])
        return self._ready([*(self._treated(frame) for frame in self._cut(rest)), self._end()])

    def _ready(self, pieces: list[FloatArray]) -> FloatArray:
        joined = np.concatenate(pieces)
        skipped = min(self._late, len(joined))
        self._late -= skipped
        joined = joined[skipped : skipped + self._taken - self._given]
        self._given += len(joined)
        return joined[:, 0].copy() if self._nothing.ndim == 1 else joined

    def _cut(self, samples: FloatArray) -> Iterator[FloatArray]:
        return (samples[start : start + self.frame_samples] for start in range(0, len(samples), self.frame_samples))


class Mapped(Framed):
    """A function of each sample."""

    def __init__(self, function: Callable[[FloatArray], FloatArray]) -> None:
        super().__init__()
        self._function = function

    def _treated(self, frame: FloatArray) -> FloatArray:
        return self._function(frame).astype(np.float32)


class Filtered(Framed):
    """FFmpeg's filters, one after another (PyAV, the extra `media`)."""

    def __init__(self, rate_hz: int, filters: Filters, *, early_samples: int = 0, spare_samples: int = 0) -> None:
        super().__init__(0, early_samples, spare_samples)
        self._rate_hz, self._filters = rate_hz, filters
        self._position_samples = 0

    def _begin(self, channels: int) -> None:
        import av

        if channels >= len(_LAYOUTS):
            raise OptionError(None, f"effects take up to {len(_LAYOUTS) - 1} channels", option="effects")
        self._av, self._layout, graph = av, _LAYOUTS[channels], av.filter.Graph()
        self._source = last = graph.add_abuffer(
            sample_rate=self._rate_hz, format="flt", layout=self._layout, time_base=Fraction(1, self._rate_hz)
        )
        for name, arguments in (*self._filters, ("aformat", f"sample_fmts=flt:sample_rates={self._rate_hz}")):
            following = graph.add(name, arguments)
            last.link_to(following)
            last = following
        self._sink = graph.add("abuffersink")
        last.link_to(self._sink)
        graph.configure()
        self._graph = graph

    def _treated(self, frame: FloatArray) -> FloatArray:
        packed = np.ascontiguousarray(frame, dtype=np.float32).reshape(1, -1)
        piece: Any = self._av.AudioFrame.from_ndarray(packed, format="flt", layout=self._layout)
        piece.sample_rate, piece.time_base = self._rate_hz, Fraction(1, self._rate_hz)
        piece.pts = self._position_samples
        self._position_samples += len(frame)
        self._source.push(piece)
        return self._pulled()

    def _end(self) -> FloatArray:
        self._source.push(None)
        return self._pulled()

    def _pulled(self) -> FloatArray:
        nothing = np.zeros((0, self._channels), dtype=np.float32)
        return np.concatenate([nothing, *(piece.to_ndarray().reshape(-1, self._channels) for piece in self._pieces())])

    def _pieces(self) -> Iterator[Any]:
        with suppress(self._av.error.BlockingIOError, self._av.error.EOFError):
            while True:
                yield self._sink.pull()
