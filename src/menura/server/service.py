"""What a service's routes share, and how it starts and ends."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

from anyio import CapacityLimiter, to_thread
from fastapi import Depends
from starlette.requests import HTTPConnection

from menura.errors import OptionError
from menura.jobs.remote import RemoteEngine
from menura.options import EngineOptions, ServeOptions
from menura.pipeline.engine import Engine
from menura.server.folder import DataFolder
from menura.server.retention import Kept, Leaving, leaving
from menura.server.runner import Runner
from menura.server.store import ConflictError, NotFoundError, Store
from menura.server.trainings import Trainings
from menura.voices.assets import home_folder

_log = logging.getLogger("menura")

_RETENTION_S = 600.0
_DAY_S = 86_400.0
_ALONE_S, _SHARED_S = 5.0, 1.0
_MOST_SAMPLES = 200
_MOST_WATCHERS = 500
T = TypeVar("T")


class Changes:
    """Lets requests wait until jobs have changed in the store. Threads announce, coroutines wait."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watchers: set[tuple[str | None, bool, asyncio.Event]] = set()

    def attach(self) -> None:
        """Use the running loop."""
        self._loop = asyncio.get_running_loop()

    def announce(self, *job_ids: str, ended: bool = True) -> None:
        """These jobs have changed, and some may have ended; without any, something has."""
        if (job_ids or ended) and self._loop is not None and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):  # closed meanwhile
                self._loop.call_soon_threadsafe(self._wake, job_ids, ended)

    @property
    def crowded(self) -> bool:
        """Whether so many wait that no more should."""
        return len(self._watchers) >= _MOST_WATCHERS

    @contextlib.contextmanager
    def watched(self, job_id: str | None, *, until_ended: bool = False) -> Iterator[asyncio.Event]:
        """An event that is set whenever a job changes (or may have ended), or any job; clear it before looking."""
        watcher = job_id, until_ended, asyncio.Event()
        self._watchers.add(watcher)
        try:
            yield watcher[2]
        finally:
            self._watchers.discard(watcher)

    async def within(self, seconds: float, changed: asyncio.Event) -> None:
        """Wait for an event of `watched`, but not longer."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(changed.wait(), seconds)

    def _wake(self, job_ids: Sequence[str], ended: bool) -> None:
        for job_id, until_ended, event in self._watchers:
            if (ended or not until_ended) and (job_id is None or not job_ids or job_id in job_ids):
                event.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One running service."""

    options: ServeOptions
    engine: EngineOptions
    home: Path
    folder: DataFolder
    store: Store
    runner: Runner
    trainings: Trainings
    changes: Changes
    started: float = field(default_factory=time.time)
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def most_audio_s(self) -> float:
        return self.options.most_hours * 3600

    @property
    def look_s(self) -> float:
        """How long who waits for a change may wait before looking: another process tells nothing."""
        return _ALONE_S if self.options.database is None else _SHARED_S

    def changed(self, job_id: str) -> None:
        """After a request has changed a job in the store."""
        self.runner.wake()
        self.changes.announce(job_id)

    def close(self) -> None:
        """Let nobody wait any longer: the service ends."""
        self.closing.set()
        self.changes.announce()

    def leaving(self, now: float) -> list[Leaving]:
        """What will be deleted and when, the next first."""
        sizes, used = self.folder.results_bytes(), self.folder.used_bytes()
        jobs = [
            Kept(kind="job", id=id, since=ended, size_bytes=sizes.get(id, 0)) for id, ended in self.store.ended_jobs()
        ]
        recordings = [
            Kept(kind="recording", id=audio.id, since=audio.used, size_bytes=audio.size_bytes)
            for audio in self.store.unused_audio()
        ]
        return leaving(
            jobs + recordings,
            used["audio"] + used["results"],
            keep_s=self.options.keep_days * _DAY_S,
            most_bytes=self.options.keep_gb * 1e9,
            now=now,
        )

    def tidy(self, now: float) -> None:
        """Delete what is to go by now."""
        for one in self.leaving(now):
            if one.at > now:
                break
            with contextlib.suppress(ConflictError, NotFoundError):  # used again, or deleted, meanwhile
                if one.what.kind == "job":
                    self.folder.remove_results(self.store.delete(one.what.id, ended=one.what.since).id)
                else:
                    self.store.forget_audio(one.what.id, one.what.since)
        self.folder.sweep(*self.store.known(), _MOST_SAMPLES)
        self.store.forget_events()


_costly = CapacityLimiter(2)


async def costly(function: Callable[..., T], *args: Any) -> T:
    """Run what takes long in a thread, few at a time, so that threads stay free for the rest."""
    return await to_thread.run_sync(function, *args, limiter=_costly)


async def service_of(connection: HTTPConnection) -> Service:  # async, or every request would go through a thread
    service: Service = connection.app.state.service
    return service


Current = Annotated[Service, Depends(service_of)]
"""The service that a route belongs to."""


def data_folder(options: ServeOptions, engine: EngineOptions) -> Path:
    """Where the service keeps its jobs."""
    return options.data or home_folder(engine.home) / "service"


@contextlib.contextmanager
def opened(options: ServeOptions, engine: EngineOptions) -> Iterator[Service]:
    """A service with its threads running. Raises MenuraError."""
    folder = DataFolder(data_folder(options, engine), options.most_mb * 2**20)
    with contextlib.ExitStack() as stack:
        lock = None
        if options.database is None:
            lock = stack.enter_context(_alone(folder.path))
        store = Store(options.database or folder.database_url)
        stack.callback(store.close)
        if lock is not None:
            store.give_back(everyones=True)
        changes = Changes()
        here, new_engine = engine, cast("Callable[..., Engine]", Engine)
        if options.ray is not None:
            here = dataclasses.replace(engine, device="cpu" if engine.device == "cpu" else "auto", compile=False)
            new_engine = partial(RemoteEngine, address=options.ray, engine=engine, workers=options.workers)
        most_s = options.most_hours * 3600
        runner = stack.enter_context(Runner(store, folder, here, most_s, changes.announce, new_engine))
        trainings = stack.enter_context(Trainings(folder.trainings, engine, store, changes.announce))
        yield Service(
            options=options,
            engine=engine,
            home=home_folder(engine.home),
            folder=folder,
            store=store,
            runner=runner,
            trainings=trainings,
            changes=changes,
        )


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[object]:
    """One process at a time has a folder with its own database."""
    import filelock

    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise OptionError(folder, "is in use by another service", "Give another {data}", "data") from None
    try:
        yield lock
    finally:
        lock.release()


async def housekeeping(service: Service) -> None:
    """Tidy up again and again, until it is cancelled."""
    while True:
        try:
            await asyncio.to_thread(service.tidy, time.time())
        except Exception:  # noqa: BLE001  (logged; the service goes on)
            _log.exception("tidying up failed")
        await asyncio.sleep(_RETENTION_S)


@contextlib.asynccontextmanager
async def running(service: Service) -> AsyncIterator[None]:
    """What runs in the server's event loop while it serves."""
    service.changes.attach()
    task = asyncio.create_task(housekeeping(service))
    try:
        yield
    finally:
        service.close()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
