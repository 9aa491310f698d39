"""`menura evaluate`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from menura.cli.derive import home_option
from menura.cli.terminal import note, say_json, say_lines, table
from menura.voices.assets import home_folder

if TYPE_CHECKING:
    from menura.evaluate import Evaluation

FILE = click.Path(path_type=Path)


@click.command()
@click.argument("source", type=FILE)
@click.argument("converted", type=FILE)
@click.option(
    "--target", "targets", type=FILE, multiple=True, metavar="FILE", help="A recording of the target voice; repeatable."
)
@click.option("--text", help="The words that are spoken; by default recognized from SOURCE.")
@click.option("--seam", "seams_s", type=float, multiple=True, metavar="SECONDS", help="Position of a seam; repeatable.")
@click.option("--plot", type=FILE, help="Draw spectrograms and F0 of both to a PNG file (extra 'plots').")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
@home_option
def evaluate(
    source: Path,
    converted: Path,
    targets: tuple[Path, ...],
    text: str | None,
    seams_s: tuple[float, ...],
    plot: Path | None,
    as_json: bool,
    home: Path | None,
) -> None:
    """Measure the quality of a conversion: compare CONVERTED with its SOURCE and with recordings of the target.

    Intelligibility, speaker similarity and naturalness need optional networks; measures whose network is missing are
    listed.
    """
    from menura import evaluate as measures
    from menura.system.files import write_whole

    if plot is not None:
        write_whole(plot, measures.draw_pair(source, converted, seams_s))
    made = measures.evaluate(source, converted, home_folder(home), targets=targets, text=text, seams_s=seams_s)
    if as_json:
        say_json(dataclasses.asdict(made))
        return
    say_lines(table(_rows(made)))
    for line in made.missing:
        note(f"not measured: {line}")


def _rows(made: Evaluation) -> Iterator[tuple[str, str]]:
    yield "character error rate", _percent(made.character_error_rate)
    yield "  of the source", _percent(made.source_character_error_rate)
    if made.speaker:
        yield "speaker shift (0: source, 1: target)", _number(made.speaker.moved)
        yield "  cosine to target", f"{made.speaker.to_target:.3f}, source {made.speaker.source_to_target:.3f}"
    if made.pitch:
        yield "F0 correlation", _number(made.pitch.correlation)
        yield "  voicing agreement", _percent(made.pitch.voiced_agreement)
        yield "  shift in semitones", _number(made.pitch.shift_semitones)
        yield "  gross errors", _percent(made.pitch.gross_error)
    for name, value in (made.naturalness or {}).items():
        yield f"DNSMOS {name}", f"{value:.2f}, source {(made.source_naturalness or {}).get(name, 0.0):.2f}"
    if made.buzz_db is not None:
        yield "buzz at the frame rate (0: none)", f"{made.buzz_db:.1f} dB"
    if made.seams:
        yield "seam detectability, AUC (0.5: none)", f"{made.seams.auc:.2f}, worst {made.seams.worst:.2f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
