"""One batch shared by several workers: each converts whole files, the longest first, and one that dies stops nothing.

The scheduler doesn't know where its workers run: `jobs/processes.py` starts processes of this machine, `jobs/ray.py`
actors of a Ray cluster. Loads no torch by itself.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from menura import __version__
from menura.audio.places import local_input, local_output, remove_partial, size_bytes
from menura.errors import CancelledError, DeviceError, ErrorDetails, MenuraError, ResourceError, details_of
from menura.loading.request import Asked
from menura.options import ConversionOptions, EngineOptions
from menura.pipeline.progress import RunMeter
from menura.system.interrupts import check_interrupts
from menura.types import ConverterStats, FileResult, Item, Progress, RunReport, failed_result

if TYPE_CHECKING:
    from menura.pipeline.recording import Recording

_MOST_ATTEMPTS = 2
"""Workers that a file may end before it counts as failed."""
_MOST_FALSE_STARTS = 3
END_S = 20.0
"""Given to a worker to end."""
_LOOK_S = 0.2
"""Between looks at whether the run was cancelled, or a signal came that Ray swallowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The worker's networks are loaded."""

    version: str = __version__
    host: str = field(default_factory=platform.node)
    process: int = field(default_factory=os.getpid)


class Lost(NamedTuple):
    """The worker ended by itself: how, as far as is known."""

    how: str


Message = Ready | MenuraError | Progress | FileResult | ConverterStats | Lost
"""Ready, or why the request can't be carried out; of a file its progress, then its result; at the end the counters."""


class Task(NamedTuple):
    """A recording that brings options of its own."""

    recording: Recording
    output: Path
    options: ConversionOptions


class Worker:
    """Converts file after file with networks that stay loaded; options are resolved where it runs.

    Without `asked` it is for tasks.
    """

    def __init__(self, asked: Asked | None, engine: EngineOptions) -> None:
        from menura.converter import Converter

        self._converter, self._request = Converter(engine), None
        self.stats = self._converter.stats
        if asked is not None:
            self._request = self._converter.resolve(asked)
            self._converter.preload(self._request)

    def convert(self, item: Item, on_progress: Callable[[Progress], None]) -> FileResult:
        """Convert a file; what is remote is fetched before, and put there afterwards. Raises DeviceError."""
        try:
            with local_input(item.source) as source, local_output(item.output) as output:
                report = self._converter.convert_files([(source, output)], self._request, on_progress=on_progress)
        except DeviceError:
            raise
        except (MenuraError, OSError) as error:  # of a remote file system
            return failed_result(item.source, details_of(error))
        return with_names(report.files[0], item, Item(source=source, output=output))

    def carry_out(self, task: Task, cancel: Event, on_progress: Callable[[Progress], None]) -> FileResult:
        """Convert for a task, until `cancel` is set. Raises DeviceError."""
        recording, output, options = task
        try:
            return self._converter.convert(recording, output, options, on_progress=on_progress, cancel=cancel)
        except DeviceError:
            raise
        except (MenuraError, OSError, MemoryError) as error:
            return failed_result(recording.name, details_of(error))


def with_names(result: FileResult, item: Item, local: Item) -> FileResult:
    """The result of an item's local copies, with the item's own names."""
    names = {str(local.source): str(item.source), str(local.output): str(item.output)}
    return dataclasses.replace(
        result,
        input=str(item.source),
        output=None if result.output is None else item.output,
        error=result.error and result.error.about(names),
    )


class Link(Protocol):
    """The scheduler's end of its connection to a worker."""

    def send(self, item: Item | None) -> bool:
        """Give the worker a file; None lets it end. False if it can't be told anything yet."""

    def receive(self) -> Message:
        """The next message of a worker that has one, or its loss."""


class Backend(Protocol):
    """Where workers run; its links are of its own kind."""

    def start(self, number: int) -> Link:
        """Start a worker with that number; one that was lost is replaced by another of its number."""

    def wait(self, links: Sequence[Any], timeout_s: float) -> Sequence[Link]:
        """Those that have a message, or that are lost; waits until there is one, or the time is over."""

    def close(self, links: Sequence[Any], *, gently: bool) -> None:
        """End workers, lost ones too, and wait until they are gone; gently, if they were sent None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """Callbacks of a batch, and its cancellation."""

    on_progress: Callable[[Progress], None] = lambda _: None
    """Called when a file is begun and after every block."""
    on_result: Callable[[int, FileResult], None] = lambda _position, _result: None
    """Called with an item's position and result when its file is complete."""
    cancel: Event | None = None


def share(items: Sequence[Item], backend: Backend, *, workers: int, hooks: Hooks | None = None) -> RunReport:
    """Convert many files by several workers, at most one for each file; counters are the sums over them.

    Raises:
        MenuraError: the request as a whole can't be carried out.
        CancelledError: the run was cancelled.
    """
    start_s = time.perf_counter()
    scheduler, gently = _Scheduler(items, backend, hooks or Hooks()), False
    try:
        scheduler.run(workers)
        stats = scheduler.finish()
        gently = True
    finally:
        scheduler.end(gently=gently)
    loads: Counter[str] = Counter()
    for each in stats:
        loads.update(each.model_loads)
    return RunReport(
        files=tuple(scheduler.results[position] for position in range(len(items))),
        wall_s=time.perf_counter() - start_s,
        peak_memory_mb=sum(each.peak_memory_mb for each in stats),
        model_loads=dict(loads),
    )


@dataclass(slots=True, kw_only=True, eq=False)
class _Worker:
    number: int
    link: Link
    ready: bool = False
    position: int | None = None
    """Of the item it converts."""


class _Scheduler:
    """The workers, and who converts what."""

    def __init__(self, items: Sequence[Item], backend: Backend, hooks: Hooks) -> None:
        sizes = [size_bytes(item.source) for item in items]
        self._items, self._backend, self._hooks = items, backend, hooks
        self._waiting = sorted(range(len(items)), key=sizes.__getitem__)  # taken from the end: the longest first
        self._workers: list[_Worker] = []
        self._attempts: Counter[int] = Counter()
        self._false_starts = 0
        self._meter = RunMeter(sizes)
        self._begun: set[int] = set()
        self.results: dict[int, FileResult] = {}

    def run(self, count: int) -> None:
        """Have all items converted."""
        for number in range(min(count, len(self._waiting))):
            self._start(number)
        while self._waiting or any(worker.position is not None for worker in self._workers):
            check_interrupts()
            if self._hooks.cancel is not None and self._hooks.cancel.is_set():
                raise CancelledError(None, "cancelled")
            for worker in self._wait(self._workers):
                self._take(worker, worker.link.receive())

    def finish(self) -> list[ConverterStats]:
        """Let the workers end, and collect their counters."""
        leaving = [worker for worker in self._workers if worker.link.send(None)]
        stats: list[ConverterStats] = []
        deadline_s = time.monotonic() + END_S
        while leaving and time.monotonic() < deadline_s:
            check_interrupts()
            for worker in self._wait(leaving):
                message = worker.link.receive()
                if isinstance(message, (ConverterStats, Lost)):
                    leaving.remove(worker)
                if isinstance(message, ConverterStats):
                    stats.append(message)
        return stats

    def end(self, *, gently: bool) -> None:
        """End all workers, and remove the partial outputs of those that were converting."""
        self._backend.close([worker.link for worker in self._workers], gently=gently)
        for worker in self._workers:
            if worker.position is not None:
                remove_partial(self._items[worker.position].output)

    def _start(self, number: int) -> None:
        self._workers.append(_Worker(number=number, link=self._backend.start(number)))

    def _wait(self, workers: Sequence[_Worker]) -> list[_Worker]:
        links = self._backend.wait([worker.link for worker in workers], _LOOK_S)
        return [worker for worker in workers if worker.link in links]

    def _take(self, worker: _Worker, message: Message) -> None:
        position = worker.position
        if isinstance(message, MenuraError):
            raise message
        if isinstance(message, Lost):
            self._lost(worker, message.how)
            return
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
            worker.link.send(self._items[worker.position])
        if position is not None:
            self._hooks.on_progress(self._meter.progress(str(self._items[position].source)))

    def _done(self, position: int, result: FileResult) -> None:
        self.results[position] = result
        self._meter.failed(position) if result.output is None else self._meter.finished()
        self._hooks.on_result(position, result)

    def _lost(self, worker: _Worker, how: str) -> None:
        """A worker ended by itself: another takes its file, once."""
        self._workers.remove(worker)
        self._backend.close([worker.link], gently=False)
        if worker.position is not None:
            item = self._items[worker.position]
            remove_partial(item.output)
            self._attempts[worker.position] += 1
            if self._attempts[worker.position] < _MOST_ATTEMPTS:
                self._waiting.append(worker.position)
            else:
                problem = f"its worker process ended {_MOST_ATTEMPTS} times ({how})"
                advice = "If memory is short, use fewer {workers}"
                error = ErrorDetails(kind="resource", subject=str(item.source), problem=problem, advice=advice)
                self._done(worker.position, failed_result(item.source, error))
        if not worker.ready:
            self._false_starts += 1
        if self._waiting and self._false_starts < _MOST_FALSE_STARTS:
            self._start(worker.number)
        elif self._waiting and not self._workers:
            raise ResourceError(None, f"worker processes crash on start-up ({how})", "Use fewer {workers}, or none")
