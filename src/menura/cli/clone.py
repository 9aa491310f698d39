"""`menura clone`."""

from __future__ import annotations

import shlex
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from menura.cli.derive import GroupedCommand, grouped_option, options_of, values_of
from menura.cli.terminal import say
from menura.cli.train import FOR_CONVERSION, RIGHTS, Display, finishing_step
from menura.options import CloneOptions, EngineOptions


@click.command(cls=GroupedCommand)
@click.argument("name")
@grouped_option(
    "--reference",
    "references",
    group="data",
    metavar="FILE",
    type=click.Path(path_type=Path),
    required=True,
    multiple=True,
    help="Recording of the person, of 30 seconds to 3 minutes in all; repeatable.",
)
@RIGHTS
@options_of(CloneOptions)
@options_of(EngineOptions, without=FOR_CONVERSION)
def clone(name: str, references: tuple[Path, ...], rights: str, **given: Any) -> None:
    """Make a voice of a person, NAME, from a minute of recordings, and install it.

    A starter voice is adapted; what it takes are minutes. The same command resumes it where it was stopped.
    """
    options = values_of(CloneOptions, given)
    engine = values_of(EngineOptions, {part: given[part] for part in given if part not in FOR_CONVERSION})
    cancel = threading.Event()
    with closing(Display()) as display, finishing_step(display, cancel, several=False):
        from menura.train.clone import clone_voice

        made = clone_voice(
            name, references, rights=rights, options=options, engine=engine, on_event=display, cancel=cancel
        )
    if made.voice is None:
        say(f"Stopped after step {made.training.step}; saved. The same command resumes it")
        raise click.exceptions.Exit(128 + display.signal)
    say(f"Installed: {made.voice.path}")
    say(f"Convert with it: menura convert INPUT --voice {shlex.quote(name)}")
