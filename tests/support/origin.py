"""A server of files on this machine that can be as bad as the Internet's."""

from __future__ import annotations

import dataclasses
import re
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Served:
    """What the server has at a path, and how it misbehaves."""

    content: bytes = b""
    etag: str | None = '"1"'
    breaks_after: list[int] = field(default_factory=list)
    """After how many bytes each of the next answers breaks off."""
    claims_bytes: int | None = None
    """What it says of the length."""
    ranges: bool = True
    heeds_if_range: bool = True
    chunked: bool = False
    cut_head: bool = False
    """Whether it breaks off before it has told the length."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    after: Served | None = None
    """What stands there once this was answered."""


class Origin(ThreadingHTTPServer):
    """Answers from `files`; `asked` has every request's path and headers."""

    daemon_threads = True

    def __init__(self, certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, Served] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        scheme = "http" if certificate is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients break off too."""

    @property
    def ranges(self) -> list[str | None]:
        """Which part each request wanted."""
        return [headers.get("range") for _, headers in self.asked]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Origin

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.append((self.path, headers))
        served = self.server.files.get(self.path) or Served(b"no such page", status=404)
        if served.after is not None:
            self.server.files[self.path] = served.after
        start = self._start(served, headers)
        content = served.content[start:]
        self.send_response(206 if start else served.status)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(served.content) - 1}/{len(served.content)}")
        if served.etag:
            self.send_header("ETag", served.etag)
        for name, value in served.headers.items():
            self.send_header(name, value)
        if served.cut_head:
            self.flush_headers()
            self.close_connection = True
            return
        if served.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(served.claims_bytes or len(content)))
        self.end_headers()
        if served.breaks_after:
            content = content[: served.breaks_after.pop(0)]
        self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content) if served.chunked else content)
        self.close_connection = True

    def _start(self, served: Served, headers: dict[str, str]) -> int:
        wanted = re.fullmatch(r"bytes=(\d+)-", headers.get("range", ""))
        same = headers.get("if-range") in (None, served.etag) or not served.heeds_if_range
        return int(wanted[1]) if wanted and served.ranges and same else 0


def certificate(folder: Path) -> Path:
    """A key and a certificate of its own making for 127.0.0.1, 127.0.0.2 and localhost, in one file."""
    path = folder / "origin.pem"
    names = "subjectAltName=IP:127.0.0.1,IP:127.0.0.2,DNS:localhost"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    subprocess.run(
        [*command.split(), "-addext", names, "-keyout", path, "-out", folder / "c.pem"], check=True, capture_output=True
    )
    path.write_bytes(path.read_bytes() + (folder / "c.pem").read_bytes())
    return path


@contextmanager
def serving(certificate: Path | None = None) -> Iterator[Origin]:
    """The server, as long as the block runs."""
    with Origin(certificate) as origin:
        thread = threading.Thread(target=origin.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield origin
        finally:
            origin.shutdown()
            thread.join()


def redirect(place: str) -> Served:
    return dataclasses.replace(Served(status=302, etag=None), headers={"Location": place})
