"""The library of voices: listed, described, heard, imported, renamed, removed."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import threading
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from menura.errors import DownloadError, MenuraError, OptionError, ResourceError
from menura.export.voice import export_voice
from menura.loading import Request as Asked
from menura.loading import resolve
from menura.options import ConversionOptions
from menura.pipeline.output import FileSink
from menura.pipeline.recording import FileRecording
from menura.server.api.audio import sent
from menura.server.asked import BYTES, FORM, VoiceInPath, answers, installed, sends
from menura.server.fetching import fetch_for_client
from menura.server.folder import TooLargeError
from menura.server.problems import error_document
from menura.server.service import Current, Service, costly
from menura.system.files import temporary_folder
from menura.system.text import printable
from menura.types import FileResult
from menura.voices.blend import MOST_VOICES, Part, blend_voices
from menura.voices.changes import add_index, rename_voice
from menura.voices.library import (
    VOICE_SUFFIXES,
    ImportRequest,
    VoiceEntry,
    card_of,
    import_voices,
    list_voices,
    remove_voice,
    rights_of,
    speaker_names,
)

router = APIRouter(prefix="/v1/voices", tags=["voices"])

_SENTENCE = Path(__file__).resolve().parents[2] / "assets" / "demo" / "librivox_0870.flac"
_SUFFIXES = (*VOICE_SUFFIXES, ".zip")
_SAMPLE_S = 300.0
_MOST_DIRECTORY_BYTES = 8 * 2**20
_samples, _exports = threading.Lock(), threading.Lock()
Format = Literal["pth", "safetensors", "onnx"]
"""Those of `export_voice`."""


class VoiceDocument(BaseModel):
    """A voice."""

    name: str
    builtin: bool
    source: str
    f0_median_hz: float | None = Field(description="The voice's own median pitch")
    has_index: bool
    licence: str | None = Field(description="What allows its use, as its maker or importer says")
    note: str
    url: str


class VoiceList(BaseModel):
    """The starter voices first."""

    voices: list[VoiceDocument]


class VoiceDetails(VoiceDocument):
    """A voice with all that is known of it."""

    card: dict[str, Any] = Field(description="What its maker says")
    network: dict[str, Any]


class Imported(BaseModel):
    """What became of the voices of a file."""

    voices: list[VoiceDocument]
    errors: list[dict[str, Any]]
    url: str | None = Field(None, description="Where the file was fetched, and what it was: kept in the card")
    sha256: str | None = None


class Place(BaseModel):
    """Where a voice is on the Internet."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(
        min_length=1,
        max_length=2000,
        description="https address of a .pth, .safetensors or .zip file, or the model hub's OWNER/NAME or page",
        examples=["owner/guest/guest.safetensors"],
    )
    rights: str = Field(min_length=1, max_length=1000, examples=["my own"])
    name: str | None = Field(None, max_length=100, description="By default as the file is called")
    sha256: str | None = Field(None, pattern="^[0-9a-fA-F]{64}$", description="Another file is refused")


class NewName(BaseModel):
    """What a voice is to be called."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=100, examples=["friend"])


class BlendPart(BaseModel):
    """How much of a voice a blend has; shares are relative to each other."""

    model_config = ConfigDict(extra="forbid")

    voice: str = Field(min_length=1, max_length=100)
    share: float = Field(gt=0, le=1e6)


class Blend(NewName):
    """A new voice of others."""

    parts: list[BlendPart] = Field(
        min_length=2,
        max_length=MOST_VOICES,
        examples=[[{"voice": "wren", "share": 0.7}, {"voice": "heron", "share": 0.3}]],
    )


@router.get("")
def get_voices(service: Current) -> VoiceList:
    """All voices."""
    return VoiceList(voices=[voice_document(voice) for voice in list_voices(service.home)])


@router.get("/{name}")
def get_voice(service: Current, name: VoiceInPath) -> VoiceDetails:
    """One voice: its card, and its network."""
    from menura.checkpoints.voice import read_config

    voice = installed(service.home, name)
    config = read_config(voice.path)
    return VoiceDetails(
        **voice_document(voice).model_dump(),
        card=dict(card_of(voice).fields),
        network={
            "version": config.version,
            "sample_rate": config.sample_rate,
            "vocoder": config.vocoder,
            "content_encoder": config.content_encoder,
            "follows_pitch": config.has_f0,
            "speakers": config.n_speakers,
            "speaker_names": speaker_names(voice),
        },
    )


@router.post("", status_code=201, openapi_extra=sends(BYTES, FORM))
async def post_voice(
    request: Request,
    service: Current,
    filename: Annotated[str, Query(min_length=1, max_length=300, examples=["guest.safetensors"])],
    rights: Annotated[str, Query(min_length=1, max_length=1000, examples=["my own"])],
    name: Annotated[str | None, Query(max_length=100, description="By default as the file is called")] = None,
) -> Imported:
    """Import voices: the body is a .pth, .safetensors or .zip file, or a form's `file`.

    `filename` is what the file is called; `rights` says whose voice it is, and what allows its use.
    """
    _named(filename, _SUFFIXES)
    async with _received(request, service) as path:
        return await costly(import_upload, service, path, filename, name, rights)


@router.post("/fetch", status_code=201)
async def post_fetch(service: Current, place: Place) -> Imported:
    """Import a voice from the Internet, as one that was sent; 403 where the service doesn't (`--fetch`)."""
    with temporary_folder("voice-", service.folder.incoming) as folder:
        sha256 = place.sha256 and place.sha256.lower()
        fetching = asyncio.wrap_future(fetch_for_client(service, place.url, folder, sha256))
        while not fetching.done():
            await asyncio.wait({fetching}, timeout=1)
            if service.closing.is_set():
                raise DownloadError(place.url, "the service ends", option="url")
        found = fetching.result()
        request = ImportRequest(
            source=found.path,
            home=service.home,
            name=place.name or None,
            rights=printable(place.rights, 1000),
            url=found.url,
            sha256=found.sha256,
        )
        return await costly(_imported, service, request)


@router.post("/blend", status_code=201)
async def post_blend(service: Current, blend: Blend) -> VoiceDocument:
    """Blend voices of one architecture, and their indexes, into a new one; its card says whose it is."""
    parts = [Part(voice=installed(service.home, part.voice), share=part.share) for part in blend.parts]
    return voice_document(await costly(blend_voices, parts, blend.name, service.home))


@router.put("/{name}/index", openapi_extra=sends(BYTES, FORM))
async def put_index(request: Request, service: Current, name: VoiceInPath) -> VoiceDocument:
    """Give an installed voice its retrieval index (.index)."""
    voice = await to_thread.run_sync(installed, service.home, name)
    async with _received(request, service) as path:
        try:
            return voice_document(await costly(add_index, voice.name, path, service.home))
        except MenuraError as error:
            raise error.about({str(path): "index"}) from None


@router.post("/{name}/rename")
def rename(service: Current, name: VoiceInPath, new: NewName) -> VoiceDocument:
    """Call an installed voice by another name."""
    return voice_document(rename_voice(installed(service.home, name).name, new.name, service.home))


@router.delete("/{name}", status_code=204)
def delete_voice(service: Current, name: VoiceInPath) -> None:
    """Remove an installed voice."""
    remove_voice(installed(service.home, name).name, service.home)


@router.get("/{name}/sample", response_class=FileResponse, responses=answers("audio/wav", "Sound", 200, 206))
async def get_sample(service: Current, name: VoiceInPath) -> Response:
    """The demo sentence in this voice."""
    path = await costly(_sample, service, name)
    return FileResponse(path, media_type="audio/wav", headers={"Cache-Control": "no-cache"})


@router.get(
    "/{name}/export", response_class=FileResponse, responses=answers("application/octet-stream", "Files", 200, 206)
)
async def get_export(
    service: Current, name: VoiceInPath, format: Annotated[Format, Query(examples=["safetensors"])] = "pth"
) -> Response:
    """The voice for other programs: one file, or a zip archive of it with its index and card; kept for an hour.

    pth is for Applio and RVC WebUI, safetensors the same without pickles; onnx are two graphs that need no torch.
    """
    path = await costly(_exported, service, name, format)
    return FileResponse(path, media_type=BYTES, filename=path.name, headers={"Cache-Control": "no-cache"})


def _exported(service: Service, name: str, form: str) -> Path:
    voice = installed(service.home, name)
    files = [(path, path.stat()) for path in (voice.path, voice.index_path) if path is not None]
    said = [form, card_of(voice).fields, [(str(path), found.st_size, found.st_mtime_ns) for path, found in files]]
    folder = service.folder.exports / hashlib.sha256(json.dumps([voice.name, said], default=str).encode()).hexdigest()
    with _exports:
        if not any(folder.glob("*")):  # an empty one is what a removal that was broken off left
            service.folder.check_room()
            with temporary_folder("export-", service.folder.incoming) as made:
                _packed(export_voice(voice, form, made / "files"), made / folder.name / voice.name)
                with contextlib.suppress(OSError):  # another service with the same folder may have been first
                    os.replace(made / folder.name, folder)
        os.utime(folder)
        return next(folder.iterdir())


def _packed(files: tuple[Path, ...], target: Path) -> None:
    """The one file, or a zip archive of several, uncompressed as weights can't be."""
    target.parent.mkdir()
    if len(files) == 1:
        files[0].replace(target.with_name(files[0].name))
        return
    with zipfile.ZipFile(target.with_name(f"{target.name}.zip"), "w") as archive:
        for file in files:
            archive.write(file, file.name)
            file.unlink()


def _sample(service: Service, name: str) -> Path:
    voice = installed(service.home, name)
    request = resolve(ConversionOptions(voice=voice.name), service.home)
    path = service.folder.sample(request.identity)
    with _samples:
        if not path.is_file():
            _convert_sample(service, request, path)
    return path


def voice_document(voice: VoiceEntry) -> VoiceDocument:
    return VoiceDocument(
        name=voice.name,
        builtin=voice.builtin,
        source=voice.source,
        f0_median_hz=voice.f0_median_hz,
        has_index=voice.index_path is not None,
        licence=rights_of(voice),
        note=voice.note,
        url=f"/v1/voices/{voice.name}",
    )


def _named(filename: str, suffixes: tuple[str, ...]) -> tuple[str, str]:
    """Ending and stem of a file's name, without anything that could lead elsewhere."""
    name = Path(printable(filename.replace("\\", "/"), 200)).name
    suffix = Path(name).suffix.lower()
    if suffix not in suffixes:
        raise OptionError(None, f"'{suffix}' is not one of {', '.join(suffixes)}", option="filename")
    return suffix, Path(name).stem or "voice"


@contextlib.asynccontextmanager
async def _received(request: Request, service: Service) -> AsyncIterator[Path]:
    """The body as a file that is gone afterwards."""
    async with sent(request) as (chunks, _):
        path = await service.folder.receive_once(chunks)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def import_upload(service: Service, path: Path, filename: str, name: str | None, rights: str) -> Imported:
    """Install the voices of a file that was received; `filename` is what its sender calls it."""
    suffix, stem = _named(filename, _SUFFIXES)
    filename = f"{stem}{suffix}"
    with temporary_folder("voice-", service.folder.incoming) as folder:
        source = folder / filename
        path.rename(source)
        return _imported(
            service, ImportRequest(source=source, home=service.home, name=name, rights=printable(rights, 1000))
        )


def _imported(service: Service, request: ImportRequest) -> Imported:
    source, filename = request.source, request.source.name
    _check_unpacked(source, 4 * service.folder.most_upload_bytes)
    try:
        results = list(import_voices(request))
    except MenuraError as error:
        raise error.about({str(source): filename}) from None
    installed = [voice_document(result.voice) for result in results if result.voice is not None]
    errors = [result.error.about({str(source): filename}) for result in results if result.error is not None]
    if errors and not installed:
        raise errors[0]
    told = [error_document(service.runner.public(error.details)) for error in errors]
    return Imported(voices=installed, errors=told, url=request.url, sha256=request.sha256)


def _check_unpacked(source: Path, most_bytes: int) -> None:
    """What an archive says of its members' sizes is the most that is read of them."""
    refusal = TooLargeError(source, "unpacks to more than the service takes", "Send its voices one by one")
    with contextlib.suppress(zipfile.BadZipFile, OSError):
        with source.open("rb") as file:
            end = zipfile._EndRecData(file)  # type: ignore[attr-defined]  # reading what it lists takes much memory
        if end and end[zipfile._ECD_SIZE] > _MOST_DIRECTORY_BYTES:  # type: ignore[attr-defined]
            raise refusal
        with zipfile.ZipFile(source) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > most_bytes:
                raise refusal


def _convert_sample(service: Service, request: Asked, path: Path) -> None:
    ended, results = threading.Event(), []

    def on_end(result: FileResult) -> None:
        results.append(result)
        ended.set()

    sink = FileSink(path, request.options)
    cancel = service.runner.convert_now(FileRecording(_SENTENCE, label="sample"), request, sink, on_end)
    if not ended.wait(_SAMPLE_S):
        cancel.set()
        raise ResourceError("sample", "took too long", "Try again later")
    if results[0].error is not None:
        error = results[0].error
        raise ResourceError("sample", error.problem, error.advice)
