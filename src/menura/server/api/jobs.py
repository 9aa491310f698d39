"""Jobs: asked for, watched, ended; their results."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import io
import json
import math
import mimetypes
import time
import zipfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from menura.errors import OptionError
from menura.server.api.audio import Peaks, peaks_document
from menura.server.asked import DEMO, AudioId, Bins, JobInPath, Position, SoundResponse, answers, asked, options_schema
from menura.server.pitch import pitch_curve
from menura.server.service import Current, Service, costly
from menura.server.store import (
    JOB_STATES,
    OPEN_STATES,
    Job,
    NewJob,
    NotFoundError,
    QueueFullError,
    StoredEvent,
    StoredItem,
)
from menura.spans import read_spans
from menura.system.files import write_whole

router = APIRouter(prefix="/v1", tags=["jobs"])

_MOST_INPUTS = 5000
_MOST_SHOWN, _MOST_SPANS_CHARS = 2000, 2**20
"""Of a job's options; it is read whenever jobs are listed."""
_BEAT_S = 15.0
EVENTS = answers("text/event-stream", "Events `job` and `item`, as long as the client listens")
LastEvent = Annotated[int | None, Header(ge=0, le=2**62)]
_SOUND = answers("audio/*", "Sound", 200, 206)
_ZIP_BLOCK = 1 << 18
_ONE = CapacityLimiter(1)


class PitchCurve(BaseModel):
    """F0 at equal distances."""

    step_s: float
    hz: list[float] = Field(description="0 where there is no voice, or none was looked for")


class PitchCurves(BaseModel):
    """F0 before and after."""

    source: PitchCurve
    result: PitchCurve


class NewJobDocument(BaseModel):
    """What is to be converted, and how."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"inputs": [DEMO], "voice": "wren", "options": {"transpose": 2}}},
    )

    kind: Literal["convert"] = "convert"
    inputs: list[AudioId] = Field(min_length=1, max_length=_MOST_INPUTS, description="Ids of recordings")
    voice: str = Field("wren", min_length=1, max_length=200, description="A voice's name")
    options: dict[str, Any] = Field(default_factory=dict, json_schema_extra=options_schema())
    spans: str | list[dict[str, Any]] | None = Field(
        None, description="The option `spans`, as text or as a list of objects with start, end, voice and options"
    )

    @property
    def all_options(self) -> dict[str, Any]:
        """The options, with the spans as text. Raises OptionError."""
        if self.spans is None and "spans" not in self.options:
            return self.options
        if len(self.inputs) > 1:
            raise OptionError(None, "spans are of one recording", "Make a job for each", "spans")
        given = self.options.get("spans") if self.spans is None else self.spans
        spans = read_spans(given) if isinstance(given, list) else given
        if isinstance(spans, str) and len(spans) > _MOST_SPANS_CHARS:
            raise OptionError(None, "more than 1 MB of spans", "Divide the recording", "spans")
        if isinstance(spans, str) and "\0" in spans:  # databases can't look into it
            raise OptionError(None, "spans hold a character that isn't text", "Leave it out", "spans")
        return self.options | {"spans": spans}


class Waiting(BaseModel):
    """Why a job hasn't begun."""

    why: Literal["next", "others"] = Field(description="It is the next; or others came before")
    recordings_before: int


class ItemDocument(BaseModel):
    """One recording of a job."""

    position: int
    name: str
    input: str = Field(description="Id of the recording")
    state: Literal["queued", "running", "done", "warning", "failed", "cancelled"]
    step: Literal["reading", "converting", "writing"] | None = Field(description="Of one that is running")
    audio_s: float | None
    audio_done_s: float
    left_s: float | None = Field(description="Seconds that it still takes, where that can be told")
    result: str | None = Field(description="URL of the output")
    format: str | None
    error: dict[str, Any] | None
    notes: list[str]
    transpose: float | None = Field(description="Semitones by which pitch was moved")
    wall_s: float | None
    stages: dict[str, float] | None = Field(description="Seconds by stage")
    seams_s: list[float]


class JobDocument(BaseModel):
    """A job, with all that became of it."""

    id: str
    kind: str
    state: Literal["queued", "running", "cancelling", "cancelled", "failed", "partly", "done"]
    voice: str
    options: dict[str, Any]
    created: float
    started: float | None
    ended: float | None
    waiting: Waiting | None = Field(description="Of one that is queued")
    progress: float = Field(description="0 to 1, by seconds of audio")
    left_s: float | None = Field(description="Seconds that it still takes, where that can be told")
    counts: dict[str, int]
    items: list[ItemDocument]
    url: str


class JobList(BaseModel):
    """The newest first."""

    jobs: list[JobDocument]
    cursor: int | None = Field(description="For the next page; null at the end")


@router.post("/jobs", status_code=202)
def post_job(
    service: Current,
    response: Response,
    new: NewJobDocument,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> JobDocument:
    """Queue a conversion. The same Idempotency-Key never makes a second job."""
    options = new.all_options
    request = asked(service, new.voice, options)
    fingerprint = hashlib.sha256(json.dumps(new.model_dump(), sort_keys=True).encode()).hexdigest()
    inputs = [service.store.audio(id) for id in new.inputs]
    for audio in inputs:
        if (audio.info.get("audio_s") or 0) > service.most_audio_s:
            problem = f"is longer than {service.options.most_hours:g} hours"
            raise OptionError(audio.name, problem, "Cut it, or start the service with another {most_hours}", "inputs")
    job, _ = service.store.create(
        NewJob(
            kind=new.kind,
            voice=request.voice.name,
            options=options,
            inputs=inputs,
            idempotency_key=idempotency_key,
            fingerprint=fingerprint,
        ),
        most_queued=service.options.queue,
    )
    service.changed(job.id)
    document = shown(service, [job])[0]
    response.headers["Location"] = document.url
    return document


@router.get("/jobs")
def get_jobs(
    service: Current,
    state: Annotated[list[Literal[JOB_STATES]], Query()] = [],  # type: ignore[valid-type]  # noqa: B006
    voice: Annotated[str | None, Query(max_length=200)] = None,
    cursor: Annotated[int | None, Query(ge=0, le=2**31)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> JobList:
    """All jobs, or those in some states or of a voice."""
    jobs = service.store.jobs(states=state, voice=voice, before=cursor, limit=limit)
    return JobList(jobs=shown(service, jobs), cursor=jobs[-1].number if len(jobs) == limit else None)


@router.get("/jobs/{id}")
async def get_job(
    service: Current,
    id: JobInPath,
    wait: Annotated[float, Query(ge=0, le=60, description="Seconds, for its end")] = 0,
) -> JobDocument:
    """One job."""
    until = time.monotonic() + wait
    with service.changes.watched(id, until_ended=True) as changed:
        while True:
            changed.clear()
            left_s = until - time.monotonic()
            waits = left_s > 0 and not service.closing.is_set()
            if document := await to_thread.run_sync(_unless_open if waits else _shown, service, id):
                return document
            await service.changes.within(min(left_s, service.look_s), changed)


@router.post("/jobs/{id}/cancel")
def cancel_job(service: Current, id: JobInPath) -> JobDocument:
    """End a job; what is complete stays."""
    job = service.store.cancel(id)
    service.changed(job.id)
    return job_document(job)


@router.post("/jobs/{id}/retry")
def retry_job(service: Current, id: JobInPath) -> JobDocument:
    """Queue once more what failed or was cancelled."""
    job = service.store.retry(id)
    service.changed(job.id)
    return job_document(job)


@router.delete("/jobs/{id}", status_code=204)
def delete_job(service: Current, id: JobInPath) -> None:
    """Forget a job and delete its results."""
    job = service.store.delete(id)
    service.folder.remove_results(job.id)
    service.changes.announce(job.id)


@router.get("/jobs/{id}/log", response_class=PlainTextResponse)
def get_log(service: Current, id: JobInPath) -> str:
    """What happened, one line each."""
    names = {item.position: item.name for item in service.store.job(id).items}
    return "".join(f"{_log_line(event, names)}\n" for event in service.store.events(0, job_id=id, limit=5000))


@router.get("/jobs/{id}/items/{position}/result", response_class=SoundResponse, responses=_SOUND)
def get_result(service: Current, id: JobInPath, position: Position) -> SoundResponse:
    """An output; Range is obeyed."""
    item = _converted(service, id, position)
    path = _path(service, item)
    kind = mimetypes.guess_type(path.name)[0]
    return SoundResponse(path, media_type=kind, filename=output_name(item), stat_result=path.stat())


@router.get("/jobs/{id}/items/{position}/peaks")
async def get_result_peaks(service: Current, id: JobInPath, position: Position, bins: Bins = 1000) -> Peaks:
    """For a picture of an output's waveform."""
    item = await to_thread.run_sync(_converted, service, id, position)
    return await costly(peaks_document, service, _path(service, item), bins)


@router.get("/jobs/{id}/items/{position}/f0", response_model=PitchCurves)
async def get_f0(service: Current, id: JobInPath, position: Position) -> Response:
    """F0 of a recording and of its output, for a picture; estimated when it is first asked for, one at a time."""
    kept = await to_thread.run_sync(_pitch_curves, service, id, position, limiter=_ONE)
    return Response(kept, media_type="application/json")


@router.get("/jobs/{id}/zip", response_class=StreamingResponse, responses=answers("application/zip", "An archive"))
def get_zip(service: Current, id: JobInPath) -> StreamingResponse:
    """All outputs in one archive."""
    items = [item for item in service.store.job(id).items if item.converted]
    if not items:
        raise NotFoundError(None, "the job has no results")
    headers = {"Content-Disposition": f'attachment; filename="menura-{id}.zip"'}
    return StreamingResponse(_zipped(service, items), media_type="application/zip", headers=headers)


@router.get("/jobs/{id}/events", response_class=StreamingResponse, responses=EVENTS)
def get_job_events(
    request: Request, service: Current, id: JobInPath, last_event_id: LastEvent = None
) -> StreamingResponse:
    """What happens to a job, as server-sent events `job` and `item`; Last-Event-ID replays what was missed."""
    service.store.job(id)
    return stream(request, service, id, last_event_id or 0)


@router.get("/events", response_class=StreamingResponse, responses=EVENTS)
def get_events(request: Request, service: Current, last_event_id: LastEvent = None) -> StreamingResponse:
    """What happens to all jobs and trainings, from now on or from Last-Event-ID."""
    return stream(request, service, None, service.store.last_event() if last_event_id is None else last_event_id)


def _shown(service: Service, id: str) -> JobDocument:
    return shown(service, [service.store.job(id)])[0]


def _unless_open(service: Service, id: str) -> JobDocument | None:
    """A job that has ended."""
    job = service.store.job(id)
    return None if job.state in OPEN_STATES else job_document(job)


def shown(service: Service, jobs: Sequence[Job]) -> list[JobDocument]:
    """Jobs with what they wait for."""
    before = service.store.before() if any(job.state == "queued" for job in jobs) else {}
    return [job_document(job, before.get(job.id)) for job in jobs]


def job_document(job: Job, before: int | None = None) -> JobDocument:
    """A job, and how many recordings are before it."""
    waiting, progress = None, _progress(job.items)
    if job.state == "queued" and before is not None:
        waiting = Waiting(why="others" if before else "next", recordings_before=before)
    same = {name: getattr(job, name) for name in JobDocument.model_fields if name in Job.__dataclass_fields__}
    return JobDocument(
        **same | {"items": [item_document(item) for item in job.items], "options": _brief(job.options)},
        waiting=waiting,
        progress=progress,
        left_s=_left(job.started, progress) if job.state == "running" else None,
        counts=Counter(item.state for item in job.items),
        url=f"/v1/jobs/{job.id}",
    )


def _brief(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options, without the rest of long spans."""
    return {k: f"{v[:_MOST_SHOWN]}…" if isinstance(v, str) and len(v) > _MOST_SHOWN else v for k, v in options.items()}


def item_document(item: StoredItem) -> ItemDocument:
    running, result = item.state == "running", dict(item.result or {})
    same: dict[str, Any] = {name: getattr(item, name) for name in ("position", "name", "state", "audio_s", "error")}
    return ItemDocument(
        **same | {name: result.get(name) for name in ("format", "transpose", "wall_s", "stages")},
        input=item.audio_id,
        step=_step(item) if running else None,
        audio_done_s=item.audio_done_s,
        left_s=_left(item.begun, item.audio_done_s / (item.audio_s or math.inf)) if running else None,
        result=f"/v1/jobs/{item.job_id}/items/{item.position}/result" if item.converted else None,
        notes=result.get("notes", []),
        seams_s=result.get("seams_s", []),
    )


def output_name(item: StoredItem) -> str:
    """What a result is called when it is downloaded."""
    assert item.result is not None
    return f"{Path(item.name).stem}.{item.result['format']}"


def _progress(items: tuple[StoredItem, ...]) -> float:
    """By audio seconds; a recording of unknown length counts as a minute."""
    whole = done = 0.0
    for item in items:
        length = item.audio_s or 60.0
        whole += length
        done += min(item.audio_done_s, length) if item.state in ("queued", "running") else length
    return round(done / whole, 4) if whole else 1.0


def _step(item: StoredItem) -> Literal["reading", "converting", "writing"]:
    if item.begun is None:
        return "reading"
    return "writing" if item.audio_done_s >= (item.audio_s or math.inf) else "converting"


def _left(begun: float | None, done: float) -> float | None:
    """Seconds, by what was done since."""
    return round((time.time() - begun) * max(0.0, 1 - done) / done, 1) if begun and done else None


def _converted(service: Service, id: str, position: int) -> StoredItem:
    for item in service.store.job(id).items:
        if item.position == position and item.converted:
            return item
    raise NotFoundError(None, "there is no such result")


def _path(service: Service, item: StoredItem) -> Path:
    assert item.result is not None
    path = service.folder.result(item.job_id, item.position, item.result["format"])
    if not path.is_file():
        raise NotFoundError(None, "the result was deleted", "Retry the job")
    return path


def _pitch_curves(service: Service, id: str, position: int) -> bytes:
    item = _converted(service, id, position)
    kept = service.folder.pitch(id, position)
    if not kept.is_file():
        source, result = map(pitch_curve, (service.folder.audio(item.audio_id), _path(service, item)))
        curves = {"source": dataclasses.asdict(source), "result": dataclasses.asdict(result)}
        write_whole(kept, json.dumps(curves, separators=(",", ":")).encode())
    return kept.read_bytes()


def _zipped(service: Service, items: list[StoredItem]) -> Iterator[bytes]:
    """A zip archive, made while it is sent. Sound is compressed already."""
    buffer, names = _Outgoing(), set()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for item in items:
            name = output_name(item)
            name = f"{item.position + 1} {name}" if name in names else name
            names.add(name)
            with _path(service, item).open("rb") as source, archive.open(name, "w", force_zip64=True) as target:
                while block := source.read(_ZIP_BLOCK):
                    target.write(block)
                    yield buffer.taken()
    yield buffer.taken()


class _Outgoing(io.RawIOBase):
    """Collects what is written."""

    def __init__(self) -> None:
        self._data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._data += data
        return len(data)

    def taken(self) -> bytes:
        data, self._data = bytes(self._data), bytearray()
        return data


def _log_line(event: StoredEvent, names: dict[int, str]) -> str:
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(event.at))
    about = "job" if event.kind == "job" else names.get(event.data.get("position", -1), "?")
    data = {name: value for name, value in event.data.items() if name != "position" and value is not None}
    return f"{moment}Z {about}: {' '.join(f'{name}={value}' for name, value in data.items())}"


def stream(request: Request, service: Service, id: str | None, after: int) -> StreamingResponse:
    """Server-sent events of one job or training, or of all, after that of a number. Raises QueueFullError."""
    if service.changes.crowded:
        raise QueueFullError(None, "too many clients are listening", "Try again later")
    return StreamingResponse(
        _events(request, service, id, after),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _events(request: Request, service: Service, id: str | None, after: int) -> AsyncIterator[str]:
    yield "retry: 2000\n\n"
    beat = time.monotonic()
    with service.changes.watched(id) as changed:
        while not service.closing.is_set() and not await request.is_disconnected():
            changed.clear()
            events = await asyncio.to_thread(service.store.events, after, job_id=id)
            if events:
                after = events[-1].number
                yield "".join(map(_sent, events))
                continue
            await service.changes.within(service.look_s, changed)
            if time.monotonic() - beat > _BEAT_S:
                beat = time.monotonic()
                yield ": still here\n\n"


def _sent(event: StoredEvent) -> str:
    data = json.dumps({"job": event.job_id, "at": event.at, **event.data}, ensure_ascii=False)
    return f"id: {event.number}\nevent: {event.kind}\ndata: {data}\n\n"
