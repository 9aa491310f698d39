#!/usr/bin/env python3
"""Write the tables of options and effects in docs/ from their definitions.

usage: option_tables.py [--check]

A table stands between <!-- options: COMMAND --> and <!-- end of options -->, or <!-- effects --> and <!-- end of
effects -->. --check writes nothing and fails where a
table is out of date.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from menura.cli.derive import GroupedCommand
from menura.cli.main import cli
from menura.effects.definitions import EFFECTS, PRESETS
from menura.option_spec import specs_of

PAGES = ("usage.md", "pitch.md", "effects.md", "clone.md", "training.md", "service.md")
_TABLE = re.compile(r"(<!-- options: ([a-z0-9 ]+) -->\n).*?(<!-- end of options -->)", re.DOTALL)
_EFFECTS = re.compile(r"(<!-- effects -->\n).*?(<!-- end of effects -->)", re.DOTALL)


def tables(name: str) -> str:
    """A command's options, a table for each section of its help."""
    command: click.Command = cli
    for word in name.split():
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), word)
        assert found is not None, f"no command {name}"
        command = found
    assert isinstance(command, GroupedCommand)
    sections = command.sections(click.Context(command, help_option_names=[]))
    return "".join(f"\n**{title}**\n\n{_table(records)}" for title, records in sections.items())


def effects() -> str:
    """Every effect, its parameters and what they mean; then the presets."""
    rows = ["| effect | parameter | default | range | meaning |", "|---|---|---|---|---|"]
    for name, kind in EFFECTS.items():
        rows.append(f"| `{name}` | | | | {kind.help} |")
        rows += (f"| | `{s.name}` | {s.default_text} | {s.range_text} | {s.help} |" for s in specs_of(kind))
    rows += ["", "| preset | effects |", "|---|---|", *(f"| `{name}` | `{text}` |" for name, text in PRESETS.items())]
    return "\n" + "\n".join(rows) + "\n"


def _table(records: list[tuple[str, str]]) -> str:
    rows = (f"| `{_barred(names)}` | {_barred(_escaped(help))} |" for names, help in records)
    return "\n".join(("| option | meaning |", "|---|---|", *rows)) + "\n"


def _barred(text: str) -> str:
    return text.replace("|", "\\|")


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("*", "\\*").replace("<", "&lt;")


def main(arguments: list[str]) -> int:
    """Update the pages, or tell which are out of date."""
    stale = []
    for page in PAGES:
        path = Path(__file__).resolve().parent.parent / "docs" / page
        text = path.read_text(encoding="utf-8")
        updated = _TABLE.sub(lambda found: f"{found[1]}{tables(found[2])}\n{found[3]}", text)
        updated = _EFFECTS.sub(lambda found: f"{found[1]}{effects()}\n{found[2]}", updated)
        if updated != text:
            stale.append(page)
            if "--check" not in arguments:
                path.write_text(updated, encoding="utf-8")
    if stale and "--check" in arguments:
        print(f"out of date: {', '.join(stale)}; run scripts/option_tables.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
