"""`menura bench`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from menura.cli.derive import option_of, options_of, values_of
from menura.cli.report import echo_json, write_json
from menura.options import ConversionOptions, EngineOptions

if TYPE_CHECKING:
    from menura.bench.kernels import KernelAnswer
    from menura.bench.other import Program

SUITES = ("batch12", "five-minutes", "hour", "minutes", "memory")
_ALL = "all"
_STANDARD = "-"
_DECODER_SECONDS, _QUICK_DECODER_SECONDS = 4.0, 0.5
_DECODER_ROUNDS, _QUICK_DECODER_ROUNDS = 5, 2


@click.command()
@click.option(
    "--suite",
    "suites",
    multiple=True,
    type=click.Choice((*SUITES, _ALL)),
    help="What is converted: 12 files of 5 s (from process start, too, and one again when all is warm), 5 minutes, an "
    "hour, or 3 minutes, 30 and 3 hours for their memory. May be given several times.  [default: batch12]",
)
@click.option(
    "--kernels",
    is_flag=True,
    help="The decoder alone, by compiled kernels, torch and ONNX Runtime; then the other networks, by the first two.",
)
@click.option(
    "--compare",
    metavar="COMMAND",
    help="Time another program in turn: a command with {in} and {out} for one file, or {in_dir} and {out_dir} for a "
    "folder of them. It is split into words as a shell does, but no shell is used.",
)
@click.option(
    "--full-size",
    is_flag=True,
    help="With a v2 40k RVC voice, ContentVec, RMVPE and an index of 30 000 vectors, all of random weights and made in "
    "the cache (950 MB).",
)
@click.option("--quick", is_flag=True, help="Much less to convert: to see that it runs, or on a slow machine.")
@click.option(
    "--rounds",
    type=click.IntRange(1, 1000),
    help="Measure so often, in turn; the best counts.  [default: 1; 5 for --kernels]",
)
@click.option(
    "--json",
    "json_to",
    is_flag=False,
    flag_value=_STANDARD,
    metavar="[FILE]",
    help="Print one JSON document and nothing else, or write it to FILE.",
)
@option_of(ConversionOptions, "voice")
@option_of(ConversionOptions, "index")
@options_of(EngineOptions)
@click.pass_context
def bench(ctx: click.Context, /, **given: Any) -> None:
    """Measure speed and memory on this machine.

    Times are told as work-normalised cost, too: wall seconds x sgemm GFLOP/s / audio seconds, which can be compared
    between machines. Recordings are made of the bundled one and kept in the data folder's cache, which `menura assets
    clean` empties.
    """
    from menura.cli.bench_tables import problems, tables

    request = _request(ctx, given)
    document = _measured(request)
    if request.json_to == _STANDARD:
        echo_json(document)
    else:
        for line in tables(document):
            click.echo(line)
    if request.json_to is not None and request.json_to != _STANDARD:
        write_json(document, Path(request.json_to))
    found = problems(document)
    for line in found:
        click.echo(f"menura: {line}", err=True)
    ctx.exit(1 if found else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    suites: tuple[str, ...]
    kernels: bool
    kernels_of: str | None
    """A voice that was named; None is a full-size one."""
    other: Program | None
    full_size: bool
    quick: bool
    rounds: int | None
    json_to: str | None
    options: ConversionOptions
    engine: EngineOptions


def _request(ctx: click.Context, given: dict[str, Any]) -> _Request:
    """What was asked for.

    Raises:
        click.UsageError: options that exclude each other.
        OptionError: a value out of range, or a command that can't be run.
    """
    named = [name for name in ("voice", "index") if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if given["full_size"] and named:
        raise click.UsageError(f"--full-size and --{named[0]} exclude each other.", ctx)
    suites = given["suites"]
    if _ALL in suites:
        suites = SUITES
    elif not suites and not (given["kernels"] and given["compare"] is None):
        suites = SUITES[:1]
    other = None
    if given["compare"] is not None:
        from menura.bench.other import parse_program

        other = parse_program(given["compare"])
    return _Request(
        suites=tuple(dict.fromkeys(suites)),
        kernels=given["kernels"],
        kernels_of=given["voice"] if "voice" in named else None,
        other=other,
        full_size=given["full_size"],
        quick=given["quick"],
        rounds=given["rounds"],
        json_to=given["json_to"],
        options=ConversionOptions(voice=given["voice"], index=given["index"]),
        engine=values_of(EngineOptions, given),
    )


def _measured(request: _Request) -> dict[str, Any]:
    """All figures, and where they come from."""
    from menura.bench.document import about_document, kernels_document, suites_document

    document: dict[str, Any] = {}
    machine = None
    voice = "full-size" if request.full_size else request.options.voice
    if request.suites:
        from menura.bench.suites import Plan, Subject, full_size_subject, run_suites
        from menura.voices.assets import bench_folder, home_folder
        from menura.voices.library import find_voice

        home = home_folder(request.engine.home)
        if request.full_size:
            subject = full_size_subject(request.engine, _say)
        else:
            find_voice(request.options.voice, home)  # a misspelt name is told at once
            subject = Subject(options=request.options, engine=request.engine)
        plan = Plan(suites=request.suites, quick=request.quick, rounds=request.rounds or 1, other=request.other)
        outcome = run_suites(subject, plan, bench_folder(home), _say)
        machine = outcome.machine
        document |= suites_document(outcome, full_size=request.full_size)
    if request.kernels:
        answer = _kernels(request)
        machine = machine or answer.machine
        document["kernels"] = kernels_document(answer)
    assert machine is not None
    document["about"] = about_document(machine, voice=voice, quick=request.quick)
    return document


def _kernels(request: _Request) -> KernelAnswer:
    from menura.bench.kernels import KernelRequest, measure_kernels
    from menura.bench.process import in_fresh_process
    from menura.system.device import physical_cores
    from menura.voices.assets import home_folder
    from menura.voices.library import find_voice

    path = None
    if request.kernels_of is not None:
        path = find_voice(request.kernels_of, home_folder(request.engine.home)).path
    threads = request.engine.threads
    _say("kernels: the decoder alone, then the other networks")
    return in_fresh_process(
        measure_kernels,
        KernelRequest(
            threads=tuple(sorted({1, physical_cores()})) if threads is None else (threads,),
            seconds=_QUICK_DECODER_SECONDS if request.quick else _DECODER_SECONDS,
            rounds=request.rounds or (_QUICK_DECODER_ROUNDS if request.quick else _DECODER_ROUNDS),
            voice=path,
        ),
    )


def _say(text: str) -> None:
    click.echo(text, err=True)
