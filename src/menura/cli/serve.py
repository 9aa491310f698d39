"""`menura serve`: the page and the HTTP service."""

from __future__ import annotations

import errno
import os
import signal
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from menura.cli import terminal
from menura.cli.derive import GroupedCommand, options_of, values_of
from menura.errors import OptionError
from menura.options import EngineOptions, ServeOptions

if TYPE_CHECKING:
    import socket

_DRAIN_S = 5


@click.command(cls=GroupedCommand)
@options_of(ServeOptions, EngineOptions)
def serve(**given: Any) -> None:
    """Serve a page and an HTTP API on this machine."""
    options, engine = values_of(ServeOptions, given), values_of(EngineOptions, given)
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import sqlalchemy  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise OptionError(
            None, f"{error.name} is missing", "Install the service with pip install 'menura[serve]'"
        ) from None
    from menura.server.app import create_app
    from menura.server.security import Access, is_loopback
    from menura.server.service import opened

    token = options.token or os.environ.get("MENURA_TOKEN")
    if token is None and not is_loopback(options.host):
        raise OptionError(None, f"{options.host} can be reached by others", "Give a {token} of your own", "token")

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:  # uvicorn's raises them again at the end
            before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    listening = _listening(options.host, options.port)
    with listening, opened(options, engine) as service:
        app = create_app(service, Access.of(options.host, token, options.allow_host))
        server = Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                date_header=True,
                timeout_graceful_shutdown=_DRAIN_S,
                limit_concurrency=1000,
                h11_max_incomplete_event_size=64 * 1024,
                lifespan="on",
            )
        )
        address = f"http://{_shown(options.host)}:{listening.getsockname()[1]}/"
        terminal.say(f"Menura is at {address} (Ctrl-C ends it)")
        terminal.flush()
        if options.open:
            webbrowser.open(address)
        server.run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens; made before anything is loaded, so that a taken port is told at once."""
    import socket as sockets

    family = sockets.AF_INET6 if ":" in host else sockets.AF_INET
    listening = sockets.socket(family)
    listening.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(512)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise OptionError(
                None, f"port {port} is in use", "Choose another {port}, or 0 for a free one", "port"
            ) from None
        raise OptionError(None, f"can't listen on {host}:{port} ({error.strerror})", option="host") from None
    return listening


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else "localhost" if host == "0.0.0.0" else host
