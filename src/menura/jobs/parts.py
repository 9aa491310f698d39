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

Step: TypeAlias = Literal["survey", "f0", "sound", "join"]


class Unit(NamedTuple):
    """A task: something to be done for a recording whose parts are shared."""

    item: Item
    tag: str
    """Of the recording's files."""
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

    item: Item
    tag: str
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
            return self._units("f0", workers) if self.parts else [self.item]
        if self._left:
            return []
        if unit.step == "f0":
            return self._units("sound", workers)
        self._claim.close()  # who joins them claims it
        return [Unit(self.item, self.tag, "join")]

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
        assert isinstance(self.item.output, Path)
        with contextlib.suppress(MenuraError):
            return self._claim.enter_context(claimed_folder(parts_folder(self.item.output), EncodeError))
        return False

    def _units(self, step: Step, workers: int) -> list[Item | Unit]:
        """Of all parts; who does one had best go on with the next, so that workers begin far from each other."""
        each = math.ceil(self.parts / workers)
        order = sorted(range(self.parts), key=lambda number: (number % each, number))
        units = [Unit(self.item, self.tag, step, number) for number in order]
        self._left = set(units)
        return [*units]


def likely_parts(item: Item, request: Request | None) -> int:
    """How many parts a recording has, by its header; 1: it isn't to be divided."""
    local = isinstance(item.source, Path) and isinstance(item.output, Path)
    if request is not None and local and request.options.compat == "menura" and request.options.strategy != "whole":
        with contextlib.suppress(MenuraError, OSError):
            info = open_audio(item.source).info  # type: ignore[arg-type]
            length_s = (info.length_samples or 0) / info.sample_rate
            return max(1, math.ceil(length_s / max(_SHORTEST_S, request.options.part_length) - 0.5))
    return 1
