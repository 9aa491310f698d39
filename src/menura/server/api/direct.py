"""A short recording converted at once: sound in, sound out."""

from __future__ import annotations

import asyncio
import json
import mimetypes
import struct
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from starlette.background import BackgroundTask

from menura.errors import CancelledError, ErrorDetails, OptionError
from menura.loading import Request as Asked
from menura.pipeline.output import FileSink, Sink
from menura.pipeline.recording import FileRecording
from menura.server.asked import asked
from menura.server.folder import Saved
from menura.server.problems import problem
from menura.server.service import Current, Service
from menura.types import FileResult, FloatArray

router = APIRouter(prefix="/v1", tags=["jobs"])

_MOST_S = 300.0
_UNKNOWN_BYTES = 0xFFFFFFFF
_NAME = "recording"


@router.post(
    "/convert",
    response_class=Response,
    responses={200: {"content": {"audio/*": {}}, "description": "The converted sound"}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def convert(
    request: Request,
    service: Current,
    voice: Annotated[str, Query(min_length=1, max_length=200)] = "wren",
    options: Annotated[str, Query(max_length=4000, description="A JSON object, as in a job")] = "{}",
) -> Response:
    """Convert a recording of up to five minutes before all jobs. Wav is sent as it becomes final, 16 bits."""
    what = await to_thread.run_sync(asked, service, voice, parsed(options))
    saved = await service.folder.receive(request.stream(), service.folder.incoming)
    return await answer(service, saved, what)


def parsed(options: str) -> dict[str, Any]:
    """Options in a query. Raises OptionError."""
    try:
        fields = json.loads(options)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise OptionError(None, "is not a JSON object", option="options")
    return fields


async def answer(service: Service, saved: Saved, what: Asked) -> Response:
    """Convert what was received; its file is gone afterwards."""
    source = service.folder.incoming / saved.sha256
    once = source.with_name(f"{saved.sha256}.{threading.get_ident()}.{id(what)}")
    await to_thread.run_sync(source.rename, once)
    if (what.options.format or "wav") == "wav" and what.options.bit_depth in (None, 16):
        return await _streamed(service, once, what)
    return await _whole(service, once, what)


async def _streamed(service: Service, source: Path, what: Asked) -> Response:
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes | FileResult] = asyncio.Queue()

    def put(piece: bytes | FileResult) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, piece)

    cancel = service.runner.convert_now(FileRecording(source, label=_NAME), what, _StreamSink(put), put)
    first = await queue.get()
    if isinstance(first, FileResult):
        source.unlink(missing_ok=True)
        return _refused(first)

    async def pieces() -> AsyncIterator[bytes]:
        piece: bytes | FileResult = first
        try:
            while isinstance(piece, bytes):
                yield piece
                piece = await queue.get()
        finally:
            cancel.set()
            source.unlink(missing_ok=True)
        if piece.output_samples == 0 and piece.error is not None:
            raise RuntimeError(piece.error.problem)  # ends the connection, so that it isn't taken for complete

    return StreamingResponse(pieces(), media_type="audio/wav")


async def _whole(service: Service, source: Path, what: Asked) -> Response:
    target = source.with_suffix(f".{what.options.format or 'wav'}")
    ended: asyncio.Queue[FileResult] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    sink = FileSink(target, what.options, source=source)

    def on_end(result: FileResult) -> None:
        loop.call_soon_threadsafe(ended.put_nowait, result)

    cancel = service.runner.convert_now(FileRecording(source, label=_NAME), what, sink, on_end)
    try:
        result = await ended.get()
    finally:
        cancel.set()
        source.unlink(missing_ok=True)
    if result.output is None:
        return _refused(result)
    return FileResponse(
        target,
        media_type=mimetypes.guess_type(target.name)[0],
        filename=f"converted{target.suffix}",
        background=BackgroundTask(target.unlink, missing_ok=True),
    )


def _refused(result: FileResult) -> Response:
    return problem(result.error or ErrorDetails(kind="decode", subject=_NAME, problem="holds no sound"))


class _StreamSink(Sink):
    """Sends samples on as 16-bit wav of unknown length."""

    def __init__(self, put: Callable[[bytes], None]) -> None:
        self._put, self._rate_hz, self._sent_samples = put, 0, 0

    def open(self, sample_rate: int) -> None:
        self._rate_hz = sample_rate
        header = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", _UNKNOWN_BYTES, b"WAVE", b"fmt ", 16, 1, 1, sample_rate,
                             2 * sample_rate, 2, 16)  # fmt: skip
        self._put(header + struct.pack("<4sI", b"data", _UNKNOWN_BYTES))

    def write(self, samples: FloatArray) -> None:
        self._sent_samples += len(samples)
        if self._sent_samples > _MOST_S * self._rate_hz:
            raise CancelledError(_NAME, f"is longer than {_MOST_S:g} s", "Send it as a job")
        self._put((np.clip(np.rint(samples * 32767), -32768, 32767)).astype("<i2").tobytes())
