"""Errors as RFC 9457 problem documents, made from MenuraError's fields."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from menura.errors import ErrorDetails, MenuraError, details_of

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
    "resource": 507,
    "memory": 503,
    "cancelled": 409,
}
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


def status_of(kind: str) -> int:
    """The HTTP status of an error of a kind."""
    return _STATUS.get(kind, 500)


def problem(details: ErrorDetails, status: int | None = None) -> JSONResponse:
    """A problem document."""
    status = status or status_of(details.kind)
    document = {"type": f"menura:{details.kind}", "title": details.problem, "status": status, "detail": details.text()}
    headers = {"Retry-After": str(_RETRY_AFTER_S)} if status == 429 else None
    return JSONResponse(document | error_document(details), status, headers, media_type=_MEDIA)


def error_document(details: ErrorDetails) -> dict[str, Any]:
    """An error's fields, with options in the advice named as JSON names them."""
    fields = dataclasses.asdict(details)
    return fields | {"advice": None if details.advice is None else details.advised()}


def public(details: ErrorDetails, *folders: Path) -> ErrorDetails:
    """The error without a subject that is a place in one of the service's folders."""
    inside = details.subject is not None and any(details.subject.startswith(str(folder)) for folder in folders)
    return dataclasses.replace(details, subject=None) if inside else details


def install(app: FastAPI) -> None:
    """Answer every error with a problem document."""

    @app.exception_handler(MenuraError)
    def _menura(request: Request, error: MenuraError) -> JSONResponse:
        service = request.app.state.service
        return problem(public(error.details, service.folder.path, service.home))

    @app.exception_handler(RequestValidationError)
    def _invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = [str(part) for part in first["loc"][1:]]
        return problem(ErrorDetails(kind="option", problem=str(first["msg"]), option=".".join(place) or None), 422)

    @app.exception_handler(HTTPException)
    def _http(_request: Request, error: HTTPException) -> JSONResponse:
        answer = problem(ErrorDetails(kind="http", problem=str(error.detail)), error.status_code)
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    def _unexpected(_request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, (OSError, MemoryError)):
            details = details_of(error)
            return problem(dataclasses.replace(details, subject=None), 507 if isinstance(error, OSError) else 503)
        _log.error("unexpected error in a request", exc_info=error)
        return problem(ErrorDetails(kind="unexpected", problem="an unexpected error; the service's log has more"), 500)
