"""What clients may ask for: options by name, voices by name, no paths."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from fastapi import Path as InPath
from fastapi import Query
from fastapi.responses import FileResponse
from pydantic import StringConstraints

from menura.effects.definitions import PRESETS, effects_schema
from menura.errors import OptionError, VoiceNotFoundError
from menura.loading import Request, resolve
from menura.option_spec import OptionSpec, schema, specs_of
from menura.options import ConversionOptions
from menura.server.service import Service
from menura.spans import voices_of
from menura.system.text import printable
from menura.voices.library import VoiceEntry, list_voices

BYTES, FORM = "application/octet-stream", "multipart/form-data"

AudioId = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
"""The SHA-256 of a recording's bytes."""
DEMO = "f58aa3d469201b93353c7d37f91c12d27e6a9ea45a66bd7dfa0d0ccb8466b6dc"
"""The demo's recording, for examples."""
AudioInPath = Annotated[str, InPath(description="Id of a recording")]
TrainingInPath = Annotated[str, InPath(description="Id of a training")]
JobInPath = Annotated[str, InPath(description="Id of a job")]
VoiceInPath = Annotated[str, InPath(description="Name of a voice", examples=["wren"])]
Position = Annotated[int, InPath(description="Of the recording in its job, from 0", examples=[0])]
Bins = Annotated[int, Query(ge=1, le=8000, description="How many spans")]


def sends(*media_types: str) -> dict[str, Any]:
    """The description of a request's body: bytes of these types, or a form's `file`."""
    raw: dict[str, Any] = {"type": "string", "format": "binary"}
    form = {"type": "object", "properties": {"file": raw}, "required": ["file"]}
    content = {kind: {"schema": form if kind == FORM else raw} for kind in media_types}
    return {"requestBody": {"required": True, "content": content}}


def answers(media_type: str, description: str, *statuses: int) -> dict[int | str, dict[str, Any]]:
    """The description of an answer that is no JSON."""
    schema = {"type": "string", "format": "binary"}
    answer: dict[str, Any] = {"description": description, "content": {media_type: {"schema": schema}}}
    return {status: answer for status in statuses or (200,)}


class SoundResponse(FileResponse):
    """A file, in fewer pieces: every one is read by a thread."""

    chunk_size = 1 << 19


@functools.cache
def offered(cls: type = ConversionOptions) -> tuple[OptionSpec, ...]:
    """The options that a client may set: not the voice, which stands beside them, no files, and no machines."""
    return tuple(spec for spec in specs_of(cls) if spec.kind is not Path and spec.name not in ("voice", "devices"))


def options_schema(cls: type = ConversionOptions) -> dict[str, Any]:
    """A JSON Schema of them."""
    whole = schema(cls)
    names = {spec.name for spec in offered(cls)}
    properties = {name: value for name, value in whole["properties"].items() if name in names}
    if "effects" in properties:
        properties["effects"] |= {"effects": effects_schema(), "presets": PRESETS}
    return whole | {"properties": properties}


def asked(service: Service, voice: str, options: Mapping[str, Any]) -> Request:
    """What is asked for, looked up.

    Raises:
        OptionError: an unknown option, or a value that it doesn't take.
        MenuraError: no such voice, or something that it needs is missing.
    """
    chosen = checked_options(installed(service.home, voice), options)
    for name in () if chosen.spans is None else voices_of(chosen.spans, chosen.speakers):
        installed(service.home, name, "spans")
    return resolve(chosen, service.home)


def checked_options(voice: VoiceEntry, options: Mapping[str, Any]) -> ConversionOptions:
    check_names(ConversionOptions, options)
    return ConversionOptions(voice=str(voice.name), **options)


def check_names(cls: type, options: Mapping[str, Any]) -> None:
    """Raises OptionError for one that isn't offered."""
    known = {spec.name for spec in offered(cls)}
    for name in options:
        if name not in known:
            raise OptionError(None, "no such option", "GET /v1/options lists them", option=printable(name, 80))


def installed(home: Path, name: str, option: str = "voice") -> VoiceEntry:
    """A voice of the library. Raises VoiceNotFoundError; a path is no name."""
    for voice in list_voices(home):
        if voice.name == name:
            return voice
    raise VoiceNotFoundError(None, f"no voice named {name[:100]!r}", "GET /v1/voices lists them", option=option)
