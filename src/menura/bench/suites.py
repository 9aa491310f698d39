"""The suites: what is converted, how it is measured, and what comes of it. Loads no torch itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from menura.bench.measurement import Measurement
from menura.bench.timing import in_fresh_process, timed
from menura.errors import MenuraError
from menura.options import ConversionOptions, EngineOptions
from menura.system.files import temporary_folder

if TYPE_CHECKING:
    from menura.bench.recordings import Recordings

_AGAIN_RUNS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """What is converted."""

    files: int = 1
    seconds: tuple[float, ...]
    """Of each file; several lengths are measured one after the other, each in a process of its own."""
    quick_files: int = 1
    quick_seconds: tuple[float, ...]
    cold: bool = False
    """Measure the command from process start, too, and one recording alone: cold, and again when all is warm."""

    def recordings(self, cache: Path, *, quick: bool) -> Iterator[Recordings]:
        """The recordings of each length. Raises ResourceError."""
        from menura.bench.recordings import recordings  # loads numpy

        for seconds in self.quick_seconds if quick else self.seconds:
            yield recordings(self.quick_files if quick else self.files, seconds, cache)


SUITES: dict[str, Suite] = {
    "batch12": Suite(files=12, seconds=(5,), quick_files=3, quick_seconds=(2,), cold=True),
    "five-minutes": Suite(seconds=(300,), quick_seconds=(20,)),
    "hour": Suite(seconds=(3600,), quick_seconds=(60,)),
    "minutes": Suite(seconds=(60, 600), quick_seconds=(5, 30)),
    "memory": Suite(seconds=(180, 1800, 10_800), quick_seconds=(5, 30, 60)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured, and how."""

    suites: tuple[str, ...]
    options: ConversionOptions
    engine: EngineOptions
    quick: bool = False
    rounds: int = 1
    """Each suite is measured that often, in turn; the least cost counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteResult:
    """A suite's figures."""

    loaded: tuple[Measurement, ...]
    """Of each length, networks loaded before the clock starts."""
    others: Mapping[str, Measurement] = field(default_factory=dict)
    """`cold`: the same from process start to end; `cold_one`: one recording; `again`: one, when all is warm."""

    def document(self) -> dict[str, Any]:
        """As plain values: the figures of the longest, then the others, then those of each of several lengths."""
        document = self.loaded[-1].document() | {name: figures.document() for name, figures in self.others.items()}
        several = len(self.loaded) > 1
        return document | ({"lengths": [figures.document() for figures in self.loaded]} if several else {})

    def best_with(self, other: SuiteResult) -> SuiteResult:
        """The least cost of each figure, and the largest peak."""
        return SuiteResult(
            loaded=tuple(map(_least, self.loaded, other.loaded)),
            others={name: _least(figures, other.others[name]) for name, figures in self.others.items()},
        )


def _least(a: Measurement, b: Measurement) -> Measurement:
    return replace(min(a, b, key=lambda run: run.cost), peak_mb=max(a.peak_mb, b.peak_mb))


def convert_command(
    sources: Sequence[str], output: str, options: ConversionOptions, engine: EngineOptions
) -> list[str]:
    """The command line that converts files, or a folder, in a process of its own."""
    words = [sys.executable, "-m", "menura", "convert", *sources, "-o", output, "--quiet"]
    words += ["--voice", options.voice, "--f0", options.f0, "--device", engine.device]
    optional = {"--index": options.index, "--threads": engine.threads, "--home": engine.home}
    for flag, value in optional.items():
        words += [] if value is None else [flag, str(value)]
    return words if engine.cudnn else [*words, "--no-cudnn"]


def measure_suites(plan: Plan, cache: Path, on_step: Callable[[str], None]) -> dict[str, Any]:
    """Measure, and give each suite's figures by its name, with `about`: where and with what they were taken.

    Args:
        plan: what.
        cache: where the recordings are kept.
        on_step: called with a line at each step.

    Raises:
        MenuraError: a conversion failed.
        ResourceError: recordings can't be written.
    """
    best: dict[str, SuiteResult] = {}
    machine: dict[str, Any] = {}
    for _ in range(plan.rounds):
        for name in plan.suites:
            result, machine = _measured(name, plan, cache, on_step)
            best[name] = best[name].best_with(result) if name in best else result
    about = {**machine, "voice": plan.options.voice, "quick": plan.quick}
    return {**{name: result.document() for name, result in best.items()}, "about": about}


def _measured(name: str, plan: Plan, cache: Path, on_step: Callable[[str], None]) -> tuple[SuiteResult, dict[str, Any]]:
    """A suite's figures, and the machine they belong to."""
    from menura.bench.conversion import measure_conversion

    suite, loaded = SUITES[name], []
    for sound in suite.recordings(cache, quick=plan.quick):
        on_step(f"{name}: {len(sound.paths)} × {sound.seconds:g} s")
        again_runs = _AGAIN_RUNS if suite.cold else 0
        answer = in_fresh_process(measure_conversion, sound.paths, plan.options, plan.engine, again_runs)
        loaded.append(answer.loaded)
    others = {}
    for key, count in {"cold": len(sound.paths), "cold_one": 1}.items() if suite.cold else ():
        on_step(f"{name}: {count} from process start")
        others[key] = _cold(plan, sound, count, answer.loaded.sgemm_gflops)
    if answer.again is not None:
        others["again"] = answer.again
    return SuiteResult(loaded=tuple(loaded), others=others), answer.machine


def _cold(plan: Plan, sound: Recordings, count: int, sgemm_gflops: float) -> Measurement:
    """The command on the first recordings, from its start to its end."""
    with temporary_folder() as folder:
        sources = [str(path) for path in sound.paths[:count]]
        took = timed(convert_command(sources, str(folder), plan.options, plan.engine))
    if took.exit_code != 0:
        raise MenuraError("menura convert", f"ended with exit code {took.exit_code}: {took.last_line}")
    return Measurement(
        wall_s=took.wall_s,
        audio_s=count * sound.seconds,
        files=count,
        sgemm_gflops=sgemm_gflops,
        peak_mb=took.peak_mb,
        busy_cores=took.cpu_s / took.wall_s,
    )
