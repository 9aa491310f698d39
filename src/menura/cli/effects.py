"""`menura effects`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from menura.cli.derive import Group, options_of, values_of
from menura.cli.terminal import say, say_json, say_lines, table, warn
from menura.effects.definitions import EFFECTS, PRESETS, effects_schema
from menura.effects.text import checked, given_text
from menura.errors import OptionError
from menura.option_spec import specs_of
from menura.options import ConversionOptions
from menura.system.interrupts import check_interrupts

_OUTPUT = ("effects", "loudness", "format", "sample_rate", "bitrate", "quality", "bit_depth")
_NOT_ASKED = [spec.name for spec in specs_of(ConversionOptions) if spec.name not in _OUTPUT]


@click.group(cls=Group)
def effects() -> None:
    """List effects, and apply them to recordings."""


@effects.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print every effect's JSON Schema, and the presets.")
def list_effects(as_json: bool) -> None:
    """List effects with their parameters, and presets."""
    if as_json:
        say_json({"effects": effects_schema(), "presets": PRESETS})
        return
    rows = []
    for name, kind in EFFECTS.items():
        rows.append((name, "", "", kind.help))
        rows += [(f"  {s.name}", s.default_text, s.range_text, s.help) for s in specs_of(kind)]
    say_lines(table([("effect", "default", "range", "meaning"), *rows]))
    say_lines(["", *table([("preset", "effects"), *PRESETS.items()])])


@effects.command(name="apply")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, metavar="OUT", type=click.Path(path_type=Path), help="File to write.")
@options_of(ConversionOptions, without=_NOT_ASKED)
def apply_(source: Path, output: Path, **given: Any) -> None:
    """Apply effects to a recording of any length; all of its channels stay.

    The output appears when it is complete. Peaks beyond full scale are scaled down. Without --loudness it is as loud
    as the effects make it.
    """
    from menura.effects.apply import apply_effects
    from menura.pipeline.output import FileSink

    given["effects"] = given_text(given["effects"])
    options = values_of(ConversionOptions, given)
    asked = checked(options.effects or "")
    if options.loudness is None and not asked:
        raise OptionError(None, "no effects are named", "`menura effects list` shows them", "effects")
    kept = frozenset({(status.st_dev, status.st_ino) for status in (source.stat(),)} if source.is_file() else ())
    sink = FileSink(output, options, source=source, keep=kept, divided=False)
    info, warning = apply_effects(source, sink, asked, options, check_interrupts)
    say(f"{output}  {(info.length_samples or 0) / info.sample_rate:.2f} s at {info.sample_rate} Hz")
    say_lines(f"  note: {note}" for note in sink.notes)
    if warning is not None:
        warn(f"{source}: {warning}")
        raise click.exceptions.Exit(1)
