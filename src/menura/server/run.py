"""Runs the service until it is told to end."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import gc
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from menura.errors import OptionError
from menura.options import EngineOptions, ServeOptions
from menura.server.app import create_app
from menura.server.security import Access, is_loopback
from menura.server.service import Service, opened

_DRAIN_S = 5
_REQUEST_S = 30.0
_HEADER_BYTES = 1 << 16
TOKEN_VARIABLE = "MENURA_TOKEN"


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.close()  # who waits for a change gets an answer before the connections are closed
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        signal.signal(signal.SIGTERM, self.handle_exit)  # Ray takes it for itself whenever it connects
        if self._service.runner.lost is not None:
            self._service.close()
            return True
        return await super().on_tick(counter)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:  # uvicorn's raises them again at the end
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Protocol(H11Protocol):
    """Ends connections on which no whole request's header comes for long."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()

    def _should_upgrade(self) -> bool:
        return False  # there are no websockets

    def _watch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(_REQUEST_S, self._give_up)

    def _give_up(self) -> None:
        if self.conn.their_state is h11.IDLE:
            self.transport.close()


def run(options: ServeOptions, engine: EngineOptions, on_ready: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM; `on_ready` is called with the address once it is known.

    Raises:
        OptionError: the address can't be used, or needs a token, or another service has the folder.
        DeviceError: the GPU stopped working; another process can use it again.
        MenuraError: the folder or the database can't be used.
    """
    token = options.token or os.environ.get(TOKEN_VARIABLE) or None
    options = dataclasses.replace(options, token=token)  # checks it
    if token is None and not is_loopback(options.host):
        raise OptionError(None, f"{options.host} can be reached by others", "Give a {token} of your own", "token")
    with _listening(options.host, options.port) as listening, opened(options, engine) as service:
        config = uvicorn.Config(
            create_app(service, Access.of(options.host, token, options.allow_host)),
            http=Protocol,
            h11_max_incomplete_event_size=_HEADER_BYTES,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_DRAIN_S,
            limit_concurrency=1000,
        )
        gc.collect()
        gc.freeze()  # what is there now stays: no later collection, which stops all threads, needs to look at it
        on_ready(f"http://{_shown(options.host)}:{listening.getsockname()[1]}/")
        _Server(config, service).run(sockets=[listening])
        if service.runner.lost is not None:
            raise service.runner.lost


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens; made before anything is loaded, so that a taken port is told at once."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(512)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            advice = "Choose another {port}, or 0 for a free one"
            raise OptionError(None, f"port {port} is in use", advice, "port") from None
        raise OptionError(None, f"can't listen on {host}:{port} ({error.strerror})", option="host") from None
    return listening


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else "localhost" if host == "0.0.0.0" else host
