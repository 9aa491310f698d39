"""Wall time of one recording by stage, and how far a run over many has come."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from menura.types import Progress, StageTimes

Stage = Literal["decode", "content", "f0", "retrieval", "synthesis", "assemble", "encode"]

F0_SHARE = 0.2
"""Of a conversion's work, about."""


@dataclass(frozen=True, slots=True)
class Worked:
    """So many seconds' worth of a recording's work are done; its sound comes later."""

    audio_s: float
    found: bool = False
    """An earlier run did it."""


class StageClock:
    """Adds up seconds by stage for one input."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def add(self, stage: Stage, seconds: float) -> None:
        self._seconds[stage] += seconds

    @contextmanager
    def measure(self, stage: Stage) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - start)

    def taken(self) -> StageTimes:
        """The times since the last call."""
        times = self.times()
        self._seconds.clear()
        return times

    def times(self) -> StageTimes:
        return StageTimes(**{f"{stage}_s": seconds for stage, seconds in self._seconds.items()})


class RunMeter:
    """Counts inputs and their seconds; durations not read yet are estimated by sizes (bytes, 0 where unknown)."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = sizes
        self._start = time.perf_counter()
        self._known_s: dict[int, float] = {}
        self._done_s: dict[int, float] = {}
        self._files_done = self._files_begun = 0

    def begun(self, number: int, audio_s: float) -> None:
        """An input was read once: its duration is known."""
        self._known_s[number] = audio_s
        self._files_begun += 1

    def advanced(self, number: int, audio_s: float) -> None:
        """So much of an input's sound is final."""
        self._done_s[number] = audio_s

    def failed(self, number: int) -> None:
        """An input will give no (more) sound."""
        self._known_s[number] = self._done_s.get(number, 0.0)
        self._files_done += 1

    def finished(self) -> None:
        self._files_done += 1

    def progress(self, name: str) -> Progress:
        known_s, known_bytes = sum(self._known_s.values()), sum(self._sizes[number] for number in self._known_s)
        estimate_s = known_s * sum(self._sizes) / known_bytes if known_bytes else None
        return Progress(
            file=name,
            files_begun=self._files_begun,
            files_done=self._files_done,
            files=len(self._sizes),
            audio_done_s=sum(self._done_s.values()),
            audio_s=known_s if len(self._known_s) == len(self._sizes) else estimate_s,
            wall_s=time.perf_counter() - self._start,
        )
