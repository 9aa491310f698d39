"""`menura convert`, and what a conversion shows: its progress, then its results, problems and timings."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from menura import __version__
from menura.audio.places import local_input, place_of
from menura.cli import terminal
from menura.cli.derive import GroupedCommand, flag_with, grouped_option, options_of, values_of
from menura.cli.library import offer_weights
from menura.cli.terminal import LiveLine, clock, columns_of, cut_start, fail, say, say_json, say_lines, table, warn
from menura.effects.text import given_text
from menura.errors import MenuraError, OptionError
from menura.jobs.document import report_document
from menura.jobs.plan import STANDARD, Inputs, find_inputs, plan_outputs
from menura.options import BatchOptions, ConversionOptions, EngineOptions
from menura.spans import read_spans
from menura.system.files import check_writable, temporary_folder
from menura.types import Explanation, Item, Place, Progress, RunReport, StageTimes, State, failed_result
from menura.voices.assets import home_folder

STAGES = tuple(field.name for field in dataclasses.fields(StageTimes))
_LABEL, _SHORTEST_NAME = 23, 12


@click.command(cls=GroupedCommand)
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@grouped_option(
    "-o",
    "--output",
    group="output",
    metavar="OUT",
    help="One input: a file, an existing folder, or FOLDER/. Several: a folder. '-' is standard output.  "
    "[default: NAME.VOICE.wav beside the input]",
)
@options_of(ConversionOptions, BatchOptions, EngineOptions)
@grouped_option("--json", "as_json", is_flag=True, help="Print a JSON report on standard output.")
@grouped_option("--explain", is_flag=True, help="Show how each input would be converted; don't convert.")
@grouped_option("--timings", is_flag=True, advanced=True, help="Print a table of seconds by stage.")
@grouped_option("-q", "--quiet", is_flag=True, help="Print only warnings and errors.")
@click.pass_context
def convert(
    ctx: click.Context,
    /,
    inputs: tuple[str, ...],
    output: str | None,
    as_json: bool,
    explain: bool,
    timings: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Convert recordings to a voice.

    INPUT is an audio or video file, a folder, a pattern such as 'talks/*.mp3', or '-' for standard input. If one input
    fails, the others are still converted; the exit code is 0 only if all inputs were converted completely.

    If a run into a folder was interrupted, the same command resumes it: finished files are skipped.
    """
    given["effects"] = given_text(given["effects"])
    given["spans"] = given["spans"] and read_spans(given["spans"])
    options, engine = values_of(ConversionOptions, given), values_of(EngineOptions, given)
    batch = values_of(BatchOptions, given)
    if batch.report is not None and not batch.report.is_char_device() and not batch.report.is_fifo():
        check_writable(batch.report)
    if output is None and inputs == (STANDARD,):
        output = STANDARD
    found = find_inputs(inputs, output, batch)
    _check_standard_streams(found, to_stdout=output == STANDARD and not explain, as_json=as_json)
    if explain:
        ctx.exit(_explain(found, options, engine, as_json=as_json))
    items = plan_outputs(found, output, options)
    folder = place_of(output) if found.many and output is not None else None
    try:
        with contextlib.closing(ProgressLine(quiet=quiet or as_json)) as progress:
            report = _converted(items, folder, options, engine, batch, progress)
    except MenuraError as error:
        if offer_weights(error, home_folder(engine.home)):
            ctx.exit(ctx.invoke(convert, **ctx.params))
        failed = RunReport(files=tuple(failed_result(item.source, error.details) for item in items))
        _show_document(failed, batch.report, as_json=as_json)
        raise
    report = replace(report, files=(*report.files, *found.missing))
    _show_document(report, batch.report, as_json=as_json)
    if not as_json:
        if not quiet:
            show_results(report, err=output == STANDARD, common_shift=options.transpose in (None, "auto-batch"))
        if timings:
            show_timings(report, err=output == STANDARD)
    show_problems(report)
    ctx.exit(report.exit_code)


def _check_standard_streams(found: Inputs, *, to_stdout: bool, as_json: bool) -> None:
    if to_stdout and as_json:
        raise OptionError(None, "the audio goes to standard output", "Add {output=FILE}", option="json")
    if to_stdout and sys.stdout.isatty():
        raise OptionError(None, "standard output is a terminal", "Add {output=FILE}, or pipe it on", option="output")
    if any(str(item.path) == STANDARD for item in found.items) and sys.stdin.isatty():
        raise OptionError("standard input", "is a terminal", "Pipe a recording into it")


def _show_document(report: RunReport, path: Path | None, *, as_json: bool) -> None:
    if as_json:
        say_json(report_document(report))
    if path is not None:
        terminal.write_json(report_document(report), path)


def _converted(
    items: Sequence[Item],
    folder: Place | None,
    options: ConversionOptions,
    engine: EngineOptions,
    batch: BatchOptions,
    progress: ProgressLine,
) -> RunReport:
    """Convert; an error of the request as a whole is raised, one of a recording reported."""
    from menura.audio.decode import spooled_input
    from menura.jobs.batch import convert_items
    from menura.jobs.scheduler import Hooks, with_names
    from menura.loading import resolve

    if not items:
        return RunReport(files=())
    request = resolve(options, home_folder(engine.home))
    with contextlib.ExitStack() as stack:
        local = list(items)  # input is read twice, and only complete output is passed on
        for place, item in enumerate(items):
            if str(item.source) == STANDARD:
                item = replace(item, source=stack.enter_context(spooled_input(sys.stdin.buffer)))
            if str(item.output) == STANDARD:
                output = stack.enter_context(temporary_folder()) / f"stdout.{options.format or 'wav'}"
                item = replace(item, output=output)
            local[place] = item
        hooks = Hooks(on_progress=progress)
        report = convert_items(local, request, folder=folder, batch=batch, engine=engine, hooks=hooks)
        for item, result in zip(items, report.files, strict=True):
            if str(item.output) == STANDARD and isinstance(result.output, Path):
                progress.close()
                terminal.pass_on(result.output)
    return replace(report, files=tuple(map(with_names, report.files, items, local)))


def _explain(found: Inputs, options: ConversionOptions, engine: EngineOptions, *, as_json: bool) -> int:
    """Show the plan for every input; the exit code is 0 only if all of them can be converted."""
    from menura.converter import Converter
    from menura.loading import resolve

    request, converter = resolve(options, home_folder(engine.home)), Converter(engine)
    explanations = []
    for item in found.items:
        place = str(item.path)
        try:
            with contextlib.nullcontext(sys.stdin.buffer) if place == STANDARD else local_input(item.path) as source:
                explanations.append(replace(converter.explain(source, request), input=place))
        except MenuraError as error:
            explanations.append(Explanation(input=place, refusal=error.details))
    explanations += [Explanation(input=result.input, refusal=result.error) for result in found.missing]
    if as_json:
        say_json({"version": __version__, "files": [dataclasses.asdict(explained) for explained in explanations]})
    else:
        say_lines(line for explanation in explanations for line in _lines(explanation))
    return 0 if all(explanation.refusal is None for explanation in explanations) else 1


def _lines(explanation: Explanation) -> Iterator[str]:
    if explanation.strategy is None:
        assert explanation.refusal is not None
        yield replace(explanation.refusal, subject=explanation.input).text(flag_with)
        return
    several = f", {explanation.segments} segments" if explanation.segments > 1 else ""
    yield f"{explanation.input}: {explanation.audio_s:.2f} s, {explanation.strategy}{several}"
    yield from (f"  {reason}" for reason in explanation.reasons)
    if explanation.refusal is not None:
        yield f"  refused: {explanation.refusal.text(flag_with)}"


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
    shifts = sorted({result.transpose for result in report.files if result.transpose is not None})
    if common_shift and len(report.files) > 1 and any(shifts):
        which = "all recordings" if len(shifts) == 1 else "recordings"
        say(f"{which} transposed by {', '.join(f'{shift:+g}' for shift in shifts)} semitones", err=err)


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
        text = replace(error, subject=subject).text(flag_with)
        warn(text) if result.state is State.WARNING else fail(text)
    if report.failed and len(report.files) > 1:
        names = ", ".join(result.input for result in report.failed)
        fail(f"{len(report.failed)} of {len(report.files)} failed: {names}")


def show_timings(report: RunReport, *, err: bool) -> None:
    """A table of seconds by stage, for every output and in all."""
    done = [result for result in report.files if result.output is not None and not result.resumed]
    rows = [("seconds by stage", *(name.removesuffix("_s") for name in STAGES), "total", "RTF")]
    timed = [(result.input, result.stages, result.wall_s, result.audio_s) for result in done]
    if len(done) != 1:
        sums = {name: sum(getattr(result.stages, name) for result in done) for name in STAGES}
        timed.append(("total", StageTimes(**sums), report.wall_s, sum(result.audio_s for result in done)))
    for name, stages, wall_s, audio_s in timed:
        seconds = (f"{getattr(stages, stage):.3f}" for stage in STAGES)
        factor = f"{wall_s / audio_s:.3f}" if audio_s else "-"
        rows.append((cut_start(name, _LABEL), *seconds, f"{wall_s:.3f}", factor))
    say_lines(table(rows, numbers=True), err=err)
    loads = ", ".join(f"{name} ×{count}" for name, count in report.model_loads.items())
    say(f"peak memory {report.peak_memory_mb:.0f} MiB; loaded: {loads or 'nothing'}", err=err)


class ProgressLine:
    """Progress on standard error: one live line on a terminal, else a line for every file begun of several."""

    def __init__(self, *, quiet: bool) -> None:
        self._line = None if quiet else LiveLine(self._text)
        self._progress: Progress | None = None
        self._begun = 0
        self._begun_s = self._updated_s = time.monotonic()
        if self._line:
            self._line.show()

    def __call__(self, progress: Progress) -> None:
        self._progress, self._updated_s = progress, time.monotonic()
        if self._line and self._line.live:
            self._line.show()
        elif self._line and progress.files > 1 and progress.files_begun > self._begun:
            self._begun = progress.files_begun
            say(f"{progress.files_begun}/{progress.files} {progress.file}", err=True)

    def close(self) -> None:
        if self._line:
            self._line.close()

    def _text(self, columns: int) -> str:
        progress, now_s = self._progress, time.monotonic()
        if progress is None:
            return f"loading ... {clock(now_s - self._begun_s)}"
        since_s = now_s - self._updated_s
        filled = min(10, round(10 * (progress.audio_done_s / progress.audio_s))) if progress.audio_s else 0
        bar, begin = f"[{'#' * filled}{'-' * (10 - filled)}] ", f"{progress.files_begun}/{progress.files} "
        end = f"  {_pace(replace(progress, wall_s=progress.wall_s + since_s), since_s)}"
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
