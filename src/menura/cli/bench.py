"""`menura bench`, and its JSON document as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from menura.bench.suites import SUITES, Plan, measure_suites
from menura.cli.derive import option_of, options_of, values_of
from menura.cli.terminal import say, say_json, say_lines, table, write_json
from menura.options import ConversionOptions, EngineOptions
from menura.voices.assets import cache_folder, home_folder
from menura.voices.library import find_voice

_ALL = "all"
_STANDARD_OUTPUT = "-"
_INDEX_RATE = 0.75  # with 0, the default for content of menura-starter, a given index wouldn't be measured
_COLUMNS = {
    "files": "{files}",
    "audio s": "{audio_s:.1f}",
    "wall s": "{wall_s:.2f}",
    "RTF": "{real_time_factor:.3f}",
    "cost": "{cost:.1f}",
    "busy cores": "{busy_cores:.2f}",
    "peak MB": "{peak_mb:.0f}",
}


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
        options=ConversionOptions(voice=voice, index=index, index_rate=None if index is None else _INDEX_RATE),
        engine=engine,
        quick=quick,
        rounds=rounds,
    )
    document = measure_suites(plan, cache_folder(home) / "bench", lambda text: say(text, err=True))
    if json_to == _STANDARD_OUTPUT:
        say_json(document)
        return
    say_lines(tables(document))
    if json_to is not None:
        write_json(document, Path(json_to))


def tables(document: Mapping[str, Any]) -> Iterator[str]:
    about = document["about"]
    yield from about_lines(about)
    yield f"voice {about['voice']}" + ("; quick: not comparable" if about["quick"] else "")
    suites = {name: figures for name, figures in document.items() if figures is not about}
    yield ""
    rows = [["", *_COLUMNS]]
    for name, figures in suites.items():
        rows += [[title, *(cell.format(**run) for cell in _COLUMNS.values())] for title, run in _runs(name, figures)]
    yield from table(rows, numbers=True)
    stages = [figures.get("stages", {}) for figures in suites.values()]
    rows = [["by stage", *stages[0]]]
    for (name, figures), times in zip(suites.items(), stages, strict=True):
        scale = figures["cost"] / figures["wall_s"]
        rows.append([f"{name}, seconds", *(f"{value:.2f}" for value in times.values())])
        rows.append([f"{name}, cost", *(f"{value * scale:.1f}" for value in times.values())])
    yield ""
    yield from table(rows, numbers=True)


def about_lines(about: Mapping[str, Any]) -> Iterator[str]:
    """Where something was measured."""
    commit = f" ({about['commit'][:12]})" if about["commit"] else ""
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    yield f"menura {about['menura']}{commit}, Python {about['python']}, {packages}"
    memory = f", {about['memory_gb']:g} GB" if about["memory_gb"] else ""
    yield f"{about['processor']}, {about['physical_cores']} cores{memory}; {about['system']}"
    threads = f"{about['threads']} thread{'' if about['threads'] == 1 else 's'}"
    yield f"device {about['device']}, {threads}; convolution kernels: {about['kernels']}"


def _runs(name: str, figures: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if "lengths" in figures:
        yield from ((f"{name}, {length['audio_s']:.0f} s", length) for length in figures["lengths"])
        return
    titles = {"cold": "from process start", "cold_one": "one file, from process start"}
    for key, title in {**titles, "": "networks loaded", "again": "one file again, warm"}.items():
        run = figures.get(key) if key else figures
        if run is not None:
            yield f"{name}, {title}", run
