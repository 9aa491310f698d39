"""Errors as RFC 9457 problem documents, made from MenuraError's fields."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from menura.errors import ErrorDetails, MenuraError, details_of
from menura.system.text import printable

_log = logging.getLogger("menura")

_STATUS = {
    "option": 422,
    "voice_exists": 409,
    "voice_not_found": 404,
    "not_found": 404,
    "conflict": 409,
    "queue_full": 429,
    "too_large": 413,
    "decode": 422,
    "checkpoint": 422,
    "unsafe_checkpoint": 422,
    "encoder_mismatch": 422,
    "index_file": 422,
    "asset_missing": 409,
    "training": 422,
    "download": 502,
    "fetch_refused": 403,
    "device": 503,
    "resource": 507,
    "memory": 503,
    "system": 507,
    "cancelled": 409,
}
_COMMAND = re.compile(r"menura [a-z]|pip install|ulimit|TMPDIR")
_ADVICE = {
    "decode": "Send it as wav or flac",
    "encode": "Choose another {format}",
    "checkpoint": "Send a voice that training has exported",
    "asset_missing": "Ask whoever runs the service to install it; GET /v1/system lists what is missing",
    "voice_not_found": "GET /v1/voices lists them",
}
"""By kind, where the library names commands."""
_MEDIA = "application/problem+json"
_RETRY_AFTER_S = 15

PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "type": {"type": "string", "description": "menura:KIND, such as menura:option"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "kind": {"type": "string"},
        "subject": {"type": ["string", "null"]},
        "problem": {"type": "string"},
        "advice": {"type": ["string", "null"]},
        "option": {"type": ["string", "null"], "description": "The field at fault"},
    },
    "required": ["type", "title", "status"],
}


class BrokenOffError(Exception):
    """An answer has begun and can't be completed."""


def status_of(kind: str) -> int:
    """The HTTP status of an error of a kind."""
    return _STATUS.get(kind, 500)


def problem(details: ErrorDetails, status: int | None = None) -> Response:
    """A problem document."""
    status = status or status_of(details.kind)
    document = {"type": f"menura:{details.kind}", "title": details.problem, "status": status, "detail": details.text()}
    headers = {"Retry-After": str(_RETRY_AFTER_S)} if status == 429 else None
    text = json.dumps(document | error_document(details))  # in ASCII: a client's text may be no Unicode
    return Response(text, status, headers, _MEDIA)


def error_document(details: ErrorDetails) -> dict[str, Any]:
    """An error's fields, with options in the advice named as JSON names them."""
    return dataclasses.asdict(details) | {"advice": None if details.advice is None else details.advised()}


def public(details: ErrorDetails, *folders: Path) -> ErrorDetails:
    """The error as clients see it: without the service's folders, and without advice for a command line."""
    subject, advice = details.subject, details.advice
    if subject is not None and any(subject.startswith(str(folder)) for folder in folders):
        subject = None
    if advice and _COMMAND.search(advice):
        advice = _ADVICE.get(details.kind, "Ask whoever runs the service")
    if subject == "database":  # it says where it is, and whose
        return dataclasses.replace(details, problem="can't be used", advice=None)
    return dataclasses.replace(
        details, subject=subject, problem=_hidden(details.problem, folders), advice=advice and _hidden(advice, folders)
    )


def _hidden(text: str, folders: tuple[Path, ...]) -> str:
    for folder in folders:
        text = re.sub(re.escape(str(folder)) + r"[^\s'\"),;]*", "the service's folder", text)
    return text


def install(app: FastAPI) -> None:
    """Answer every error with a problem document."""

    @app.exception_handler(MenuraError)
    def _menura(request: Request, error: MenuraError) -> Response:
        answer = problem(request.app.state.service.runner.public(error.details))
        if answer.status_code >= 500:
            _log.error("a request failed: %s", error)
        return answer

    @app.exception_handler(RequestValidationError)
    def _invalid(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = [printable(str(part), 80) for part in first["loc"][1:] if first["type"] != "json_invalid"]
        return problem(ErrorDetails(kind="option", problem=str(first["msg"]), option=".".join(place) or None), 422)

    @app.exception_handler(HTTPException)
    def _http(_request: Request, error: HTTPException) -> Response:
        kind = "too_large" if error.status_code == 413 else "http"
        answer = problem(ErrorDetails(kind=kind, problem=str(error.detail)), error.status_code)
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(ClientDisconnect)
    def _gone(_request: Request, _error: ClientDisconnect) -> Response:
        return problem(ErrorDetails(kind="http", problem="the request's body didn't come"), 408)

    @app.exception_handler(OSError)
    @app.exception_handler(MemoryError)
    def _system(_request: Request, error: OSError | MemoryError) -> Response:
        if isinstance(error, FileNotFoundError):
            return problem(ErrorDetails(kind="not_found", problem="its file is gone"))
        _log.error("a request failed", exc_info=error)
        return problem(dataclasses.replace(details_of(error), subject=None))

    @app.exception_handler(Exception)
    def _unexpected(_request: Request, error: Exception) -> Response:
        if not isinstance(error, BrokenOffError):
            _log.error("unexpected error in a request", exc_info=error)
        return problem(ErrorDetails(kind="unexpected", problem="an unexpected error; the service's log has more"), 500)
