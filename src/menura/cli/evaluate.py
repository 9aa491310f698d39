"""`menura evaluate`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from menura.cli.derive import home_option
from menura.cli.terminal import note, say_json, say_lines, table
from menura.errors import OptionError
from menura.system.files import check_writable, write_whole
from menura.voices.assets import home_folder
from menura.voices.library import find_voice

if TYPE_CHECKING:
    from menura.evaluate.judges import Judges
    from menura.evaluate.measures import Target
    from menura.evaluate.report import Report

FILE = click.Path(path_type=Path)
_NO_TARGET = "likeness needs the voice: --voice NAME, or --target with recordings of it"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """The options."""

    voice: str | None
    targets: tuple[Path, ...]
    text: str | None
    seams_s: tuple[float, ...]
    plot: Path | None
    report: Path | None
    as_json: bool
    home: Path


@click.command()
@click.argument("source", type=FILE)
@click.argument("converted", type=FILE)
@click.option("--voice", metavar="VOICE", help="The voice that was converted into, if it is a starter voice.")
@click.option("--target", "targets", type=FILE, multiple=True, help="A recording of the voice, or a folder.")
@click.option(
    "--text",
    help="The words that are spoken; by default recognized from SOURCE. Of folders a file: a JSON list of "
    '{"file": NAME, "text": WORDS}, and "language" where it isn\'t English.',
)
@click.option("--seam", "seams_s", type=float, multiple=True, metavar="SECONDS", help="Position of a seam; repeatable.")
@click.option("--plot", type=FILE, help="Draw spectrograms and F0 of both to a PNG file (extra 'plots').")
@click.option("--report", type=FILE, help="Write a page (HTML) with the worst to hear; and JSON beside it.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
@home_option
def evaluate(source: Path, converted: Path, home: Path | None, **given: Any) -> None:
    """Measure the quality of conversions: compare CONVERTED with its SOURCE and with the target voice.

    Both are files, or folders whose recordings have the same names. Intelligibility, speaker similarity and
    naturalness need optional networks; measures whose network is missing are listed.
    """
    from menura.evaluate.judges import Judges

    asked = _Asked(home=home_folder(home), **given)
    _check(source, converted, asked)
    if asked.plot is not None:
        from menura.evaluate.rating import draw_pair

        write_whole(asked.plot, draw_pair(source, converted, asked.seams_s))
    report = _judged(source, converted, asked, Judges.load(asked.home))
    document = report.document()
    if asked.report is not None:
        report.write(asked.report)
    if asked.as_json:
        say_json(document)
        return
    say_lines(table(_rows(document["summary"], several=source.is_dir()), numbers=True))
    for line in (
        *report.missing,
        *(f"{name}: no conversion of this name" for name in report.alone),
        *(row.error for row in report.rated if row.error),
    ):
        note(f"not measured: {line}")


def _check(source: Path, converted: Path, asked: _Asked) -> None:
    """Raise OptionError or ResourceError for what would fail in the end."""
    if source.is_dir() != converted.is_dir():
        raise OptionError(str(converted), "is to be a folder if the source is one, a file if not")
    if source.is_dir() and (asked.plot or asked.seams_s):
        raise OptionError(None, "is of one recording", option="plot" if asked.plot else "seam")
    if asked.report is not None:
        if asked.report.suffix.lower() not in (".html", ".htm"):
            raise OptionError(str(asked.report), "is to be a page", "End its name in .html", "report")
        check_writable(asked.report)
        if source.is_dir() and asked.text and Path(asked.text).resolve() == asked.report.with_suffix(".json").resolve():
            raise OptionError(str(asked.report), "has its JSON where the texts are", "Choose another name", "report")


def _judged(source: Path, converted: Path, asked: _Asked, judges: Judges) -> Report:
    """All pairs, one after the other."""
    from menura.evaluate.rating import Pair, pairs_in, rate, rate_or_tell, read_texts
    from menura.evaluate.report import Report

    target, alone = _target(asked, judges), list[str]()
    if source.is_dir():
        pairs, alone = pairs_in(source, converted, read_texts(Path(asked.text)) if asked.text else None)
        rows = []
        for number, each in enumerate(pairs, start=1):
            rows.append(rate_or_tell(each, judges, target))
            note(f"{number} of {len(pairs)}: {each.name}")
    else:
        pair = Pair(name=source.stem, source=source, converted=converted, text=asked.text)
        rows = [rate(pair, judges, target=target, seams_s=asked.seams_s)]
    missing = judges.missing if target or judges.speaker is None else (*judges.missing, _NO_TARGET)
    return Report(source=source, converted=converted, voice=asked.voice, rated=rows, alone=alone, missing=missing)


def _target(asked: _Asked, judges: Judges) -> Target | None:
    """What the conversions should sound like, as far as it is known."""
    from menura.evaluate.rating import target_of, target_of_voice

    if asked.targets or asked.voice is None:
        return target_of(asked.targets, judges)
    return target_of_voice(find_voice(asked.voice, asked.home))


def _rows(summary: dict[str, Any], *, several: bool) -> Iterator[tuple[str, ...]]:
    from menura.evaluate.figures import FIGURES

    yield ("", "mean", "source", "worst") if several else ("", "converted", "source")
    for figure in FIGURES:
        shown = [figure.text(summary[figure.name])]
        shown.append(figure.text(summary[f"source_{figure.name}"]) if figure.source else "")
        if several:
            shown.append(figure.text(summary[f"worst_{figure.name}"]) if figure.worse else "")
        yield figure.title, *shown
