"""Fetching a file by HTTPS: resumed, bounded, checked, and not from this machine's own network. Loads no torch.

Any address may be hostile, or lead to one. Each that a redirect names is looked up once and checked, and the connection
goes to what was checked, so that no second answer of the DNS counts. Where the environment names a proxy, the proxy
looks names up: it is the user's own, and only addresses in figures are checked here.
"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import json
import re
import shutil
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote, unquote, urljoin, urlsplit

from menura import __version__
from menura.errors import DownloadError, ResourceError
from menura.system.files import check_writable, claimed_folder, parts_folder, read_json, sha256_of, write_whole, writing
from menura.system.interrupts import check_interrupts
from menura.system.text import printable

_ATTEMPTS, _PAUSE_S = 5, 1.0
_TIMEOUT_S = 30.0
"""For a connection, for all of an answer's head, and for each block."""
_LEAST_RATE, _PATIENCE_S = 1000, 60.0
"""Bytes a second, once it has had that long."""
_MOST_REDIRECTS = 8
_BLOCK_BYTES = 1 << 18
_ANOTHER = "It is another file than the one wanted: don't use it"
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_PUNCTUATION = "%/:=&?~#+!$,;'@()*[]"

Progress: TypeAlias = Callable[[int, "int | None"], None]
"""Takes how many bytes have come, and how many there will be, if that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """A file to be fetched."""

    url: str
    most_bytes: int
    size_bytes: int | None = None
    """Of the file that is wanted; one of another size is refused."""
    sha256: str | None = None
    allow_private: bool = False
    """Whether this machine and its network may be asked, and anybody by plain HTTP."""


def fetch(download: Download, target: Path, on_progress: Progress = lambda got, total: None) -> str:
    """Fetch a file whole or not at all; return its SHA-256.

    What has come when a call ends early lies in a hidden folder beside the target (`parts_folder`). The next call goes
    on from there, if the server still has the same file and can send the rest; otherwise it begins again.

    Raises:
        DownloadError: the address is refused, can't be reached, or has another file than the one wanted.
        ResourceError: the target can't be written.
    """
    check_writable(target)
    folder = parts_folder(target)
    with claimed_folder(folder) as ours:
        if not ours:
            raise DownloadError(target, "is being fetched by another process", "Wait for it")
        fetching = _Fetching(download, folder, on_progress)
        found = fetching.complete()
        with writing(target):
            fetching.body.replace(target)
            fetching.facts.unlink()
    return found


def is_public(host: str) -> bool:
    """Whether an IP address is one of the Internet's, not this machine's, its network's, or set apart; or any name."""
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host != "localhost"
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ipaddress.IPv4Address(int(ip) % 2**32) if ip in _NAT64 else None)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)


class _Fetching:
    """A file on its way; what has come lies in a folder, with what the server said of it."""

    def __init__(self, download: Download, folder: Path, on_progress: Progress) -> None:
        self._wanted, self._on_progress = download, on_progress
        self.body, self.facts = folder / "body", folder / "facts.json"

    def complete(self) -> str:
        """Its SHA-256, once it is all there."""
        for _ in range(_ATTEMPTS):
            before = self._kept()[0]
            if self._receive():
                found = sha256_of(self.body)
                if self._wanted.sha256 in (None, found):
                    return found
                self._forget()
                if not before:
                    raise self._error(f"has the SHA-256 {found}, not {self._wanted.sha256}", _ANOTHER)
            else:
                time.sleep(_PAUSE_S)
        problem = f"the connection broke off {_ATTEMPTS} times; {self._kept()[0] / 1e6:.1f} MB are kept"
        raise self._error(problem, "Try again later: it goes on from there if the server can")

    def _receive(self) -> bool:
        """Fetch what is missing; False if the connection broke off."""
        have, validator = self._kept()
        headers = {"Range": f"bytes={have}-"} if have else {}
        headers |= {"If-Range": validator} if have and validator else {}
        with _asked(self._wanted, headers) as answer:
            start, total = _extent(answer)
            if have and (start not in (0, have) or (start and _validator(answer) != validator)):
                self._forget()  # it isn't the same file any more
                return self._receive()
            if start not in (0, have) or (answer.getheader("Content-Encoding") or "identity") != "identity":
                said = f"{answer.status} {printable(answer.reason, 100)}".strip()
                raise self._error(f"the server answers {said}", "Check the address")
            if answer.length is None and not answer.chunked and self._wanted.sha256 is None:  # it could end anywhere
                raise self._error("the server doesn't say how long the file is")
            if total is not None and self._wanted.size_bytes not in (None, total):
                raise self._error(f"has {total} bytes, not {self._wanted.size_bytes}", _ANOTHER)
            self._check_size(start, total)
            facts = {"url": self._wanted.url, "validator": _validator(answer)}
            write_whole(self.facts, json.dumps(facts).encode())
            return self._read(answer, start, total)

    def _read(self, answer: http.client.HTTPResponse, start: int, total: int | None) -> bool:
        got, began = start, time.monotonic()
        with writing(self.body), self.body.open("ab" if start else "wb") as file:
            while total is None or got < total:
                try:
                    block = answer.read1(_BLOCK_BYTES if total is None else min(_BLOCK_BYTES, total - got))
                except (OSError, http.client.HTTPException):
                    return False
                waited = time.monotonic() - began
                if not block or (waited > _PATIENCE_S and got - start < _LEAST_RATE * waited):
                    break
                check_interrupts()
                got += len(block)
                self._check_size(got, got if total is None else total)
                file.write(block)
                self._on_progress(got, total)
        return got == total or (total is None and not block)

    def _check_size(self, got: int, total: int | None) -> None:
        wanted = self._wanted
        if total is None:
            return
        if total > wanted.most_bytes:
            self._forget()
            raise self._error(f"larger than {wanted.most_bytes / 1e6:.0f} MB, the most allowed")
        if shutil.disk_usage(self.body.parent).free < total - got:
            problem = f"no room for {(total - got) / 1e6:.0f} MB"
            raise ResourceError(self.body.parent.parent, problem, "Free space on that disk, or choose another folder")

    def _kept(self) -> tuple[int, str | None]:
        """How much has come before that can be gone on from, and its validator."""
        with suppress(OSError, ValueError):
            facts, size = read_json(self.facts), self.body.stat().st_size
            if isinstance(facts, dict) and facts.get("url") == self._wanted.url and size <= self._wanted.most_bytes:
                validator = facts.get("validator")
                if isinstance(validator, str) or self._wanted.sha256 is not None:
                    return size, validator
        self._forget()
        return 0, None

    def _forget(self) -> None:
        for path in (self.body, self.facts):
            path.unlink(missing_ok=True)

    def _error(self, problem: str, advice: str | None = None) -> DownloadError:
        return DownloadError(printable(self._wanted.url), problem, advice)


def _extent(answer: http.client.HTTPResponse) -> tuple[int, int | None]:
    """Where the body begins in the file, and the file's size; -1 for what can't be used."""
    if answer.status == 206:
        found = re.fullmatch(r"bytes (\d{1,15})-\d+/(\d{1,15}|\*)", answer.getheader("Content-Range") or "")
        return (int(found[1]), None if found[2] == "*" else int(found[2])) if found else (-1, None)
    return (0 if answer.status == 200 else -1), answer.length


def _validator(answer: http.client.HTTPResponse) -> str | None:
    """By what a server knows whether a file has changed."""
    tag = answer.getheader("ETag") or "W/"
    return answer.getheader("Last-Modified") if tag.startswith("W/") else tag


@contextmanager
def _asked(download: Download, headers: dict[str, str]) -> Iterator[http.client.HTTPResponse]:
    """The answer at the end of all redirects."""
    url = download.url
    for _ in range(_MOST_REDIRECTS + 1):
        with ExitStack() as stack:
            answer = _answer(url, headers, stack, allow_private=download.allow_private)
            place = answer.getheader("Location")
            if answer.status not in (301, 302, 303, 307, 308) or place is None:
                yield answer
                return
        url = urljoin(url, quote(place, safe=_PUNCTUATION))
    raise DownloadError(printable(download.url), f"leads on and on, over more than {_MOST_REDIRECTS} addresses")


def _answer(url: str, headers: dict[str, str], stack: ExitStack, *, allow_private: bool) -> http.client.HTTPResponse:
    own = {"User-Agent": f"menura/{__version__}", "Accept-Encoding": "identity", "Connection": "close"}
    late = threading.Event()
    try:
        connection, path = _connected(url, stack, allow_private=allow_private)
        watch = threading.Timer(_TIMEOUT_S, _shut, (connection.sock, late))
        watch.start()
        try:
            connection.request("GET", path, headers=own | headers)
            answer = stack.enter_context(connection.getresponse())
        finally:
            watch.cancel()
        if late.is_set():  # what has come of its head would do for http.client
            raise TimeoutError("no whole answer in time")
    except (OSError, ValueError, http.client.HTTPException) as error:
        said = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        problem = f"can't be reached ({printable(said, 200)})"
        raise DownloadError(printable(url), problem, "Check the address and the network") from error
    return answer


def _shut(connected: socket.socket, late: threading.Event) -> None:
    late.set()
    with suppress(OSError):
        socket.socket.shutdown(connected, socket.SHUT_RDWR)


def _connected(url: str, stack: ExitStack, *, allow_private: bool) -> tuple[http.client.HTTPConnection, str]:
    """A connection to an address that was checked, which the stack closes, and what to ask it for."""
    parts = urlsplit(url)
    host, secure = (parts.hostname or "").encode("idna").decode(), parts.scheme == "https"
    if parts.scheme not in ("https", "http") or not host or parts.username is not None:
        raise DownloadError(printable(url), "is no https address")
    if not (secure or allow_private):
        raise DownloadError(printable(url), "is not encrypted", "Take an https address, or add {allow_private}")
    port, proxy = parts.port or (443 if secure else 80), _proxy(host) if secure else None
    found = [host] if proxy else [str(at[4][0]) for at in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    allowed = [address for address in dict.fromkeys(found) if allow_private or is_public(address)]
    if not allowed:
        advice = "If you trust it, add {allow_private}"
        raise DownloadError(printable(url), "is an address of this machine or its own network", advice)
    if proxy:
        connection = _through(proxy, host, port)
        stack.callback(connection.close)
        connection.connect()
    else:
        connection = http.client.HTTPConnection(f"[{host}]" if ":" in host else host, port)
        connection.default_port = 443 if secure else 80  # what a Host header leaves out
        connection.sock = stack.enter_context(_connect(allowed, port))
        stack.callback(connection.close)
        if secure:
            connection.sock = ssl.create_default_context().wrap_socket(connection.sock, server_hostname=host)
    return connection, quote((parts.path or "/") + (parts.query and f"?{parts.query}"), safe=_PUNCTUATION)


def _connect(addresses: list[str], port: int) -> socket.socket:
    for address in addresses[:-1]:
        with suppress(OSError):
            return socket.create_connection((address, port), _TIMEOUT_S)
    return socket.create_connection((addresses[-1], port), _TIMEOUT_S)


def _proxy(host: str) -> str | None:
    """The environment's, or the system's."""
    proxies = urllib.request.getproxies()
    return None if urllib.request.proxy_bypass(host) else proxies.get("https") or proxies.get("all")


def _through(proxy: str, host: str, port: int) -> http.client.HTTPConnection:
    parts, headers = urlsplit(proxy if "://" in proxy else f"http://{proxy}"), {}
    if parts.scheme != "http" or not parts.hostname:
        raise DownloadError(f"{parts.scheme}://{parts.hostname}", "is no HTTP proxy", "Check HTTPS_PROXY")
    if parts.username is not None:
        known = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(known).decode()}"
    connection = http.client.HTTPSConnection(parts.hostname, parts.port or 80, timeout=_TIMEOUT_S)
    connection.set_tunnel(host, port, headers)
    return connection
