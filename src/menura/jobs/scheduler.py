"""One batch shared by several workers: each converts whole files, the longest first, and one that dies stops nothing.

The scheduler doesn't know what its workers are: `jobs/processes.py` starts processes of this machine, `jobs/ray.py`
actors of a Ray cluster. Loads no torch.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from menura.audio.remote import remove_partial, size_bytes
from menura.errors import CancelledError, ErrorDetails, MenuraError, ResourceError
from menura.jobs.worker import Message, Ready
from menura.pipeline.progress import RunMeter
from menura.system.interrupts import check_interrupts
from menura.types import ConverterStats, FileResult, Item, Progress, RunReport, failed_result

_MOST_ATTEMPTS = 2
"""Workers that a file may end before it counts as failed."""

_MOST_FALSE_STARTS = 3
_END_S = 20.0
_LOOK_S = 0.2
"""Between looks at whether the run was cancelled, or a signal came that Ray swallowed."""


class WorkerLostError(Exception):
    """A worker ended by itself; the message says how, as far as is known."""


class Link(Protocol):
    """The scheduler's end of its connection to a worker."""

    def send(self, item: Item | None) -> None:
        """Give the worker a file; None lets it end. May raise WorkerLostError."""
        ...

    def receive(self) -> Message:
        """The next message of a worker that has one. Raises WorkerLostError."""
        ...


L = TypeVar("L", bound=Link)


class Backend(Protocol[L]):
    """Where workers run."""

    def start(self, number: int) -> L:
        """Start a worker with that number; one that was lost is replaced by another of its number."""
        ...

    def wait(self, links: Sequence[L], timeout_s: float) -> list[L]:
        """Those that have a message, or that are lost; waits until there is one, or the time is over."""
        ...

    def discard(self, link: L) -> None:
        """Release what a lost worker held, and make sure that it is dead."""
        ...

    def close(self, links: Sequence[L], *, gently: bool) -> None:
        """End all workers and wait until they are gone; gently, if they were sent None."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """Callbacks of a batch, and its cancellation."""

    on_progress: Callable[[Progress], None] = lambda _: None
    """Called when a file is begun and after every block."""
    on_result: Callable[[int, FileResult], None] = lambda _position, _result: None
    """Called with an item's position and result when its file is complete."""
    cancel: Event | None = None

    def check(self) -> None:
        """Raises CancelledError, and what a signal raised."""
        check_interrupts()
        if self.cancel is not None and self.cancel.is_set():
            raise CancelledError(None, "cancelled")


def share(items: Sequence[Item], backend: Backend[L], *, workers: int, hooks: Hooks | None = None) -> RunReport:
    """Convert many files by several workers, at most one for each file.

    Returns:
        The report; loads and peak memory are the sums over the workers.

    Raises:
        MenuraError: the request as a whole can't be carried out.
        CancelledError: the run was cancelled.
    """
    start_s = time.perf_counter()
    with _Scheduler(items, backend, hooks or Hooks()) as scheduler:
        scheduler.run(workers)
        stats = scheduler.finish()
    loads: Counter[str] = Counter()
    for each in stats:
        loads.update(each.model_loads)
    return RunReport(
        files=tuple(scheduler.results[position] for position in range(len(items))),
        wall_s=time.perf_counter() - start_s,
        peak_memory_mb=sum(each.peak_memory_mb for each in stats),
        model_loads=dict(loads),
    )


def _given_up(item: Item, how: str) -> FileResult:
    error = ErrorDetails(
        kind="resource",
        subject=str(item.source),
        problem=f"its worker process ended {_MOST_ATTEMPTS} times ({how})",
        advice="If memory is short, use fewer {workers}",
    )
    return failed_result(item.source, error)


@dataclass(slots=True, kw_only=True, eq=False)
class _Worker(Generic[L]):
    number: int
    link: L
    ready: bool = False
    position: int | None = None
    """Of the item it converts."""


class _Scheduler(Generic[L]):
    """The workers, and who converts what; a context manager."""

    def __init__(self, items: Sequence[Item], backend: Backend[L], hooks: Hooks) -> None:
        sizes = [size_bytes(item.source) for item in items]
        self._items, self._backend, self._hooks = items, backend, hooks
        self._waiting = sorted(range(len(items)), key=sizes.__getitem__)  # taken from the end: the longest first
        self._workers: list[_Worker[L]] = []
        self._attempts: Counter[int] = Counter()
        self._false_starts = 0
        self._meter = RunMeter(sizes)
        self._begun: set[int] = set()
        self.results: dict[int, FileResult] = {}

    def __enter__(self) -> _Scheduler[L]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all workers, and remove the partial outputs of those that were converting."""
        self._backend.close([worker.link for worker in self._workers], gently=kind is None)
        for worker in self._workers:
            if worker.position is not None:
                remove_partial(self._items[worker.position].output)

    def run(self, count: int) -> None:
        """Have all items converted."""
        for number in range(min(count, len(self._waiting))):
            self._start(number)
        while self._waiting or any(worker.position is not None for worker in self._workers):
            self._hooks.check()
            for worker in self._wait(self._workers):
                self._next_message(worker)

    def _next_message(self, worker: _Worker[L]) -> None:
        try:
            self._take(worker, worker.link.receive())
        except WorkerLostError as error:
            self._lost(worker, str(error))

    def finish(self) -> list[ConverterStats]:
        """Let the workers end, and collect their counters."""
        leaving: list[_Worker[L]] = []
        stats: list[ConverterStats] = []
        for worker in self._workers:
            with contextlib.suppress(WorkerLostError):  # killed when it was idle
                worker.link.send(None)
                leaving.append(worker)
        deadline_s = time.monotonic() + _END_S
        while leaving and time.monotonic() < deadline_s:
            check_interrupts()
            for worker in self._wait(leaving):
                message: Message | None = None
                with contextlib.suppress(WorkerLostError):
                    message = worker.link.receive()
                if isinstance(message, ConverterStats):
                    stats.append(message)
                if message is None or isinstance(message, ConverterStats):
                    leaving.remove(worker)
        return stats

    def _wait(self, workers: Sequence[_Worker[L]]) -> list[_Worker[L]]:
        links = self._backend.wait([worker.link for worker in workers], _LOOK_S)
        return [worker for worker in workers if worker.link in links]

    def _start(self, number: int) -> None:
        self._workers.append(_Worker(number=number, link=self._backend.start(number)))

    def _take(self, worker: _Worker[L], message: Message) -> None:
        position = worker.position
        if isinstance(message, MenuraError):
            raise message
        if isinstance(message, Ready):
            worker.ready, self._false_starts = True, 0
        elif position is not None and isinstance(message, Progress):
            if position not in self._begun:
                self._begun.add(position)
                self._meter.begun(position, message.audio_s or 0.0)
            self._meter.advanced(position, message.audio_done_s)
        elif position is not None and isinstance(message, FileResult):
            self._done(position, message)
            worker.position = None
        if worker.position is None and self._waiting:
            worker.position = self._waiting.pop()
            with contextlib.suppress(WorkerLostError):  # receive() raises it next
                worker.link.send(self._items[worker.position])
        if position is not None:
            self._hooks.on_progress(self._meter.progress(str(self._items[position].source)))

    def _done(self, position: int, result: FileResult) -> None:
        self.results[position] = result
        if result.output is None:
            self._meter.failed(position)
        else:
            self._meter.finished()
        self._hooks.on_result(position, result)

    def _lost(self, worker: _Worker[L], how: str) -> None:
        """A worker ended by itself: another takes its file, once."""
        self._workers.remove(worker)
        self._backend.discard(worker.link)
        if worker.position is not None:
            item = self._items[worker.position]
            remove_partial(item.output)
            self._attempts[worker.position] += 1
            if self._attempts[worker.position] < _MOST_ATTEMPTS:
                self._waiting.append(worker.position)
            else:
                self._done(worker.position, _given_up(item, how))
        if not worker.ready:
            self._false_starts += 1
        if self._waiting and self._false_starts < _MOST_FALSE_STARTS:
            self._start(worker.number)
        elif self._waiting and not self._workers:
            raise ResourceError(None, f"worker processes crash on start-up ({how})", "Use fewer {workers}, or none")
