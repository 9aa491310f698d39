"""A short recording converted at once: sound in, sound out."""

from __future__ import annotations

import asyncio
import json
import mimetypes
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from starlette.background import BackgroundTask

from menura.audio.encode import pcm16
from menura.errors import ErrorDetails, OptionError
from menura.loading import Request as Asked
from menura.pipeline.output import FileSink, Sink
from menura.server.api.audio import sent
from menura.server.asked import BYTES, FORM, answers, asked, sends
from menura.server.problems import BrokenOffError, problem
from menura.server.recording import BoundedRecording
from menura.server.service import Current, Service
from menura.server.store import QueueFullError
from menura.spans import read_spans
from menura.types import FileResult, FloatArray, State

router = APIRouter(prefix="/v1", tags=["jobs"])

_MOST_S = 300.0
_UNKNOWN_BYTES = 0xFFFFFFFF
_NAME = "recording"


@router.post(
    "/convert",
    response_class=Response,
    responses=answers("audio/*", "The converted sound"),
    openapi_extra=sends(BYTES, FORM),
)
async def convert(
    request: Request,
    service: Current,
    voice: Annotated[str, Query(min_length=1, max_length=200, examples=["wren"])] = "wren",
    options: Annotated[str, Query(max_length=4000, description="As in a job", examples=['{"transpose": 2}'])] = "{}",
) -> Response:
    """Convert a recording of up to five minutes before all jobs.

    Wav is sent as it becomes final, 16 bits, as loud as the voice makes it; with a `loudness` once it is complete.
    """
    what = await to_thread.run_sync(asked, service, voice, parsed(options))
    async with sent(request) as (chunks, _):
        source = await service.folder.receive_once(chunks)
    return await answer(service, source, what)


def parsed(options: str) -> dict[str, Any]:
    """Options in a query. Raises OptionError."""
    try:
        fields = json.loads(options)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise OptionError(None, "is not a JSON object", option="options")
    return fields | {"spans": read_spans(fields["spans"])} if isinstance(fields.get("spans"), list) else fields


async def answer(service: Service, source: Path, what: Asked) -> Response:
    """Convert what was received; its file is gone afterwards."""
    recording = BoundedRecording(source, _NAME, most_s=_MOST_S, advice="Send it as a job")
    options = what.options
    streams = (options.format or "wav") == "wav" and options.bit_depth in (None, 16)
    try:
        if streams and options.loudness in (None, "voice"):
            return await _streamed(service, recording, what.streamed())
        return await _whole(service, recording, what)
    except QueueFullError:
        source.unlink(missing_ok=True)
        raise


async def _streamed(service: Service, recording: BoundedRecording, what: Asked) -> Response:
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes | FileResult] = asyncio.Queue()

    def put(piece: bytes | FileResult) -> None:
        if isinstance(piece, FileResult):
            recording.path.unlink(missing_ok=True)
        with suppress(RuntimeError):  # the service ends
            loop.call_soon_threadsafe(queue.put_nowait, piece)

    cancel = service.runner.convert_now(recording, what, _StreamSink(put), put)
    first = await queue.get()
    if isinstance(first, FileResult):
        return _refused(service, first)

    async def pieces() -> AsyncIterator[bytes]:
        piece: bytes | FileResult = first
        try:
            while isinstance(piece, bytes):
                yield piece
                piece = await queue.get()
        finally:
            cancel.set()
        if piece.state is State.FAILED:
            raise BrokenOffError(piece.error)

    return StreamingResponse(pieces(), media_type="audio/wav")


async def _whole(service: Service, recording: BoundedRecording, what: Asked) -> Response:
    source = recording.path
    target = source.with_suffix(f".{what.options.format or 'wav'}")
    ended: asyncio.Queue[FileResult] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    sink = FileSink(target, what.options, source=source, divided=False)

    def on_end(result: FileResult) -> None:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(ended.put_nowait, result)

    cancel = service.runner.convert_now(recording, what, sink, on_end)
    try:
        result = await ended.get()
    finally:
        cancel.set()
        source.unlink(missing_ok=True)
    if result.output is None:
        return _refused(service, result)
    ended_by, kind = BackgroundTask(target.unlink, missing_ok=True), mimetypes.guess_type(target.name)[0]
    return FileResponse(target, media_type=kind, filename=f"converted{target.suffix}", background=ended_by)


def _refused(service: Service, result: FileResult) -> Response:
    error = result.error or ErrorDetails(kind="decode", problem="holds no sound")
    return problem(service.runner.public(replace(error, subject=_NAME)))


class _StreamSink(Sink):
    """Sends samples on as 16-bit wav of unknown length."""

    def __init__(self, put: Callable[[bytes], None]) -> None:
        self._put = put

    def open(self, sample_rate: int, channels: int = 1) -> None:
        header = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", _UNKNOWN_BYTES, b"WAVE", b"fmt ", 16, 1, channels, sample_rate,
                             2 * channels * sample_rate, 2 * channels, 16)  # fmt: skip
        self._put(header + struct.pack("<4sI", b"data", _UNKNOWN_BYTES))

    def write(self, samples: FloatArray) -> None:
        self._put(pcm16(samples).astype("<i2").tobytes())
