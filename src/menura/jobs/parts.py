"""A long recording as tasks for several workers: its survey with its samples, F0 of each part, sound of each, joining.

What a part needs and leaves is in files beside the output (`pipeline/parts.py`), so tasks are small, and any worker can
do what a lost one left. Loads no torch by itself.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from menura.audio.decode import open_audio
from menura.errors import EncodeError, MenuraError
from menura.loading.request import Request
from menura.system.files import claimed_folder, parts_folder, remove_abandoned
from menura.types import FileResult, Item, StageTimes

_SHORTEST_S = 20.0
"""Of parts: a segment."""
_SHORTEST_EVEN_S = 60.0
"""Of parts that are shorter than asked for, so that every worker has as many."""

Step: TypeAlias = Literal["survey", "f0", "sound", "join"]


class Unit(NamedTuple):
    """A task: something to be done for a recording whose parts are shared."""

    item: Item
    tag: str
    """Of the recording's files."""
    part_length: float
    """In seconds; the tag is that of a request for it."""
    step: Step
    number: int = 0
    """Of the part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A unit is done; the first two are a survey's."""

    parts: int = 0
    """0: the recording can't be divided."""
    audio_s: float = 0.0
    found: bool = False
    """An earlier run did it."""
    stages: StageTimes


@dataclass(kw_only=True, eq=False)
class SharedRecording:
    """How far the units of a recording are. The folder of its files stays claimed while others work in it."""

    survey: Unit
    parts: int = 0
    worked_s: dict[Unit, float] = field(default_factory=dict)
    """How much of the recording each unit stands for so far."""
    _begun_s: float = field(default_factory=time.perf_counter)
    _found: int = 0
    _stages: StageTimes = field(default_factory=StageTimes)
    _left: set[Unit] = field(default_factory=set)
    _claim: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def finish(self, unit: Unit, end: Finished, workers: int) -> list[Item | Unit]:
        """What may be done now, in the order in which so many workers are to take it."""
        self._stages += end.stages
        self._found += end.found and unit.step == "sound"
        self._left.discard(unit)
        if unit.step == "survey":
            self.parts = end.parts if end.parts and self._claimed() else 0
            return self._units("f0", workers) if self.parts else [unit.item]
        if self._left:
            return []
        if unit.step == "f0":
            return self._units("sound", workers)
        self._claim.close()  # who joins them claims it
        return [self.survey._replace(step="join")]

    def joined(self, result: FileResult) -> FileResult:
        """The result of who joined the parts, or of an undivided conversion, as that of all workers."""
        if not self.parts or result.output is None:
            return result
        wall_s, stages = time.perf_counter() - self._begun_s, self._stages + result.stages
        return replace(result, wall_s=wall_s, stages=stages, parts_resumed=self._found)

    def end(self, result: FileResult | None) -> None:
        """Leave the folder to others, when all workers are gone."""
        self._claim.close()
        if result is not None and isinstance(result.output, Path):
            remove_abandoned([parts_folder(result.output)])  # Windows deletes nothing that a worker has open

    def _claimed(self) -> bool:
        folder = parts_folder(self.survey.item.output)  # type: ignore[arg-type]  # what is remote isn't divided
        with contextlib.suppress(MenuraError):
            return self._claim.enter_context(claimed_folder(folder, EncodeError))
        return False

    def _units(self, step: Step, workers: int) -> list[Item | Unit]:
        """Of all parts; who does one had best go on with the next, so that workers begin far from each other."""
        each = math.ceil(self.parts / workers)
        order = sorted(range(self.parts), key=lambda number: (number % each, number))
        units = [self.survey._replace(step=step, number=number) for number in order]
        self._left = set(units)
        return [*units]


def likely_parts(item: Item, request: Request | None, workers: int) -> tuple[int, float]:
    """How many parts (1: none) of what length in seconds so many workers had best share, by a recording's header."""
    local = isinstance(item.source, Path) and isinstance(item.output, Path)
    streams = request is not None and request.options.compat == "menura" and request.options.strategy != "whole"
    if request is not None and local and streams and not request.roles:
        with contextlib.suppress(MenuraError, OSError):
            info = open_audio(item.source).info  # type: ignore[arg-type]
            length_s = (info.length_samples or 0) / info.sample_rate
            part_length = max(_SHORTEST_S, request.options.part_length)
            count = math.ceil(length_s / part_length - 0.5)
            even = min(workers * math.ceil(count / workers), int(length_s / _SHORTEST_EVEN_S))
            if 1 < count < even:
                return even, length_s / even
            return max(1, count), request.options.part_length
    return 1, 0.0
