"""The suites: what is converted, how it is measured, and what comes of it. Loads no torch itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from menura.bench.measurement import Measurement
from menura.bench.timing import in_fresh_process, timed
from menura.errors import MenuraError
from menura.options import ConversionOptions, EngineOptions
from menura.system.files import temporary_folder

if TYPE_CHECKING:
    from menura.bench.conversion import ConversionAnswer
    from menura.bench.machine import Machine
    from menura.bench.recordings import Recordings


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

    main: Measurement
    """Networks loaded before the clock starts; of several lengths the longest."""
    cold: Measurement | None = None
    """The same from process start to end."""
    cold_one: Measurement | None = None
    """One recording from process start to end."""
    again: Measurement | None = None
    """One recording, when all is warm."""
    lengths: tuple[Measurement, ...] = ()
    """Of each length, where there are several."""

    def document(self) -> dict[str, Any]:
        """As plain values."""
        parts = {"cold": self.cold, "cold_one": self.cold_one, "again": self.again}
        document = self.main.document() | {name: part.document() for name, part in parts.items() if part is not None}
        return document | ({"lengths": [length.document() for length in self.lengths]} if self.lengths else {})


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
    run = _Run(plan, cache, on_step)
    best: dict[str, SuiteResult] = {}
    for _ in range(plan.rounds):
        for name in plan.suites:
            result = run.measured(name, SUITES[name])
            best[name] = _better(best.get(name, result), result)
    assert run.machine is not None
    about = {**asdict(run.machine), "voice": plan.options.voice, "quick": plan.quick}
    return {**{name: result.document() for name, result in best.items()}, "about": about}


class _Run:
    def __init__(self, plan: Plan, cache: Path, on_step: Callable[[str], None]) -> None:
        self._plan, self._cache, self._on_step = plan, cache, on_step
        self.machine: Machine | None = None

    def measured(self, name: str, suite: Suite) -> SuiteResult:
        runs: list[Measurement] = []
        answer: ConversionAnswer | None = None
        for sound in suite.recordings(self._cache, quick=self._plan.quick):
            answer = self._loaded(name, suite, sound)
            runs.append(answer.loaded)
        assert answer is not None
        result = SuiteResult(main=runs[-1], lengths=tuple(runs) if runs[1:] else ())
        if not suite.cold:
            return result
        return replace(
            result,
            cold=self._cold(name, sound, len(sound.paths), answer.loaded.sgemm_gflops),
            cold_one=self._cold(name, sound, 1, answer.loaded.sgemm_gflops),
            again=answer.again,
        )

    def _loaded(self, name: str, suite: Suite, sound: Recordings) -> ConversionAnswer:
        from menura.bench.conversion import ConversionRequest, measure_conversion

        self._on_step(f"{name}: {len(sound.paths)} × {sound.seconds:g} s")
        request = ConversionRequest(
            paths=sound.paths, options=self._plan.options, engine=self._plan.engine, again=suite.cold
        )
        answer = in_fresh_process(measure_conversion, request)
        self.machine = self.machine or answer.machine
        return answer

    def _cold(self, name: str, sound: Recordings, count: int, sgemm_gflops: float) -> Measurement:
        """The command on the first recordings, from its start to its end."""
        self._on_step(f"{name}: {count} from process start")
        with temporary_folder() as folder:
            sources = [str(path) for path in sound.paths[:count]]
            took = timed(convert_command(sources, str(folder), self._plan.options, self._plan.engine))
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


def _better(a: SuiteResult, b: SuiteResult) -> SuiteResult:
    """The least cost of each figure, and the largest peak."""
    return replace(
        a,
        main=_least(a.main, b.main),
        cold=a.cold and b.cold and _least(a.cold, b.cold),
        cold_one=a.cold_one and b.cold_one and _least(a.cold_one, b.cold_one),
        again=a.again and b.again and _least(a.again, b.again),
        lengths=tuple(_least(x, y) for x, y in zip(a.lengths, b.lengths, strict=True)),
    )


def _least(a: Measurement, b: Measurement) -> Measurement:
    return replace(min(a, b, key=lambda run: run.cost), peak_mb=max(a.peak_mb, b.peak_mb))
