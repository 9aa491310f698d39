"""Who may call the service, and what browsers may do with its pages."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from http.cookies import SimpleCookie
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from menura.errors import ErrorDetails
from menura.server.problems import problem

COOKIE = "menura_token"
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_OPEN_PATHS = ("/healthz", "/readyz", "/login")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; object-src 'none'; base-uri 'none'; "
        "frame-ancestors 'none'; form-action 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(self)",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may call."""

    hosts: frozenset[str]
    """Names by which the service may be called, in lower case."""
    token: str | None = None

    @classmethod
    def of(cls, host: str, token: str | None, further: Iterable[str] = ()) -> Access:
        """For a service that listens at `host`; this machine's own names are always among them."""
        names = {"localhost", "127.0.0.1", "[::1]", *further}
        if host not in ("0.0.0.0", "::"):
            names.add(f"[{host}]" if ":" in host else host)
        return cls(hosts=frozenset(name.lower() for name in names), token=token)

    def knows(self, token: str | None) -> bool:
        """Compares in a time that doesn't depend on where they differ."""
        return self.token is None or (token is not None and hmac.compare_digest(token.encode(), self.token.encode()))


def is_loopback(host: str) -> bool:
    """Whether only this machine's own programs reach an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Guard:
    """ASGI middleware: host names, origins, the token, and the headers that every answer gets."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

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

        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, with_headers)
            return
        status, text = refusal
        answer = problem(ErrorDetails(kind="refused", problem=text), status)
        if status == 401:
            if _wants_page(scope):
                answer.status_code = 303
                answer.headers["Location"] = "/login"
            else:
                answer.headers["WWW-Authenticate"] = 'Bearer realm="menura"'
        await answer(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if _name(host) not in self._access.hosts:
            return 421, "this host name isn't the service's; start it with allow_host to add it"
        changes = scope["type"] == "websocket" or scope["method"] not in _SAFE_METHODS
        if changes and not _same_origin(headers, host):
            return 403, "requests from other web sites are refused"
        free = scope["path"] in _OPEN_PATHS or scope["path"].startswith("/static/")
        return None if free or self._access.knows(_token(headers)) else (401, "a token is needed")


def _wants_page(scope: Scope) -> bool:
    return scope.get("method") == "GET" and "text/html" in Headers(scope=scope).get("accept", "")


def _name(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return f"{host.partition(']')[0]}]".lower()
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()


def _same_origin(headers: Headers, host: str) -> bool:
    """A browser says where a request comes from; programs that aren't browsers say nothing."""
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or (origin != "null" and urlsplit(origin).netloc.lower() == host.lower())


def _token(headers: Headers) -> str | None:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    cookie: SimpleCookie = SimpleCookie()
    cookie.load(headers.get("cookie", ""))
    return cookie[COOKIE].value if COOKIE in cookie else None
