"""What a run tells: progress while it goes on, then lines, a table, or one JSON document."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import click

from menura import __version__
from menura.cli.derive import flag_with
from menura.errors import ErrorDetails
from menura.system.files import write_whole
from menura.types import FileResult, Place, Progress, RunReport, StageTimes, State

STAGES = tuple(field.name for field in dataclasses.fields(StageTimes))


def document(report: RunReport) -> dict[str, Any]:
    """The run as plain values, for JSON."""
    return {
        "version": __version__,
        "files": [_file_document(result) for result in report.files],
        "wall_s": round(report.wall_s, 6),
        "peak_memory_mb": round(report.peak_memory_mb, 1),
        "model_loads": dict(report.model_loads),
    }


def _file_document(result: FileResult) -> dict[str, Any]:
    factor = result.real_time_factor
    return {
        "input": result.input,
        "output": None if result.output is None else str(result.output),
        "state": result.state.value,
        "error": None if result.error is None else dataclasses.asdict(result.error),
        "notes": list(result.notes),
        "audio_s": result.audio_s,
        "output_samples": result.output_samples,
        "output_rate": result.output_rate,
        "f0_method": result.f0_method,
        "transpose": result.transpose,
        "wall_s": round(result.wall_s, 6),
        "real_time_factor": None if factor is None else round(factor, 6),
        "stages": {name.removesuffix("_s"): round(getattr(result.stages, name), 6) for name in STAGES},
        "seams_s": list(result.seams_s),
        "resumed": result.resumed,
    }


def echo_json(value: object) -> None:
    """Print one JSON document on standard output."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def write_json(value: object, path: Path) -> None:
    """Write one JSON document to a file, which appears when it is complete.

    Raises:
        ResourceError: it can't be written.
    """
    write_whole(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace"))


def failed_report(inputs: Sequence[Place], error: ErrorDetails) -> RunReport:
    """A run that could not even begin."""
    files = tuple(FileResult(input=str(path), output=None, state=State.FAILED, error=error) for path in inputs)
    return RunReport(files=files, wall_s=0.0, peak_memory_mb=0.0, model_loads={})


def tell_results(report: RunReport, to: TextIO) -> None:
    """One line for every output, with its notes."""
    for result in report.files:
        if result.output is None or result.resumed:
            continue
        click.echo(f"{result.output}  {result.audio_s:.2f} s at {result.output_rate} Hz, {_speed(result)}", file=to)
        for note in result.notes:
            click.echo(f"  note: {note}", file=to)
    resumed = sum(result.resumed for result in report.files)
    if resumed:
        click.echo(f"{resumed} of {len(report.files)} were finished before (--force converts them again)", file=to)


def tell_problems(report: RunReport) -> None:
    """One line on standard error for every input that was not converted wholly, then a summary of several."""
    told = set()
    for result in report.files:
        if result.state is State.DONE or result.error in told:
            continue
        told.add(result.error)
        kind = "warning: " if result.state is State.WARNING else ""
        error = result.error or ErrorDetails(kind="unexpected", problem="failed")
        about = error.subject or (result.input if len(report.files) > 1 and not error.option else None)
        said = dataclasses.replace(error, subject=about).text(flag_with)
        click.echo(f"menura: {kind}{said}", err=True)
    if report.failed and len(report.files) > 1:
        names = ", ".join(result.input for result in report.failed)
        click.echo(f"menura: {len(report.failed)} of {len(report.files)} failed: {names}", err=True)


def tell_timings(report: RunReport, to: TextIO) -> None:
    """A table of seconds by stage, for every output and in all."""
    done = [result for result in report.files if result.output is not None and not result.resumed]
    header = f"{'seconds by stage':<16}" + "".join(f"{name.removesuffix('_s'):>11}" for name in STAGES)
    click.echo(header + f"{'all':>11}{'RTF':>8}", file=to)
    for result in done:
        click.echo(_timing_row(Path(result.input).name, result.stages, result.wall_s, result.audio_s), file=to)
    if len(done) != 1:
        sums = {name: sum(getattr(result.stages, name) for result in done) for name in STAGES}
        audio_s = sum(result.audio_s for result in done)
        click.echo(_timing_row("together", StageTimes(**sums), report.wall_s, audio_s), file=to)
    loads = ", ".join(f"{name} ×{count}" for name, count in report.model_loads.items())
    click.echo(f"peak memory {report.peak_memory_mb:.0f} MiB; loaded: {loads or 'nothing'}", file=to)


def _timing_row(name: str, stages: StageTimes, wall_s: float, audio_s: float) -> str:
    label = name if len(name) <= 15 else name[:14] + "…"
    seconds = "".join(f"{getattr(stages, stage):>11.3f}" for stage in STAGES)
    factor = f"{wall_s / audio_s:>8.3f}" if audio_s else f"{'-':>8}"
    return f"{label:<16}{seconds}{wall_s:>11.3f}{factor}"


def _speed(result: FileResult) -> str:
    factor = result.real_time_factor
    return "no sound" if factor is None else f"{result.wall_s:.2f} s of work, real-time factor {factor:.3f}"


class ProgressLine:
    """Progress on standard error: one line kept up to date on a terminal, else one for every file begun of several."""

    _INTERVAL_S = 0.1

    def __init__(self, *, quiet: bool, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._live = not quiet and self._stream.isatty()
        self._width = 0
        self._next_s = 0.0
        self._begun = 0

    def __call__(self, progress: Progress) -> None:
        """Show how far the run has come."""
        line = f"{progress.files_begun}/{progress.files} {Path(progress.file).name}"
        if self._live and time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + self._INTERVAL_S
            self._draw(f"{_bar(progress)} {line}, {_pace(progress)}")
        elif not self._live and not self._quiet and progress.files > 1 and progress.files_begun > self._begun:
            self._begun = progress.files_begun
            click.echo(line, file=self._stream)

    def close(self) -> None:
        """Clear the line."""
        if self._width:
            self._draw("")
            self._stream.write("\r")
            self._stream.flush()

    def _draw(self, text: str) -> None:
        self._stream.write("\r" + text.ljust(self._width))
        self._stream.flush()
        self._width = len(text)


def _bar(progress: Progress, width: int = 20) -> str:
    part = progress.audio_done_s / progress.audio_s if progress.audio_s else 0.0
    filled = min(width, round(width * part))
    return "[" + "#" * filled + "-" * (width - filled) + "]"


def _pace(progress: Progress) -> str:
    """Seconds of sound done, of how many, how fast, and how long it will take."""
    of = "" if progress.audio_s is None else f" of {progress.audio_s:.0f}"
    text = f"{progress.audio_done_s:.0f}{of} s of sound"
    if progress.real_time_factor is not None:
        text += f", real-time factor {progress.real_time_factor:.2f}"
    if progress.left_s is not None:
        text += f", {_clock_time(progress.left_s)} left"
    return text


def _clock_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
