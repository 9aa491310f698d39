"""What the service is, can do, and is doing."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from pydantic import BaseModel, Field

from menura import __version__
from menura.option_spec import GROUPS
from menura.options import ConversionOptions, TrainingOptions
from menura.server.asked import options_schema
from menura.server.locales import Language, translated
from menura.server.retention import Leaving
from menura.server.service import Current, Service
from menura.system.device import peak_memory_mb
from menura.voices.assets import asset_status

router = APIRouter(tags=["system"])

_MOST_LEAVING = 50


class AssetDocument(BaseModel):
    """Weights that voices may need."""

    name: str
    installed: bool
    purpose: str


class LeavingDocument(BaseModel):
    """A job or a recording that will be deleted, unless it is used."""

    kind: Literal["job", "recording"]
    id: str
    size_bytes: int = Field(description="Of a job's results, or of the recording")
    at: float
    why: Literal["age", "size"]


class SystemDocument(BaseModel):
    """The service and its machine."""

    version: str
    device: str
    actors: int | None = Field(description="Of a Ray cluster, that convert; none where the service itself does")
    up_s: float
    peak_memory_mb: float
    resident: dict[str, int] = Field(description="How often each network, voice and index was loaded")
    resident_bytes: int
    jobs: dict[str, int]
    waiting: int = Field(description="Recordings that wait")
    audio_s: float = Field(description="Converted since the start")
    stages_s: dict[str, float]
    disk: dict[str, int] = Field(description="Bytes by kind")
    free_bytes: int
    keep_days: float
    keep_gb: float
    leaving: list[LeavingDocument] = Field(description="What will be deleted next")
    assets: list[AssetDocument]


class Alive(BaseModel):
    """Whether it works."""

    status: Literal["ok"] = "ok"


@router.get("/healthz")
def get_health() -> Alive:
    """200 while the process answers."""
    return Alive()


@router.get("/readyz", responses={503: {"description": "Not converting"}})
def get_ready(service: Current) -> Response:
    """200 while it takes jobs and converts."""
    runner = service.runner
    problem = "no actor of the cluster is ready" if runner.actors == 0 else runner.lost and runner.lost.problem
    ready = runner.alive and problem is None and not service.closing.is_set()
    reason = {} if problem is None else {"reason": problem}
    return JSONResponse({"status": "ok" if ready else "not ready"} | reason, 200 if ready else 503)


@router.get("/v1/options")
def get_options(
    language: Annotated[Language, Query()] = "en", of: Literal["jobs", "trainings"] = "jobs"
) -> dict[str, Any]:
    """A JSON Schema of the options of jobs or trainings: kinds, ranges, defaults, groups and help."""
    schema = translated(options_schema(TrainingOptions if of == "trainings" else ConversionOptions), language)
    return schema | {"groups": {name: translated(title, language) for name, title in GROUPS.items()}}


@router.get("/v1/system")
def get_system(service: Current) -> SystemDocument:
    """Device, memory, models, disk, weights."""
    (jobs, waiting), pool = service.store.counts(), service.runner.loader.pool
    figures = service.runner.figures
    return SystemDocument(
        version=__version__,
        device=str(service.runner.device),
        actors=service.runner.actors,
        up_s=round(time.time() - service.started, 1),
        peak_memory_mb=round(peak_memory_mb(), 1),
        resident=pool.loads(),
        resident_bytes=pool.resident_bytes,
        jobs=jobs,
        waiting=waiting,
        audio_s=round(figures.audio_s, 2),
        stages_s={name: round(seconds, 3) for name, seconds in figures.stages_s.items()},
        disk=service.folder.used_bytes(),
        free_bytes=service.folder.free_bytes(),
        keep_days=service.options.keep_days,
        keep_gb=service.options.keep_gb,
        leaving=[_leaving(one) for one in service.leaving(time.time())[:_MOST_LEAVING]],
        assets=[
            AssetDocument(name=status.asset.name, installed=status.path is not None, purpose=status.asset.purpose)
            for status in asset_status(service.home)
        ],
    )


def _leaving(one: Leaving) -> LeavingDocument:
    what = one.what
    return LeavingDocument(kind=what.kind, id=what.id, size_bytes=what.size_bytes, at=one.at, why=one.why)


@router.get("/metrics", response_class=PlainTextResponse)
def get_metrics(service: Current) -> Response:
    """Prometheus' text format."""
    return Response(generate_latest(_metrics(service)), media_type="text/plain; version=0.0.4")


def _metrics(service: Service) -> CollectorRegistry:
    registry, (states, waiting), figures = CollectorRegistry(), service.store.counts(), service.runner.figures
    jobs = Gauge("menura_jobs", "Jobs by state.", ["state"], registry=registry)
    for state, count in states.items():
        jobs.labels(state).set(count)
    Gauge("menura_waiting_recordings", "Recordings that wait.", registry=registry).set(waiting)
    Counter("menura_audio_seconds", "Seconds of audio converted.", registry=registry).inc(figures.audio_s)
    ended = Counter("menura_recordings", "Recordings that ended, by state.", ["state"], registry=registry)
    for state, count in figures.ended.items():
        ended.labels(state).inc(count)
    stages = Counter("menura_stage_seconds", "Wall seconds by stage.", ["stage"], registry=registry)
    for stage, seconds in figures.stages_s.items():
        stages.labels(stage).inc(seconds)
    Gauge("menura_peak_memory_bytes", "Peak memory.", registry=registry).set(peak_memory_mb() * 2**20)
    resident = Gauge("menura_resident_bytes", "Memory of resident models.", registry=registry)
    resident.set(service.runner.loader.pool.resident_bytes)
    return registry
