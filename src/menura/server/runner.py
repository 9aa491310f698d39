"""Carries out what the store has queued: one engine, fed from all jobs.

One thread converts; a second takes what waits in the store and writes what became of it, many changes in one
transaction; a third keeps the leases. Where the database doesn't answer, changes are kept, and converting goes on.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from menura.errors import CancelledError, DeviceError, ErrorDetails, MenuraError, ResourceError, details_of
from menura.jobs.document import to_document
from menura.jobs.remote import RemoteEngine
from menura.loading import Request, resolve
from menura.loading.loader import Loader
from menura.options import ConversionOptions, EngineOptions
from menura.pipeline.engine import Advanced, Begun, Engine, Fairness, Share, Ticket
from menura.pipeline.output import FileSink, Sink
from menura.pipeline.recording import FileRecording, Recording
from menura.server.folder import DataFolder
from menura.server.problems import error_document, public
from menura.server.recording import BoundedRecording
from menura.server.store import CHANGEABLE, LEASE_S, Change, Claim, Job, QueueFullError, Store, StoredItem
from menura.system.device import configure_torch, in_half, resolve_device
from menura.system.files import parts_folder, remove_abandoned, remove_unfinished
from menura.types import FileResult, failed_result
from menura.voices.assets import home_folder

_log = logging.getLogger("menura")

_UNDER_WAY = 48
"""Recordings that the engine has at a time; the rest wait in the store."""
_OF_A_JOB = 16
_FOR_AN_ACTOR = 4
"""The same where a cluster's actors convert: few, as other processes' may be free sooner."""
_OF_NEWCOMERS = 64
"""Beyond those, one of each job that has none: it mustn't wait until a long recording of others ends."""
_MOST_DIRECT = 64
_REQUESTS_KEPT = 64
_PROGRESS_S = 0.25
_PACE_S, _PACE_A_RECORDING_S = 0.05, 0.01
"""Between visits to the store, by what is under way: what happens meanwhile is written together."""
_RENEWAL_S = LEASE_S / 5
_IDLE_S = 1.0
_CLUSTER_S = 5.0
DIRECT_PRIORITY = 1


@dataclass(slots=True)
class Figures:
    """What was done since the start."""

    audio_s: float = 0.0
    ended: Counter[str] = field(default_factory=Counter)
    """Recordings by state."""
    stages_s: Counter[str] = field(default_factory=Counter)


class Runner:
    """A thread that converts until it is stopped; use it as a context manager.

    Args:
        store: where jobs are.
        folder: where recordings and results are.
        engine: device, threads and data folder.
        most_s: length of a recording.
        on_change: as `Changes.announce`; called from any thread.
        new_engine: makes what converts.

    Raises:
        OptionError: there is no such device.
        MenuraError: the engine's.
    """

    def __init__(
        self,
        store: Store,
        folder: DataFolder,
        engine: EngineOptions,
        most_s: float,
        on_change: Callable[..., None],
        new_engine: Callable[..., Engine] = Engine,
    ) -> None:
        self._store, self._folder, self._options, self._on_change = store, folder, engine, on_change
        self._most_s = most_s
        self._home = home_folder(engine.home)
        configure_torch(engine.threads, cudnn=engine.cudnn, exact=engine.precision == "exact")
        self.device = resolve_device(engine.device)
        self.lost: DeviceError | None = None
        """Why it has ended, where the GPU does nothing more for this process."""
        half = in_half(engine.precision, self.device)
        self.loader = Loader(home=self._home, device=self.device, compile=engine.compile, half=half)
        self.figures = Figures()
        self._new_engine = partial(new_engine, self.loader, on_end=self._ended)
        self._engine = self._new_engine()
        self._beginning: list[StoredItem] = []
        """Taken from the store, and not all under way yet."""
        self._under_way: dict[Ticket, StoredItem] = {}
        self._direct: dict[Ticket, Callable[[FileResult], None]] = {}
        self._requests: OrderedDict[str, Request] = OrderedDict()
        self._shares: dict[str, Share] = {}
        self._fairness = Fairness()
        self._told_s: dict[Ticket, float] = {}
        self._blamed: set[tuple[str, int]] = set()
        """Items under way at which a GPU failed before."""
        self._to_blame: list[StoredItem] = []
        self._others: set[Ticket] = set()
        """What another process has taken meanwhile."""
        self._suspects: set[tuple[str, int]] = set()
        """Items that were under way when something unexpected happened."""
        self._changes: list[Change] = []  # appended to by any thread
        self._looked_s = 0.0
        self._lock = threading.RLock()
        self._at_store = threading.Lock()
        """Held while recordings are taken from the store, and while the engine changes; the outer of the two locks."""
        self._work, self._visit, self._given = threading.Event(), threading.Event(), threading.Event()
        self._stopping = threading.Event()
        works = {"runner": self._run, "store": self._visit_store, "leases": self._renew}
        self._threads = [
            threading.Thread(target=work, name=f"menura-{name}", daemon=True) for name, work in works.items()
        ]

    def __enter__(self) -> Runner:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        """False before it begins, after it was stopped, and if something unexpected ended it."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def actors(self) -> int | None:
        """How many of a cluster's convert; None where this process does."""
        return self._engine.actors if isinstance(self._engine, RemoteEngine) else None

    def public(self, details: ErrorDetails) -> ErrorDetails:
        """An error as clients see it."""
        return public(details, self._folder.path, self._home)

    def wake(self) -> None:
        """There is something new in the store, or room for it."""
        self._work.set()
        self._visit.set()

    def stop(self) -> None:
        """Park what is under way, so that it is queued again, and end."""
        self._stopping.set()
        self._given.set()
        self.wake()
        for thread in self._threads:
            thread.join()

    def convert_now(
        self, recording: Recording, request: Request, sink: Sink, on_end: Callable[[FileResult], None]
    ) -> threading.Event:
        """Convert a short recording before all jobs; `on_end` is called from any thread. Setting the result cancels.

        Raises QueueFullError.
        """
        cancel = threading.Event()
        with self._lock:
            if len(self._direct) >= _MOST_DIRECT:
                raise QueueFullError(None, "too many short recordings are waiting", "Try again later")
            try:
                ticket = self._engine.submit(recording, request, sink, priority=DIRECT_PRIORITY, cancel=cancel)
            except RuntimeError:  # the engine is closed
                raise QueueFullError(None, "the service is beginning again", "Try again later") from None
            self._direct[ticket] = on_end
        self._given.set()
        return cancel

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._guarded_turn()
        except BaseException:
            _log.exception("the converting thread ended")
            raise
        finally:
            with self._at_store:
                self._engine.close()
            with self._lock:
                direct = list(self._direct.values())
            for on_end in direct:
                on_end(_cancelled_result())

    def _turn(self) -> None:
        if self._engine.idle:
            self._given.wait(_IDLE_S)
            self._given.clear()
            return
        for event in self._engine.step():
            if isinstance(event, (Begun, Advanced)):
                self._progress(event)

    def _guarded_turn(self) -> None:
        try:
            self._turn()
        except DeviceError as error:
            self._end(error)
        except Exception as error:  # noqa: BLE001  (logged; the service goes on)
            self._begin_again(error)

    def _end(self, error: DeviceError) -> None:
        """Only another process can use the GPU again. What a GPU failed at in two processes is given up."""
        _log.error("%s The service ends; what was under way is queued again", error)
        details = dataclasses.replace(error.details, advice="Ask whoever runs the service")
        document = error_document(self.public(details))
        with self._lock:
            for ticket in self._engine.computing:
                item = self._under_way.get(ticket)
                if item is not None and item.key in self._blamed:
                    self._changes.append(Change(item=item, state="failed", error=document))
                elif item is not None:
                    self._to_blame.append(item)
        self.lost = error
        self._stopping.set()
        self.wake()

    def _begin_again(self, error: Exception) -> None:
        """Go on after what should never happen: with a new engine, what was under way one by one.

        A recording that brings it about once more, now alone, is given up.
        """
        _log.error("unexpected error; what is under way begins again", exc_info=error)
        with self._at_store:
            with suppress(Exception):
                self._engine.close()
            with self._lock:
                items, direct = list(self._under_way.values()), list(self._direct.values())
                for share in self._shares.values():
                    share.end()
                for kept in (self._under_way, self._direct, self._shares, self._told_s):
                    kept.clear()
            for on_end in direct:
                on_end(failed_result("", details_of(error)))
            if len(items) == 1 and items[0].key in self._suspects:
                document = error_document(self.public(details_of(error)))
                self._changes.append(Change(item=items[0], state="failed", error=document))
            self._suspects |= {item.key for item in items}
            with suppress(ResourceError):  # the leases run out by themselves
                self._record()
                self._store.give_back()
            self._renew_engine()
        self.wake()

    def _renew_engine(self) -> None:
        """Again and again where a cluster doesn't answer."""
        while not self._stopping.is_set():
            try:
                self._engine = self._new_engine()
            except MenuraError as error:  # noqa: PERF203
                _log.error("%s", error)
                self._stopping.wait(_CLUSTER_S)
            else:
                return

    def _visit_store(self) -> None:
        """Write what became of recordings, and take others, until the converting thread has ended."""
        while not self._stopping.is_set() and self._threads[0].is_alive():
            self._visit.wait(_IDLE_S)
            self._visit.clear()
            try:
                with self._at_store:
                    self._record()
                    self._look()
            except DeviceError as error:
                self._end(error)
            except ResourceError as error:  # the database's, as recordings' errors are theirs
                _log.error("%s", error)
                self._stopping.wait(_IDLE_S)
            except Exception:  # noqa: BLE001  (logged; the service goes on)
                _log.exception("unexpected error at the store")
                self._stopping.wait(_IDLE_S)
            self._stopping.wait(_PACE_S + _PACE_A_RECORDING_S * len(self._under_way))
        self._threads[0].join()
        try:
            self._record()
            self._store.give_back()
            self._store.blame(self._to_blame)
        except ResourceError as error:  # the leases run out by themselves
            _log.error("%s", error)
        self._on_change()

    def _look(self) -> None:
        now_s = time.monotonic()
        if self._stopping.is_set():
            return
        if self._work.is_set() or now_s - self._looked_s > _IDLE_S:  # other processes add work too
            self._work.clear()
            self._looked_s = now_s
            self._cancel()
            self._claim()

    def _record(self) -> None:
        if changes := list(self._changes):
            merged = _merged(changes)
            self._store.record(merged)
            del self._changes[: len(changes)]
            ended = {change.item.job_id for change in merged if change.state != "running"}
            if ended:
                self._on_change(*ended)
            self._on_change(*{change.item.job_id for change in merged} - ended, ended=False)

    def _held(self) -> list[StoredItem]:
        """What is leased to this process."""
        with self._lock:
            ended = [change.item for change in self._changes if change.state != "running"]
            return [*self._under_way.values(), *self._beginning, *ended]

    def _renew(self) -> None:
        """Keep the leases, in a thread of its own: a pass of the networks may take longer than a lease."""
        while not self._stopping.wait(_RENEWAL_S):
            self._keep(self._held())

    def _keep(self, held: list[StoredItem]) -> None:
        waiting = self._engine.waiting if isinstance(self._engine, RemoteEngine) else ()
        with self._lock:
            free = {self._under_way[ticket].key for ticket in waiting if ticket in self._under_way}
        try:
            lost = {item.key for item in self._store.renew(held, free)} if held else ()
        except ResourceError as error:
            return _log.error("%s", error)
        with self._lock:
            for ticket, item in self._under_way.items():
                if item.key in lost:
                    self._others.add(ticket)
                    self._engine.cancel(ticket)

    def _cancel(self) -> None:
        if not self._under_way:
            return
        cancelled = set(self._store.cancelled_jobs())
        with self._lock:
            for ticket, item in self._under_way.items():
                if item.job_id in cancelled:
                    self._engine.cancel(ticket)

    def _claim(self) -> None:
        held, actors = self._held(), self.actors
        room, each = (_UNDER_WAY, _OF_A_JOB) if actors is None else (_FOR_AN_ACTOR * actors,) * 2
        most = room - len(held)
        if most <= 0:
            most, each = most + _OF_NEWCOMERS, 1
        if self._suspects:
            most, each = 1 - len(held), 1
        if most <= 0 or actors == 0:
            return
        claims = self._store.claim(most, each=each, under_way=held)
        if not claims:
            self._suspects.clear()
        self._beginning = [claim.item for claim in claims]
        try:
            for claim in claims:
                self._begin(claim)
        finally:
            self._beginning = []
        if claims:
            self._on_change(*{claim.job.id for claim in claims}, ended=False)

    def _begin(self, claim: Claim) -> None:
        try:
            self._submit(claim, self._request(claim.job))
        except DeviceError:
            raise
        except Exception as error:  # noqa: BLE001  (it is the recording's)
            if self._stopping.is_set():
                return
            if not isinstance(error, (MenuraError, OSError, MemoryError)):
                _log.error("unexpected error", exc_info=error)
            document = error_document(self.public(details_of(error)))
            self._changes.append(Change(item=claim.item, state="failed", error=document))

    def _request(self, job: Job) -> Request:
        if job.id in self._requests:
            self._requests.move_to_end(job.id)
            return self._requests[job.id]
        request = resolve(ConversionOptions(voice=job.voice, **job.options), self._home)
        request = dataclasses.replace(request, precision=self._options.precision)
        if request.together:
            from menura.jobs.batch import with_common_shift

            items = self._store.job(job.id).items
            sources = [self._folder.audio(item.audio_id) for item in items]
            request = with_common_shift(request, sources, self._stopping)
        self._requests[job.id] = request
        if len(self._requests) > _REQUESTS_KEPT:
            self._requests.popitem(last=False)
        return request

    def _submit(self, claim: Claim, request: Request) -> None:
        item = claim.item
        source = self._folder.audio(item.audio_id)
        path = self._folder.result(item.job_id, item.position, request.options.format or "wav")
        if claim.blamed:
            self._blamed.add(item.key)
        if claim.again:
            remove_unfinished([path])
        recording = BoundedRecording(source, item.name, most_s=self._most_s, advice="Cut it")
        sink = FileSink(path, request.options, source=source)
        with self._lock:
            share = self._shares.get(item.job_id)
            if share is None:
                share = self._shares[item.job_id] = Share(self._fairness)
            ticket = self._engine.submit(recording, request, sink, share=share)
            self._under_way[ticket] = item
        self._given.set()

    def _progress(self, event: Begun | Advanced) -> None:
        now_s = time.monotonic()
        with self._lock:  # it may end meanwhile
            item = self._under_way.get(event.ticket)
            if item is None:
                return
            if isinstance(event, Begun):
                change = Change(item=item, audio_s=event.audio_s, audio_done_s=0.0, begun=time.time())
            elif now_s - self._told_s.get(event.ticket, 0.0) < _PROGRESS_S:
                return
            else:
                change = Change(item=item, audio_done_s=event.audio_done_s)
            self._changes.append(change)
            self._told_s[event.ticket] = now_s
        self._visit.set()

    def _ended(self, ticket: Ticket, result: FileResult) -> None:
        with self._lock:
            self._told_s.pop(ticket, None)
            on_end = self._direct.pop(ticket, None)
            item = self._under_way.pop(ticket, None)
            self._count(result)
            if item is not None:
                self._suspects.discard(item.key)
                self._blamed.discard(item.key)
                change = self._outcome(result, item, ticket)
                if change.state == "cancelled" and isinstance(ticket.sink, FileSink) and ticket not in self._others:
                    remove_abandoned([parts_folder(ticket.sink.path)])
                self._others.discard(ticket)
                self._changes.append(change)
                if all(other.job_id != item.job_id for other in self._under_way.values()):
                    self._shares.pop(item.job_id).end()
        if on_end is not None:
            on_end(result)
        self.wake()

    def _outcome(self, result: FileResult, item: StoredItem, ticket: Ticket) -> Change:
        """How it ended, as the store keeps it; nothing in it names a place on this machine."""
        source = ticket.recording.path if isinstance(ticket.recording, FileRecording) else None
        names = {str(place): item.name for place in (ticket.sink.path, source)}
        error = None if result.error is None else error_document(self.public(result.error.about(names)))
        if result.output is None:
            if result.error is not None and result.error.kind == "cancelled":
                return Change(item=item, state="cancelled")
            return Change(item=item, state="failed", error=error)
        document = to_document(dataclasses.replace(result, input=item.name, output=None, error=None))
        document["format"] = ticket.sink.format
        length_s = result.audio_s
        return Change(
            item=item, state=result.state.value, audio_s=length_s, audio_done_s=length_s, result=document, error=error
        )

    def _count(self, result: FileResult) -> None:
        self.figures.ended[result.state.value] += 1
        self.figures.audio_s += result.audio_s
        self.figures.stages_s.update(
            {name.removesuffix("_s"): seconds for name, seconds in dataclasses.asdict(result.stages).items()}
        )


def _merged(changes: Sequence[Change]) -> list[Change]:
    """One change an item, in the order in which they were first told of."""
    merged: dict[tuple[str, int], Change] = {}
    for change in changes:
        if change.state == "running" and merged.get(change.item.key, change).state != "running":
            continue  # it has ended
        said = {name: value for name in CHANGEABLE if (value := getattr(change, name)) is not None}
        merged[change.item.key] = dataclasses.replace(merged.get(change.item.key, change), **said)
    return list(merged.values())


def _cancelled_result() -> FileResult:
    return failed_result("", CancelledError(None, "the service is stopping").details)
