"""What a conversion shows: its progress, then its results, problems and timings."""

from __future__ import annotations

import dataclasses
import time
from typing import TextIO

from menura.cli.derive import flag_with
from menura.cli.terminal import LiveLine, columns_of, cut_start, fail, say, say_lines, table, warn
from menura.jobs.plan import STANDARD
from menura.types import Progress, RunReport, StageTimes, State

STAGES = tuple(field.name for field in dataclasses.fields(StageTimes))
_LABEL = 23
_SHORTEST_NAME = 12


def show_results(report: RunReport, *, err: bool, common_shift: bool = False) -> None:
    """One line for every output, with its notes; for several inputs a line that counts, and the shift of all."""
    for result in report.files:
        if result.output is None or result.resumed:
            continue
        speed = "no sound"
        if factor := result.real_time_factor:
            comparison = f"{1 / factor:.1f} times faster" if factor < 1 else f"{factor:.1f} times slower"
            speed = f"in {result.wall_s:.2f} s, {comparison} than real time"
        say(f"{result.output}  {result.audio_s:.2f} s at {result.output_rate} Hz, {speed}", err=err)
        for note in result.notes:
            say(f"  note: {note}", err=err)
    if len(report.files) > 1:
        say(_count(report), err=err)
    shifts = {result.transpose for result in report.files if result.transpose is not None}
    if common_shift and len(shifts) == 1:
        say(f"all recordings transposed by {shifts.pop():+g} semitones", err=err)


def _count(report: RunReport) -> str:
    done = [result for result in report.files if result.output is not None]
    fresh = [result for result in done if not result.resumed]
    line = f"{len(done)} of {len(report.files)} converted"
    if len(fresh) < len(done):
        line += f" ({len(done) - len(fresh)} by an earlier run; --force converts them again)"
    if fresh:
        line += f", {clock(sum(result.audio_s for result in fresh))} of sound in {clock(report.wall_s)}"
    return line


def show_problems(report: RunReport) -> None:
    """One line on standard error for every input that was not converted completely, then a summary of several."""
    shown = set()
    for result in report.files:
        if result.error is None or result.error in shown:
            continue
        shown.add(result.error)
        error = result.error.about({STANDARD: "standard input"})
        subject = error.subject or (result.input if len(report.files) > 1 and not error.option else None)
        text = dataclasses.replace(error, subject=subject).text(flag_with)
        warn(text) if result.state is State.WARNING else fail(text)
    if report.failed and len(report.files) > 1:
        names = ", ".join(result.input for result in report.failed)
        fail(f"{len(report.failed)} of {len(report.files)} failed: {names}")


def show_timings(report: RunReport, *, err: bool) -> None:
    """A table of seconds by stage, for every output and in all."""
    done = [result for result in report.files if result.output is not None and not result.resumed]
    rows = [("seconds by stage", *(name.removesuffix("_s") for name in STAGES), "total", "RTF")]
    rows += [_timing_row(result.input, result.stages, result.wall_s, result.audio_s) for result in done]
    if len(done) != 1:
        sums = {name: sum(getattr(result.stages, name) for result in done) for name in STAGES}
        rows.append(_timing_row("total", StageTimes(**sums), report.wall_s, sum(result.audio_s for result in done)))
    say_lines(table(rows, numbers=True), err=err)
    loads = ", ".join(f"{name} ×{count}" for name, count in report.model_loads.items())
    say(f"peak memory {report.peak_memory_mb:.0f} MiB; loaded: {loads or 'nothing'}", err=err)


def _timing_row(name: str, stages: StageTimes, wall_s: float, audio_s: float) -> tuple[str, ...]:
    seconds = (f"{getattr(stages, stage):.3f}" for stage in STAGES)
    return cut_start(name, _LABEL), *seconds, f"{wall_s:.3f}", f"{wall_s / audio_s:.3f}" if audio_s else "-"


class ProgressLine:
    """Progress on standard error: one live line on a terminal, else a line for every file begun of several."""

    def __init__(self, *, quiet: bool, stream: TextIO | None = None) -> None:
        self._line = None if quiet else LiveLine(self._text, stream)
        self._progress: Progress | None = None
        self._begun = 0
        self._begun_s = self._updated_s = time.monotonic()
        if self._line:
            self._line.show()

    def __call__(self, progress: Progress) -> None:
        """Show how far the run has come."""
        self._progress, self._updated_s = progress, time.monotonic()
        if self._line and self._line.live:
            self._line.show()
        elif self._line and progress.files > 1 and progress.files_begun > self._begun:
            self._begun = progress.files_begun
            say(f"{progress.files_begun}/{progress.files} {progress.file}", err=True)

    def close(self) -> None:
        """Take the line away."""
        if self._line:
            self._line.close()

    def _text(self, columns: int) -> str:
        progress, now_s = self._progress, time.monotonic()
        if progress is None:
            return f"loading ... {clock(now_s - self._begun_s)}"
        since_s = now_s - self._updated_s
        filled = min(10, round(10 * progress.audio_done_s / progress.audio_s)) if progress.audio_s else 0
        bar, begin = f"[{'#' * filled}{'-' * (10 - filled)}] ", f"{progress.files_begun}/{progress.files} "
        end = f"  {_pace(dataclasses.replace(progress, wall_s=progress.wall_s + since_s), since_s)}"
        room = columns - columns_of(bar + begin + end)
        if room < min(_SHORTEST_NAME, columns_of(progress.file)):  # a narrow terminal
            bar, room = "", columns - columns_of(begin + end)
        return f"{bar}{begin}{cut_start(progress.file, max(room, 1))}{end}"


def _pace(progress: Progress, since_s: float) -> str:
    """How much sound is done, of how much, how fast, and how long it will take."""
    text = clock(progress.audio_done_s)
    if progress.audio_s is not None:
        text += f" of {clock(progress.audio_s)}"
    if progress.real_time_factor:
        text += f", {1 / progress.real_time_factor:.1f}x real time"
    if progress.left_s is not None:
        text += f", {clock(max(0.0, progress.left_s - since_s))} left"
    return text


def clock(seconds: float) -> str:
    """0:07, 1:46, 2:03:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
