"""The suites: what is converted, how it is measured, and what comes of it. Loads no torch itself."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from menura.bench.figures import Measurement
from menura.bench.inputs import Recordings, recordings
from menura.bench.other import IN, IN_FOLDER, OUT, OUT_FOLDER, Comparison, Program, compare
from menura.bench.process import in_fresh_process, timed
from menura.errors import MenuraError
from menura.options import ConversionOptions, EngineOptions
from menura.voices.assets import bench_folder, home_folder

if TYPE_CHECKING:
    from menura.bench.machine import Machine
    from menura.bench.measure import MeasureAnswer

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """What is converted."""

    name: str
    title: str
    files: int = 1
    seconds: tuple[float, ...]
    """Of each file; several lengths are measured one after the other, each in a process of its own."""
    quick_files: int = 1
    quick_seconds: tuple[float, ...]
    cold: bool = False
    """Measure the command from process start, too, and one recording alone: cold, and again when all is warm."""

    def size(self, *, quick: bool) -> tuple[int, tuple[float, ...]]:
        """Number of files, and their lengths."""
        return (self.quick_files, self.quick_seconds) if quick else (self.files, self.seconds)


SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite(
            name="batch12",
            title="12 files of 5 s",
            files=12,
            seconds=(5,),
            quick_files=3,
            quick_seconds=(2,),
            cold=True,
        ),
        Suite(name="five-minutes", title="one file of 5 minutes", seconds=(300,), quick_seconds=(20,)),
        Suite(name="hour", title="one file of an hour", seconds=(3600,), quick_seconds=(60,)),
        Suite(name="minutes", title="1 minute, 10", seconds=(60, 600), quick_seconds=(5, 30)),
        Suite(name="memory", title="3 minutes, 30, 3 hours", seconds=(180, 1800, 10_800), quick_seconds=(5, 30, 60)),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """With what is converted."""

    options: ConversionOptions
    engine: EngineOptions

    def program(self, *, folders: bool) -> Program:
        """The command line that does it."""
        places = (IN_FOLDER, OUT_FOLDER) if folders else (IN, OUT)
        return Program(words=tuple(self._command([places[0]], places[1])), folders=folders)

    def command(self, sources: Sequence[Path], folder: Path) -> list[str]:
        """The same for files that are named."""
        return self._command([str(source) for source in sources], str(folder))

    def _command(self, sources: Sequence[str], output: str) -> list[str]:
        words = [sys.executable, "-m", "menura", "convert", *sources, "-o", output, "--quiet"]
        words += ["--voice", self.options.voice, "--f0", self.options.f0, "--device", self.engine.device]
        optional = {"--index": self.options.index, "--threads": self.engine.threads, "--home": self.engine.home}
        for flag, value in optional.items():
            words += [] if value is None else [flag, str(value)]
        return words if self.engine.cudnn else [*words, "--no-cudnn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How it is measured."""

    suites: tuple[str, ...]
    quick: bool = False
    rounds: int = 1
    """Each of them is measured that often, in turn; the least cost counts."""
    other: Program | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteResult:
    """A suite's figures."""

    suite: str
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
    comparisons: tuple[Comparison, ...] = ()
    """With another program, for each length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All figures of a run."""

    machine: Machine
    results: tuple[SuiteResult, ...]


def full_size_subject(engine: EngineOptions, say: Say) -> Subject:
    """The full-size voice of seeded weights, made in the cache if it isn't there.

    Raises:
        OSError: it can't be written.
    """
    home = bench_folder(home_folder(engine.home)) / "full-size"
    say(f"a full-size voice with its networks and index: {home} (950 MB, made at the first run)")
    options = in_fresh_process(_made, home)
    return Subject(options=options, engine=replace(engine, home=home))


def _made(home: Path) -> ConversionOptions:
    from menura.bench.full_size import VOICE_NAME, make_home

    make_home(home)
    return ConversionOptions(voice=VOICE_NAME, f0="rmvpe")


def run_suites(subject: Subject, plan: Plan, cache: Path, say: Say) -> Outcome:
    """Measure.

    Args:
        subject: with what.
        plan: which suites, and how.
        cache: where the recordings are kept.
        say: told what is being done.

    Raises:
        MenuraError: a conversion failed.
        OSError: recordings can't be written.
    """
    run = _Run(subject, plan, cache, say)
    best: dict[str, SuiteResult] = {}
    for _ in range(plan.rounds):
        for name in plan.suites:
            result = run.measured(SUITES[name])
            best[name] = _better(best.get(name, result), result)
    results = [replace(best[name], comparisons=run.compared(SUITES[name])) for name in plan.suites]
    assert run.machine is not None
    return Outcome(machine=run.machine, results=tuple(results))


class _Run:
    def __init__(self, subject: Subject, plan: Plan, cache: Path, say: Say) -> None:
        self._subject, self._plan, self._cache, self._say = subject, plan, cache, say
        self.machine: Machine | None = None

    def measured(self, suite: Suite) -> SuiteResult:
        """A suite's figures, without the other program."""
        runs: list[Measurement] = []
        answer: MeasureAnswer | None = None
        for sound in self._recordings(suite):
            answer = self._loaded(suite, sound)
            runs.append(answer.loaded)
        assert answer is not None
        made = SuiteResult(suite=suite.name, main=runs[-1], lengths=tuple(runs) if runs[1:] else ())
        if not suite.cold:
            return made
        return replace(
            made,
            cold=self._cold(suite, sound, len(sound.paths), answer.loaded.sgemm_gflops),
            cold_one=self._cold(suite, sound, 1, answer.loaded.sgemm_gflops),
            again=answer.again,
        )

    def compared(self, suite: Suite) -> tuple[Comparison, ...]:
        """The other program's figures, where there is one."""
        other = self._plan.other
        if other is None:
            return ()
        self._say(f"{suite.name}: in turn with {other.words[0]}")
        menura = self._subject.program(folders=other.folders)
        return tuple(compare(other, menura, sound, self._plan.rounds) for sound in self._recordings(suite))

    def _recordings(self, suite: Suite) -> Iterator[Recordings]:
        files, lengths = suite.size(quick=self._plan.quick)
        for seconds in lengths:
            yield recordings(files, seconds, self._cache)

    def _loaded(self, suite: Suite, sound: Recordings) -> MeasureAnswer:
        from menura.bench.measure import MeasureRequest, measure

        self._say(f"{suite.name}: {len(sound.paths)} x {sound.seconds:g} s")
        request = MeasureRequest(
            paths=sound.paths, options=self._subject.options, engine=self._subject.engine, again=suite.cold
        )
        answer = in_fresh_process(measure, request)
        self.machine = self.machine or answer.machine
        return answer

    def _cold(self, suite: Suite, sound: Recordings, count: int, sgemm_gflops: float) -> Measurement:
        """The command on the first recordings, from its start to its end."""
        self._say(f"{suite.name}: {count} from process start")
        with tempfile.TemporaryDirectory(prefix="menura-bench-") as folder:
            took = timed(self._subject.command(sound.paths[:count], Path(folder)))
        if took.exit_code != 0:
            raise MenuraError(f"`menura convert` ended with exit code {took.exit_code}: {took.last_words}")
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
