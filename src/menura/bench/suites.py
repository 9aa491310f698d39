"""The suites: what is converted, how it is measured, and what comes of it. Loads no torch itself."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from menura.errors import MenuraError, ResourceError
from menura.options import ConversionOptions, EngineOptions
from menura.system.files import replacing, temporary_folder
from menura.system.processes import spawn
from menura.types import StageTimes

_CLIP = Path(__file__).resolve().parent.parent / "assets" / "demo" / "librivox_0870.flac"
_SINGLE_SEED = 99
_AGAIN_RUNS = 3
_END_S = 20.0

Answer = TypeVar("Answer")


def in_fresh_process(task: Callable[..., Answer], *arguments: object) -> Answer:
    """Call a module's function in a new interpreter, and give or raise what it does; ResourceError if it was killed."""
    process, pipe = spawn(_answer, task, arguments, name="menura-bench")
    try:
        answer: Answer | Exception = pipe.recv()
    except EOFError:
        process.join(_END_S)
        problem = f"the measuring process ended with exit code {process.exitcode}"
        raise ResourceError(None, problem, "Most likely memory ran out") from None
    finally:
        pipe.close()
        process.kill()
        process.join()
    if isinstance(answer, Exception):
        raise answer
    return answer


def _answer(pipe: Connection, task: Callable[..., object], arguments: tuple[object, ...]) -> None:
    try:
        answer = task(*arguments)
    except Exception as error:  # noqa: BLE001  (the process edge: the parent raises it)
        answer = error
    pipe.send(answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """What a program took from its start to its end."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    """Largest resident memory, MiB, of itself or a child; on Linux at least that of this process, which is small as
    long as nothing here imports torch. 0, as cpu_s, where the system doesn't say."""
    exit_code: int
    """Negative: the signal that ended it."""
    last_line: str
    """Of what it wrote on standard error."""


def timed(command: Sequence[str]) -> Timed:
    """Run a program, without a shell, and time it; what it prints is thrown away. Raises OSError if it can't start."""
    quiet, cpu_s, peak_mb = subprocess.DEVNULL, 0.0, 0.0
    with tempfile.TemporaryFile() as errors:
        start_s = time.perf_counter()
        # In a session of its own, so that it can be ended with its children.
        process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=errors, start_new_session=True)
        try:
            if hasattr(os, "wait4"):
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
                cpu_s = usage.ru_utime + usage.ru_stime
                peak_mb = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
            else:  # Windows
                process.wait()
        finally:
            if process.returncode is None:
                if hasattr(os, "killpg"):
                    os.killpg(process.pid, signal.SIGKILL)
                process.kill()
                process.wait()
        wall_s = time.perf_counter() - start_s
        errors.seek(0)
        *_, last_line = ("", *errors.read().decode(errors="replace").strip().splitlines())
    return Timed(wall_s=wall_s, cpu_s=cpu_s, peak_mb=peak_mb, exit_code=process.returncode, last_line=last_line.strip())


@dataclass(frozen=True, slots=True, kw_only=True)
class Recordings:
    """Files of equal length, alone in their folder."""

    folder: Path
    paths: tuple[Path, ...]
    seconds: float
    """Of each."""


def recordings(count: int, seconds: float, cache: Path) -> Recordings:
    """The bundled recording, looped and varied: so many of that length, all different, 16 kHz, 16 bits; made once."""
    folder = cache / "inputs" / f"{count}x{seconds:g}s"
    paths = tuple(folder / f"{number:02}.wav" for number in range(count))
    for seed, path in enumerate(paths) if count > 1 else [(_SINGLE_SEED, paths[0])]:
        if not path.exists():
            with replacing(path) as partial:
                _loop(partial, seconds, seed)
    return Recordings(folder=folder, paths=paths, seconds=seconds)


def _loop(path: Path, seconds: float, seed: int) -> None:
    """Write the clip again and again, from changing places, at changing speed and level."""
    import numpy as np
    import soundfile

    clip, rate = soundfile.read(_CLIP, dtype="float32")
    rng, missing = np.random.default_rng(seed), int(seconds * rate)
    with soundfile.SoundFile(path, "w", rate, 1, format="WAV") as file:
        while missing > 0:
            speed, level, start = rng.uniform(0.9, 1.1), rng.uniform(0.5, 1.0), int(rng.integers(0, len(clip) // 2))
            piece = clip[start:]
            at = np.arange(0, len(piece) - 1, speed)
            varied = np.interp(at, np.arange(len(piece)), piece)[:missing] * level
            file.write(varied.astype(np.float32))
            missing -= len(varied)


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
class Measurement:
    """Figures of one run."""

    wall_s: float
    audio_s: float
    files: int
    sgemm_gflops: float
    """What matrix products reached with the same threads at the same time: the machine's speed."""
    peak_mb: float
    """Largest resident memory of the process, MiB."""
    busy_cores: float
    """CPU time by wall time: with less than the threads, the machine was shared or threads waited."""
    stages: StageTimes = field(default_factory=StageTimes)
    """Sums over the files; files overlap."""

    @property
    def cost(self) -> float:
        """GFLOP that could have been done for a second of audio: comparable between machines."""
        return self.wall_s * self.sgemm_gflops / self.audio_s

    @property
    def real_time_factor(self) -> float:
        return self.wall_s / self.audio_s

    def document(self) -> dict[str, Any]:
        stages = {name.removesuffix("_s"): round(value, 6) for name, value in dataclasses.asdict(self.stages).items()}
        return {
            "wall_s": round(self.wall_s, 6),
            "audio_s": round(self.audio_s, 6),
            "files": self.files,
            "sgemm_gflops": round(self.sgemm_gflops, 2),
            "cost": round(self.cost, 3),
            "real_time_factor": round(self.real_time_factor, 6),
            "peak_mb": round(self.peak_mb, 1),
            "busy_cores": round(self.busy_cores, 3),
            **({"stages": stages} if any(stages.values()) else {}),
        }

    def best_with(self, other: Measurement) -> Measurement:
        """The one of the least cost, with the largest peak."""
        return replace(min(self, other, key=lambda run: run.cost), peak_mb=max(self.peak_mb, other.peak_mb))


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
        return SuiteResult(
            loaded=tuple(map(Measurement.best_with, self.loaded, other.loaded)),
            others={name: figures.best_with(other.others[name]) for name, figures in self.others.items()},
        )


def convert_command(
    sources: Sequence[str], output: str, options: ConversionOptions, engine: EngineOptions
) -> list[str]:
    """The command line that converts files, or a folder, in a process of its own."""
    words = [sys.executable, "-m", "menura", "convert", *sources, "-o", output, "--quiet"]
    words += ["--voice", options.voice, "--f0", options.f0, "--device", engine.device]
    words += ["--precision", engine.precision]
    optional = {"--index": options.index, "--index-rate": options.index_rate}
    optional |= {"--threads": engine.threads, "--home": engine.home}
    for flag, value in optional.items():
        words += [] if value is None else [flag, str(value)]
    return words + ["--no-cudnn"] * (not engine.cudnn) + ["--compile"] * engine.compile


def measure_suites(plan: Plan, cache: Path, on_step: Callable[[str], None]) -> dict[str, Any]:
    """Measure, and give each suite's figures by its name, with `about`: where and with what they were taken.

    Recordings are kept in the cache; `on_step` is called with a line at each step. Raises MenuraError.
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

    suite, loaded, others = SUITES[name], [], {}
    for sound in suite.recordings(cache, quick=plan.quick):
        on_step(f"{name}: {len(sound.paths)} × {sound.seconds:g} s")
        again_runs = _AGAIN_RUNS if suite.cold else 0
        figures, again, machine = in_fresh_process(
            measure_conversion, sound.paths, plan.options, plan.engine, again_runs
        )
        loaded.append(figures)
    for key, count in {"cold": len(sound.paths), "cold_one": 1}.items() if suite.cold else ():
        on_step(f"{name}: {count} from process start")
        others[key] = _cold(plan, sound, count, figures.sgemm_gflops)
    if again is not None:
        others["again"] = again
    return SuiteResult(loaded=tuple(loaded), others=others), machine


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
