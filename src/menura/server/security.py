"""Who may call the service, how much they may send, and what browsers may do with its pages."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address, ip_network
from urllib.parse import urlencode

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from menura.errors import ErrorDetails
from menura.server.problems import BrokenOffError, problem

_log = logging.getLogger("menura")

COOKIE = "menura_session"
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_OPEN_PATHS = ("/healthz", "/readyz", "/login", "/language")
_UPLOADS = re.compile(r"/v1/(audio|convert|voices(/[^/]+/index)?)|/convert_file|/upload_model")
_FORM_BYTES = 1 << 20
_BASE64_BYTES = 100 * 2**20
_JSON_BYTES = 4 * 2**20
_SILENCE_S = 60.0
"""A client that sends nothing of its request's body for so long is taken to be gone."""
_GUESSES, _GUESSES_S = 10, 60.0
_IPV6_PREFIX = 64
LONGEST_BACK = 2000
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; object-src 'none'; base-uri 'none'; "
        "frame-ancestors 'none'; form-action 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer, browsers send forms with Origin: null
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(self)",
    "X-Frame-Options": "DENY",
}


class Guesses:
    """Different wrong tokens of the last minute, by the network that they came from; repeating one is no new guess."""

    def __init__(self) -> None:
        self._wrong: defaultdict[str, set[bytes]] = defaultdict(set)
        self._since_s = time.monotonic()

    def spent(self, address: str) -> bool:
        if time.monotonic() - self._since_s > _GUESSES_S:
            self._wrong.clear()
            self._since_s = time.monotonic()
        return len(self._wrong.get(_network(address), ())) >= _GUESSES

    def add(self, address: str, token: bytes) -> None:
        self._wrong[_network(address)].add(hashlib.sha256(token).digest())


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may call."""

    hosts: frozenset[str]
    """Names by which the service may be called, in lower case."""
    token: str | None = None
    guesses: Guesses = field(default_factory=Guesses)

    @classmethod
    def of(cls, host: str, token: str | None, further: Iterable[str] = ()) -> Access:
        """For a service that listens at `host`; this machine's own names are always among them."""
        names = {"localhost", "127.0.0.1", "[::1]", *further}
        if host not in ("0.0.0.0", "::"):
            names.add(f"[{host}]" if ":" in host else host)
        return cls(hosts=frozenset(name.lower() for name in names), token=token)

    @property
    def session(self) -> str:
        """What browsers keep in place of the token, so that no cookie tells it."""
        return hmac.new((self.token or "").encode(), b"menura session", "sha256").hexdigest()

    def refusal(self, token: bytes | None, address: str, *, session: bytes | None = None) -> int | None:
        """The status with which a caller is refused; None for those who may. Compares in constant time."""
        if self.token is None or (session and hmac.compare_digest(session, self.session.encode())):
            return None
        if token is None:
            return 401
        if self.guesses.spent(address):
            return 429
        if hmac.compare_digest(token, self.token.encode()):
            return None
        self.guesses.add(address, token)
        return 401


def is_loopback(host: str) -> bool:
    """Whether only this machine's own programs reach an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Guard:
    """ASGI middleware around everything: host names, origins, the token, sizes, and the headers of every answer.

    Args:
        app: what it guards.
        access: who may call.
        most_upload_bytes: of a file.
    """

    def __init__(self, app: ASGIApp, access: Access, most_upload_bytes: int) -> None:
        self._app, self._access, self._most_upload_bytes = app, access, most_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        if refused := self._refusal(scope):
            await _answer(*refused, scope, receive, with_headers)
            return
        app = partial(_headed, self._app) if scope.get("method") == "HEAD" else self._app
        try:
            await app(scope, _bounded(receive, self._most_bytes(scope["path"])), with_headers)
        except BrokenOffError as error:  # nothing more is sent, so that what was isn't taken for complete
            _log.warning("an answer was broken off: %s", error)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if _name(host) not in self._access.hosts:
            return 421, "this host name isn't the service's; start it with allow_host to add it"
        if not (_opens_page(scope, headers) or _same_origin(headers, host)):
            return 403, "requests from other web sites are refused"
        if not (scope["path"] in _OPEN_PATHS or scope["path"].startswith("/static/")):
            token, session = _secrets(headers)
            status = self._access.refusal(token, address_of(scope), session=session)
            if status is not None:
                return status, "a token is needed" if status == 401 else "too many wrong tokens; wait a minute"
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._most_bytes(scope["path"]):
            return 413, "the request is larger than the service takes"
        return None

    def _most_bytes(self, path: str) -> int:
        if _UPLOADS.fullmatch(path):
            return self._most_upload_bytes + _FORM_BYTES
        return _BASE64_BYTES if path == "/convert" else _JSON_BYTES


async def _headed(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """What GET would answer, up to its body; there are no parts of it either."""
    with anyio.CancelScope() as enough:

        async def begin(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body"})
                enough.cancel()

        headers = [pair for pair in scope["headers"] if pair[0] != b"range"]
        await app({**scope, "method": "GET", "headers": headers}, receive, begin)


async def _answer(status: int, text: str, scope: Scope, receive: Receive, send: Send) -> None:
    answer = problem(ErrorDetails(kind="too_large" if status == 413 else "refused", problem=text), status)
    if status == 401:
        if scope.get("method") in ("GET", "HEAD") and "text/html" in Headers(scope=scope).get("accept", ""):
            query = scope.get("query_string", b"").decode("latin-1")
            back = scope["path"] + (query and f"?{query}")
            answer.status_code = 303
            answer.headers["Location"] = "/login?" + urlencode({"back": back if len(back) <= LONGEST_BACK else "/"})
        else:
            answer.headers["WWW-Authenticate"] = 'Bearer realm="menura"'
    await answer(scope, receive, send)


def _bounded(receive: Receive, most_bytes: int) -> Receive:
    """The request's body, counted; a client that sends no more of it has gone."""
    taken, ended = 0, False

    async def bounded() -> Message:
        nonlocal taken, ended
        if ended:
            return await receive()
        with anyio.move_on_after(_SILENCE_S) as waiting:
            message = await receive()
        if waiting.cancelled_caught:
            return {"type": "http.disconnect"}
        taken += len(message.get("body", b""))
        ended = not message.get("more_body", False)
        if taken > most_bytes:
            raise HTTPException(413, "the request is larger than the service takes")
        return message

    return bounded


def address_of(scope: Scope) -> str:
    """The caller's."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def _network(address: str) -> str:
    """One who has an IPv6 address has all of its network's."""
    try:
        if ip_address(address).version == 6:
            return str(ip_network((address, _IPV6_PREFIX), strict=False))
    except ValueError:
        pass
    return address


def _name(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return f"{host.partition(']')[0]}]".lower()
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()


def _opens_page(scope: Scope, headers: Headers) -> bool:
    """A link that somebody follows, or types; nothing that another site's page, frame or script fetches."""
    asks = scope["type"] == "http" and scope["method"] in _SAFE_METHODS
    return asks and headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"


def _same_origin(headers: Headers, host: str) -> bool:
    """A browser says where a request comes from; programs that aren't browsers say nothing."""
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2].lower() == host.lower()


def _secrets(headers: Headers) -> tuple[bytes | None, bytes | None]:
    """A token, and what a browser keeps in place of it."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    token = value.strip().encode("latin-1") if scheme.lower() == "bearer" else None
    session = cookie_parser(headers.get("cookie", "")).get(COOKIE)
    return token, None if session is None else session.encode()
