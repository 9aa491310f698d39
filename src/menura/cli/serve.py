"""`menura serve`: the page and the HTTP service."""

from __future__ import annotations

import webbrowser
from typing import Any

import click

from menura.cli import terminal
from menura.cli.derive import GroupedCommand, options_of, values_of
from menura.errors import OptionError
from menura.options import EngineOptions, ServeOptions


@click.command(cls=GroupedCommand)
@options_of(ServeOptions, EngineOptions)
def serve(**given: Any) -> None:
    """Serve a page and an HTTP API."""
    options, engine = values_of(ServeOptions, given), values_of(EngineOptions, given)
    try:
        from menura.server.run import run
    except ImportError as error:
        raise OptionError(None, f"{error.name} is missing", "Install it with pip install 'menura[serve]'") from None

    def ready(address: str) -> None:
        terminal.say(f"Menura is at {address} (Ctrl-C ends it)")
        terminal.flush()
        if options.open:
            webbrowser.open(address)

    run(options, engine, ready)
