"""Variants timed in turn, so that all of them see the same machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_PAUSE_S = 0.01
"""Between two runs: threads of one runtime that still look for work would slow the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What the runs of one variant took, in seconds."""

    wall_s: tuple[float, ...]
    cpu_s: tuple[float, ...]

    @property
    def best_s(self) -> float:
        """Of the fastest run."""
        return min(self.wall_s)

    @property
    def median_s(self) -> float:
        """Of the middle run."""
        return statistics.median(self.wall_s)

    @property
    def busy_cores(self) -> float:
        """Processor time by wall time, over all runs."""
        return sum(self.cpu_s) / sum(self.wall_s)


def take_turns(variants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Taken]:
    """Run each variant once in every round, and once before that doesn't count."""
    for run in variants.values():
        run()
    wall_s: dict[str, list[float]] = {name: [] for name in variants}
    cpu_s: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            time.sleep(_PAUSE_S)
            cpu, wall = time.process_time(), time.perf_counter()
            run()
            wall_s[name].append(time.perf_counter() - wall)
            cpu_s[name].append(time.process_time() - cpu)
    return {name: Taken(wall_s=tuple(wall_s[name]), cpu_s=tuple(cpu_s[name])) for name in variants}
