"""`menura bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from menura.bench.suites import SUITES, Plan, measure_suites
from menura.cli.bench_tables import tables
from menura.cli.derive import option_of, options_of, values_of
from menura.cli.terminal import say, say_json, write_json
from menura.options import ConversionOptions, EngineOptions
from menura.voices.assets import cache_folder, home_folder
from menura.voices.library import find_voice

_ALL = "all"
_STANDARD_OUTPUT = "-"


@click.command()
@click.option(
    "--suite",
    "suites",
    multiple=True,
    type=click.Choice((*SUITES, _ALL)),
    help="What to convert: 12 files of 5 s (also from process start, and one file again when warm), "
    "5 minutes, an hour, or several lengths for their memory. Can be repeated.  [default: batch12]",
)
@click.option("--quick", is_flag=True, help="Much shorter inputs, to check that everything runs.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=1, help="Measurements of each suite; the best counts.")
@click.option(
    "--json",
    "json_to",
    is_flag=False,
    flag_value=_STANDARD_OUTPUT,
    metavar="[FILE]",
    help="Print one JSON document instead of tables, or write it to FILE as well.",
)
@option_of(ConversionOptions, "voice")
@option_of(ConversionOptions, "index")
@options_of(EngineOptions)
def bench(
    suites: tuple[str, ...],
    quick: bool,
    rounds: int,
    json_to: str | None,
    voice: str,
    index: Path | None,
    **given: Any,
) -> None:
    """Measure speed and memory on this machine.

    Times are also given as work-normalised cost: wall seconds × sgemm GFLOP/s ÷ audio seconds, which can be compared
    between machines. Recordings are made from the bundled one and kept in the data folder's cache, which `menura assets
    clean` empties.
    """
    engine = values_of(EngineOptions, given)
    home = home_folder(engine.home)
    find_voice(voice, home)  # a misspelt name fails at once
    plan = Plan(
        suites=tuple(SUITES) if _ALL in suites else tuple(dict.fromkeys(suites)) or tuple(SUITES)[:1],
        options=ConversionOptions(voice=voice, index=index),
        engine=engine,
        quick=quick,
        rounds=rounds,
    )
    document = measure_suites(plan, cache_folder(home) / "bench", lambda text: say(text, err=True))
    if json_to == _STANDARD_OUTPUT:
        say_json(document)
        return
    for line in tables(document):
        say(line)
    if json_to is not None:
        write_json(document, Path(json_to))
