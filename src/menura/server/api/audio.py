"""Recordings: sent, described, sent back."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi import Path as InPath
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.datastructures import UploadFile

from menura.audio.decode import open_audio
from menura.errors import MenuraError, OptionError, details_of
from menura.server.asked import BYTES, FORM, AudioInPath, Bins, SoundResponse, answers, sends
from menura.server.folder import Saved
from menura.server.peaks import waveform
from menura.server.problems import error_document
from menura.server.recording import BoundedRecording
from menura.server.service import Current, Service, costly
from menura.server.store import Audio
from menura.system.text import printable

router = APIRouter(prefix="/v1/audio", tags=["audio"])

_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})")
_CHUNK = 1 << 20
_MAGIC = (
    (b"RIFF", 0, "audio/wav"),
    (b"fLaC", 0, "audio/flac"),
    (b"OggS", 0, "audio/ogg"),
    (b"ID3", 0, "audio/mpeg"),
    (b"\xff\xfb", 0, "audio/mpeg"),
    (b"\xff\xf3", 0, "audio/mpeg"),
    (b"ftyp", 4, "audio/mp4"),
    (b"\x1aE\xdf\xa3", 0, "audio/webm"),
)
"""Bytes, where they stand, and what they begin."""
UNNAMED = "recording"


class AudioDocument(BaseModel):
    """A recording that was sent."""

    id: str = Field(description="SHA-256 of its bytes")
    name: str
    size_bytes: int
    audio_s: float | None = Field(None, description="Length in seconds, where the header says it")
    sample_rate: int | None = None
    channels: int | None = None
    error: dict[str, Any] | None = Field(None, description="Why it can't be read as audio")
    url: str


class Received(BaseModel):
    """A part of a recording that has come."""

    received_bytes: int


class Peaks(BaseModel):
    """Smallest and largest sample of each of a number of equal spans."""

    audio_s: float
    rms_db: float = Field(description="Level of all samples below full scale")
    low: list[float]
    high: list[float]


def audio_document(audio: Audio) -> AudioDocument:
    return AudioDocument(
        id=audio.id, name=audio.name, size_bytes=audio.size_bytes, url=f"/v1/audio/{audio.id}", **audio.info
    )


@router.put(
    "",
    status_code=201,
    response_model=AudioDocument,
    responses={202: {"model": Received, "description": "The part was taken; send what follows"}},
    openapi_extra=sends(BYTES, FORM),
)
async def put_audio(
    request: Request,
    service: Current,
    name: Annotated[str | None, Query(max_length=500, description="What it is called", examples=["talk.flac"])] = None,
    upload: Annotated[
        str | None, Query(min_length=8, max_length=200, description="Any unique text: names an upload sent in parts")
    ] = None,
    content_range: Annotated[str | None, Header(description="bytes START-END/TOTAL of a part")] = None,
) -> Response:
    """Send a recording: raw bytes, or a form's `file`. It is kept under the hash of its bytes.

    A large one may come in parts with `upload` and Content-Range; after an interruption, `GET /v1/audio/uploads/KEY`
    says how much has come.
    """
    if content_range is not None:
        return await _part(request, service, name, upload, content_range)
    async with sent(request) as (chunks, filename):
        saved = await service.folder.receive(chunks)
    return await _registered(service, saved, name or filename)


@router.get("/uploads/{key}")
def get_upload(service: Current, key: Annotated[str, InPath(description="The `upload` of its parts")]) -> Received:
    """How much of an upload in parts has come."""
    return Received(received_bytes=service.folder.received(key))


@router.get("/{id}/info")
def get_audio_info(service: Current, id: AudioInPath) -> AudioDocument:
    """What is known of a recording."""
    return audio_document(service.store.audio(id))


@router.get("/{id}", response_class=SoundResponse, responses=answers("*/*", "Its bytes", 200, 206))
def get_audio(service: Current, id: AudioInPath) -> SoundResponse:
    """The recording itself; Range is obeyed."""
    audio = service.store.audio(id)
    path = service.folder.audio(audio.id)
    return SoundResponse(path, media_type=_media_type(path), filename=printable(audio.name))


@router.get("/{id}/peaks")
async def get_audio_peaks(service: Current, id: AudioInPath, bins: Bins = 1000) -> Peaks:
    """For a picture of its waveform."""
    audio = await to_thread.run_sync(service.store.audio, id)
    return await costly(peaks_document, service, service.folder.audio(audio.id), bins)


def _media_type(path: Path) -> str:
    """By its first bytes, so that browsers play it and take nothing for a page."""
    with path.open("rb") as file:
        head = file.read(12)
    known = (kind for magic, at, kind in _MAGIC if head[at : at + len(magic)] == magic)
    return next(known, "application/octet-stream")


def peaks_document(service: Service, path: Path, bins: int) -> Peaks:
    recording = BoundedRecording(path, UNNAMED, most_s=service.most_audio_s, advice="Cut it")
    try:
        peaks = waveform(recording.open(), bins)
    except MenuraError as error:
        raise error.about({str(path): UNNAMED}) from None
    return Peaks(
        audio_s=peaks.audio_s,
        rms_db=round(peaks.rms_db, 2),
        low=[round(float(value), 4) for value in peaks.low],
        high=[round(float(value), 4) for value in peaks.high],
    )


async def _part(
    request: Request, service: Service, name: str | None, upload: str | None, content_range: str
) -> Response:
    found = _RANGE.fullmatch(content_range)
    if found is None or upload is None:
        raise OptionError(None, "a part needs Content-Range: bytes START-END/TOTAL and an upload key", option="upload")
    start, end, total = map(int, found.groups())
    if not start <= end < total:
        raise OptionError(None, "isn't a part of the whole", option="content-range")
    part = await service.folder.receive_part(upload, range(start, end + 1), total, request.stream())
    if part.saved is not None:
        return await _registered(service, part.saved, name)
    return JSONResponse({"received_bytes": part.received_bytes}, 202)


async def _registered(service: Service, saved: Saved, name: str | None) -> JSONResponse:
    document = audio_document(await to_thread.run_sync(register, service, saved, name))
    return JSONResponse(document.model_dump(), 201, {"Location": document.url})


def register(service: Service, saved: Saved, name: str | None) -> Audio:
    """Note a recording that was received, with what its header says."""
    shown = printable(Path((name or UNNAMED).replace("\\", "/")).name, 200) or UNNAMED
    info = service.store.known_info(saved.sha256)
    if info is None or "error" in info:
        info = _probed(service, saved.sha256, shown)
    return service.store.add_audio(saved.sha256, shown, saved.size_bytes, info)


def _probed(service: Service, id: str, name: str) -> dict[str, Any]:
    path = service.folder.audio(id)
    try:
        info = open_audio(path).info
    except (MenuraError, OSError) as error:
        return {"error": error_document(service.runner.public(details_of(error).about({str(path): name})))}
    length = info.length_samples
    return {
        "audio_s": None if length is None else length / info.sample_rate,
        "sample_rate": info.sample_rate,
        "channels": info.channels,
    }


@asynccontextmanager
async def sent(request: Request) -> AsyncIterator[tuple[AsyncIterator[bytes], str | None]]:
    """A request's raw body, or its form's `file` with its name. Raises OptionError for a form without one."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        yield request.stream(), None
        return
    async with request.form(max_files=1, max_fields=4) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise OptionError(None, "the form has no file", option="file")
        yield _chunks_of(file), file.filename


async def _chunks_of(file: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await file.read(_CHUNK):
        yield chunk
