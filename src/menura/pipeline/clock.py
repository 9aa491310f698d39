"""Wall time by stage."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

from menura.types import StageTimes

Stage = Literal["decode", "content", "f0", "retrieval", "synthesis", "assemble", "encode"]
T = TypeVar("T")


class StageClock:
    """Adds up seconds by stage for one input."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def add(self, stage: Stage, seconds: float) -> None:
        self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    @contextmanager
    def measure(self, stage: Stage) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - start)

    def pulled(self, stage: Stage, items: Iterable[T]) -> Iterator[T]:
        """The items, counting the time their producer takes."""
        iterator = iter(items)
        while True:
            with self.measure(stage):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def times(self) -> StageTimes:
        return StageTimes(**{f"{stage}_s": seconds for stage, seconds in self._seconds.items()})
