"""Trainings: made of recordings, checked, run, watched, published."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi import Path as InPath
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from menura.options import CloneOptions, RunOptions, TrainingOptions
from menura.server.api.jobs import EVENTS, LastEvent, stream
from menura.server.api.voices import NewName, VoiceDocument, voice_document
from menura.server.asked import DEMO, AudioId, TrainingInPath, answers, check_names, installed, options_schema
from menura.server.service import Current, Service
from menura.server.store import NotFoundError
from menura.server.trainings import Record
from menura.system.text import printable
from menura.train.experiment.folder import LOG, LOGS, Summary, find_experiments
from menura.voices.library import check_name

router = APIRouter(prefix="/v1/trainings", tags=["training"])

_POINTS = 300
Preview = Annotated[str, InPath(description="As in `previews`")]


class NewTraining(BaseModel):
    """What is to be learnt, and how."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=100, description="What the voice is to be called", examples=["pupil"])
    inputs: list[AudioId] = Field(
        min_length=1, max_length=5000, description="Ids of recordings of one speaker", examples=[[DEMO]]
    )
    rights: str = Field(max_length=1000, description="Who made them, and what allows their use", examples=["my own"])
    clone: bool = Field(False, description="Adapt a starter voice, as `menura clone`, whose `options` are then meant")
    options: dict[str, Any] = Field(
        default_factory=dict,
        json_schema_extra=options_schema(TrainingOptions),
        examples=[{"content": "menura-starter", "steps": 500}],
    )


class RunDocument(BaseModel):
    """How a run differs from what the training was made with."""

    model_config = ConfigDict(extra="forbid")

    options: dict[str, Any] = Field(default_factory=dict, json_schema_extra=options_schema(RunOptions))


class TrainingDocument(BaseModel):
    """A training: what is known of its recordings, and how far it is."""

    id: str
    name: str
    state: Literal["new", "queued", "running", "stopping", "stopped", "failed", "done"]
    waits_for: str | None = Field(description="The training that runs before it")
    created: float
    audio_s: float
    recordings: list[dict[str, str]]
    options: dict[str, Any]
    notes: list[dict[str, Any]] = Field(description="What could be better")
    stage: Literal["loading", "slices", "features", "training", "voice"] | None
    done: int
    total: int
    step: int
    steps: int
    step_s: float | None
    left_s: float | None
    error: dict[str, Any] | None
    size_bytes: int
    curves: dict[str, list[float | None]] = Field({}, description="By step: losses, and `validation`")
    previews: list[str] = Field([], description="STEP.N.flac, the newest first; recording.N.flac is what it should be")
    url: str


class TrainingList(BaseModel):
    """The newest first."""

    trainings: list[TrainingDocument]


@router.post("", status_code=201)
def post_training(service: Current, response: Response, new: NewTraining) -> TrainingDocument:
    """Make a training of recordings that were sent; what could stop it later is refused now. Nothing runs yet."""
    check_names(CloneOptions if new.clone else TrainingOptions, new.options)
    if new.options.get("base", "auto") not in ("auto", "none"):
        installed(service.home, str(new.options["base"]))
    audios = [service.store.audio(id) for id in dict.fromkeys(new.inputs)]
    sources = {service.folder.audio(audio.id): audio for audio in audios}
    name, rights = check_name(new.name), printable(new.rights, 1000)
    record = service.trainings.create(name, sources, rights, new.options, clone=new.clone)
    document = training_document(service, record)
    response.headers["Location"] = document.url
    return document


@router.get("")
def get_trainings(service: Current) -> TrainingList:
    """All trainings, without their curves and previews."""
    return TrainingList(trainings=[training_document(service, record) for record in service.trainings.records()])


@router.get("/{id}")
def get_training(service: Current, id: TrainingInPath) -> TrainingDocument:
    """One training."""
    document, folder = training_document(service, service.trainings.record(id)), service.trainings.folder(id)
    previews = [f"{document.url}/previews/{path.name}" for path in _sounds(folder) if path.name[0].isdigit()]
    return document.model_copy(update={"curves": _curves(folder / LOG), "previews": previews})


@router.post("/{id}/start", status_code=202)
def start_training(service: Current, id: TrainingInPath, run: RunDocument | None = None) -> TrainingDocument:
    """Train, or go on; one training runs at a time, others wait."""
    options = run.options if run is not None else {}
    check_names(RunOptions, options)
    RunOptions(**options)
    service.trainings.start(id, options)
    return training_document(service, service.trainings.record(id))


@router.post("/{id}/stop")
def stop_training(service: Current, id: TrainingInPath) -> TrainingDocument:
    """End a run after its current step, which is kept."""
    service.trainings.stop(id)
    return training_document(service, service.trainings.record(id))


@router.post("/{id}/export", status_code=201)
def export_training(service: Current, id: TrainingInPath, new: NewName) -> VoiceDocument:
    """Put the voice, as far as it is trained, into the library, with its index."""
    return voice_document(service.trainings.export(id, new.name))


@router.delete("/{id}", status_code=204)
def delete_training(service: Current, id: TrainingInPath) -> None:
    """Delete a training that doesn't run, with all its files; voices in the library stay."""
    service.trainings.remove(id)


@router.get("/{id}/events", response_class=StreamingResponse, responses=EVENTS)
def get_training_events(
    request: Request, service: Current, id: TrainingInPath, last_event_id: LastEvent = None
) -> StreamingResponse:
    """How a training stands, as server-sent events `training`; the latest is always told."""
    service.trainings.folder(id)
    return stream(request, service, id, last_event_id or 0)


@router.get("/{id}/previews/{name}", response_class=FileResponse, responses=answers("audio/*", "Sound", 200, 206))
def get_preview(service: Current, id: TrainingInPath, name: Preview) -> FileResponse:
    """A preview's sound."""
    for path in _sounds(service.trainings.folder(id)):
        if path.name == name:
            return FileResponse(path, media_type="audio/flac")
    raise NotFoundError(None, "there is no such preview")


def training_document(service: Service, record: Record) -> TrainingDocument:
    folder = service.trainings.folder(record.id)
    summary = next(iter(find_experiments(folder)), Summary(folder=folder))
    state, progress, waits_for = service.trainings.state(record)
    step, steps = max(summary.step, record.step), summary.steps
    if progress.stage == "training":
        step, steps = progress.done, progress.total
    facts = dataclasses.asdict(record) | dataclasses.asdict(progress) | {"step": step}
    return TrainingDocument(
        **facts,
        state=state,  # type: ignore[arg-type]
        waits_for=waits_for,
        steps=steps,
        left_s=None if progress.step_s is None else round(progress.step_s * (steps - step), 1),
        size_bytes=summary.size_bytes,
        url=f"/v1/trainings/{record.id}",
    )


def _curves(log: Path) -> dict[str, list[float | None]]:
    """Every so many lines of the log, and all with a validation."""
    rows = []
    with contextlib.suppress(OSError), log.open(encoding="utf-8") as lines:
        for line in lines:
            with contextlib.suppress(ValueError):  # cut short by a kill
                row = json.loads(line)
                losses = {name: value for name, value in row["losses"].items() if "gradient" not in name}
                rows.append({"step": row["step"], **losses, "validation": row.get("validation_mel")})
    every = len(rows) // _POINTS + 1
    shown = [row for i, row in enumerate(rows, start=1) if (len(rows) - i) % every == 0 or row["validation"]]
    return {name: [row.get(name) for row in shown] for name in dict.fromkeys(name for row in shown for name in row)}


def _sounds(folder: Path) -> list[Path]:
    return sorted((folder / LOGS / "previews").glob("*.flac"), reverse=True)
