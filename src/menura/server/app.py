"""The service's application: its routes, its guard, its pages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Security
from fastapi.security import HTTPBearer
from starlette.types import ASGIApp

from menura import __version__
from menura.server import pages, problems
from menura.server.api import audio, compat, direct, jobs, system, trainings, voices
from menura.server.problems import PROBLEM_SCHEMA
from menura.server.security import Access, Guard
from menura.server.service import Service, running

_DESCRIPTION = """Voice conversion for recordings of any length.

Send recordings with `PUT /v1/audio`, queue a job with `POST /v1/jobs`, watch it with `GET /v1/jobs/ID` or its events,
and fetch the results. Errors are problem documents (RFC 9457) with the fields kind, subject, problem, advice, option.
"""
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": description, "content": {"application/problem+json": {"schema": PROBLEM_SCHEMA}}}
    for status, description in (("4XX", "What is wrong, and what to do"), ("5XX", "What the service lacks"))
}


def create_app(service: Service, access: Access) -> ASGIApp:
    """The application of a running service."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with running(service):
            yield

    app = FastAPI(
        title="Menura",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,  # its page fetches scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        responses=_ERRORS,
        dependencies=[Security(HTTPBearer(auto_error=False, description="Where the service has a token"))],
    )
    app.state.service = service
    problems.install(app)
    for module in (audio, jobs, direct, voices, trainings, system, compat):
        app.include_router(module.router)
    pages.install(app, access)
    return Guard(app, access, service.folder.most_upload_bytes)
