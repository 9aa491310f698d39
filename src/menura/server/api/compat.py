"""rvc-python's routes, so that its clients work unchanged. Their state, one model and its parameters, is the process's.

What they can't mean here is refused: another device, another folder.
"""

from __future__ import annotations

import base64
import binascii
import json
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from menura.errors import MenuraError, OptionError
from menura.f0.registry import resolve_method
from menura.options import DEFAULT_VOICE, F0_METHODS
from menura.server.api.audio import sent
from menura.server.api.direct import answer
from menura.server.api.voices import import_upload
from menura.server.asked import FORM, VoiceInPath, answers, asked, installed, sends
from menura.server.problems import PROBLEM_SCHEMA
from menura.server.service import Current, Service, costly
from menura.voices.library import list_voices

_DETAIL = {"type": "object", "properties": {"detail": {"type": "string"}}, "required": ["detail"]}
_REFUSED: dict[str, Any] = {
    "description": "What rvc-python refuses has a `detail`, other requests a problem document",
    "content": {"application/json": {"schema": _DETAIL}, "application/problem+json": {"schema": PROBLEM_SCHEMA}},
}
_SOUND = answers("audio/*", "Sound")
router = APIRouter(tags=["rvc-python"], responses={400: _REFUSED})

_RIGHTS = "given by whoever sent it to /upload_model"
_MOST_CHARACTERS = 100 * 2**20
_MOST_PARAMS = 1000


@dataclass(slots=True)
class _State:
    voice: str = DEFAULT_VOICE
    params: dict[str, Any] = field(
        default_factory=lambda: {
            "f0method": "rmvpe",
            "f0up_key": 0,
            "index_rate": 0.5,
            "filter_radius": 3,
            "resample_sr": 0,
            "rms_mix_rate": 1,
            "protect": 0.33,
        }
    )
    lock: threading.Lock = field(default_factory=threading.Lock)


def _state_of(request: Request) -> _State:
    state = request.app.state
    if not hasattr(state, "compat"):
        state.compat = _State()
    compat: _State = state.compat
    return compat


Compat = Annotated[_State, Depends(_state_of)]


class Sound(BaseModel):
    """A recording in base64."""

    audio_data: str = Field(max_length=_MOST_CHARACTERS)


class Params(BaseModel):
    """Some of the parameters."""

    params: dict[str, Any] = Field(examples=[{"f0up_key": 2}])


class Device(BaseModel):
    """A device's name."""

    device: str = Field(examples=["cpu"])


class ModelsDir(BaseModel):
    """A folder."""

    models_dir: str = Field(examples=["models"])


@router.post("/convert", response_class=Response, responses=_SOUND)
async def convert(service: Current, compat: Compat, sound: Sound) -> Response:
    """Convert base64 sound to wav."""
    try:
        data = base64.b64decode(sound.audio_data, validate=True)
    except (binascii.Error, ValueError):
        raise OptionError(None, "is not base64", option="audio_data") from None

    async def chunks() -> AsyncIterator[bytes]:
        yield data

    return await _converted(service, compat, chunks())


@router.post("/convert_file", response_class=Response, responses=_SOUND, openapi_extra=sends(FORM))
async def convert_file(request: Request, service: Current, compat: Compat) -> Response:
    """Convert a form's `file` to wav."""
    async with sent(request) as (chunks, _):
        return await _converted(service, compat, chunks)


@router.get("/models")
def models(service: Current) -> dict[str, list[str]]:
    """All voices' names."""
    return {"models": [voice.name for voice in list_voices(service.home)]}


@router.post("/models/{name}")
def load_model(service: Current, compat: Compat, name: VoiceInPath) -> Any:
    """Choose the voice that `/convert` uses."""
    try:
        compat.voice = installed(service.home, name).name
    except MenuraError as error:
        return _refused(str(error))
    return {"message": f"Model {name} loaded successfully"}


@router.get("/params")
def get_params(compat: Compat) -> dict[str, Any]:
    """The parameters that `/convert` uses."""
    return compat.params


@router.post("/params")
def set_params(service: Current, compat: Compat, given: Params) -> Any:
    """Change some of them."""
    unknown = given.params.keys() - compat.params.keys()
    if unknown:
        return _refused(f"unknown parameters: {', '.join(sorted(unknown))[:200]}")
    changed = compat.params | given.params
    try:
        if len(json.dumps(changed, allow_nan=False, ensure_ascii=False).encode()) > _MOST_PARAMS:
            return _refused("parameters are numbers and names")
        asked(service, compat.voice, _options(service, changed))
    except (MenuraError, TypeError, ValueError) as error:
        return _refused(str(error))
    with compat.lock:
        compat.params = changed
    return {"message": "Parameters updated successfully"}


@router.post("/upload_model", openapi_extra=sends(FORM))
async def upload_model(request: Request, service: Current) -> Any:
    """Import the voices of a zip archive."""
    async with sent(request) as (chunks, name):
        path = await service.folder.receive_once(chunks)
    try:
        await costly(import_upload, service, path, name or "voices.zip", None, _RIGHTS)
    finally:
        path.unlink(missing_ok=True)
    return {"message": "Models uploaded and extracted successfully"}


@router.post("/set_device")
def set_device(service: Current, device: Device) -> Any:
    """The device is chosen when the service starts."""
    current = service.runner.device
    if device.device not in (str(current), current.type, f"{current.type}:0"):
        return _refused(f"the service runs on {current}; start it with --device to change that")
    return {"message": f"Device set to {device.device}"}


@router.post("/set_models_dir")
def set_models_dir(_folder: ModelsDir) -> Any:
    """Clients choose no folders."""
    return _refused("the folder of voices is chosen when the service starts, with --home")


async def _converted(service: Service, compat: _State, chunks: AsyncIterator[bytes]) -> Response:
    options = _options(service, compat.params)
    what = await to_thread.run_sync(asked, service, compat.voice, options)
    return await answer(service, await service.folder.receive_once(chunks), what)


def _options(service: Service, params: dict[str, Any]) -> dict[str, Any]:
    """Its parameters as our options; filter_radius is for methods that need it, one that isn't here becomes auto."""
    method = str(params["f0method"])
    try:
        resolve_method(method, service.home)
    except MenuraError:
        method = "auto"
    return {
        "transpose": params["f0up_key"],
        "f0": method if method in F0_METHODS else "auto",
        "index_rate": params["index_rate"],
        "rms_mix_rate": params["rms_mix_rate"],
        "protect": params["protect"],
        "sample_rate": params["resample_sr"] or None,
    }


def _refused(text: str) -> Any:
    return JSONResponse({"detail": text}, 400)
