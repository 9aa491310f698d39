"""One batch shared by several workers: each converts whole files, the longest first, and one that dies stops nothing.

A long recording that would keep one busy when the others have nothing left to do is shared: they do its parts.

The scheduler doesn't know where its workers run: `jobs/processes.py` starts processes of this machine, `jobs/ray.py`
actors of a Ray cluster. Loads no torch by itself.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from bisect import insort
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from menura import __version__
from menura.audio.places import FileStamp, local_input, local_output, remove_partial, size_bytes
from menura.errors import CancelledError, DeviceError, ErrorDetails, MenuraError, ResourceError, details_of
from menura.jobs.parts import Finished, SharedRecording, Unit, likely_parts
from menura.loading.request import Asked, Request
from menura.options import EngineOptions
from menura.pipeline.progress import RunMeter, Worked
from menura.system.interrupts import check_interrupts
from menura.types import ConverterStats, FileResult, Item, Progress, RunReport, failed_result

if TYPE_CHECKING:
    from menura.jobs.part_worker import PartWorker
    from menura.pipeline.recording import Recording

_MOST_ATTEMPTS = 2
"""Workers that a file, or a unit of one, may end before the file counts as failed."""
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


Message = Ready | MenuraError | Progress | FileResult | Worked | Finished | ConverterStats | Lost
"""Ready, or why the request can't be carried out; of a file its progress, then its result; of a unit what it worked,
then its end, or a failed result; at the end the counters."""


class Task(NamedTuple):
    """A recording that brings options of its own."""

    recording: Recording
    output: Path
    options: Asked


class Worker:
    """Converts file after file with networks that stay loaded; options are resolved where it runs.

    Without `asked` it is for tasks.
    """

    def __init__(self, asked: Asked | None, engine: EngineOptions) -> None:
        from menura.converter import Converter

        self._converter, self._request = Converter(engine), None
        self.stats = self._converter.stats
        self._parts: PartWorker | None = None
        if asked is not None:
            self._request = self._converter.resolve(asked)
            self._converter.preload(self._request)

    def do(self, task: Item | Unit, tell: Callable[[Progress | Worked], None]) -> FileResult | Finished:
        """Convert a file, or do a unit of one that is shared. Raises DeviceError."""
        if isinstance(task, Item):
            return self.convert(task, tell)
        from menura.jobs.part_worker import PartWorker

        try:
            self._parts = self._parts or PartWorker(self._converter.networks, self._converter.resolve(self._request))
            return self._parts.do(task, tell)
        except DeviceError:
            raise
        except (MenuraError, OSError, MemoryError) as error:
            return failed_result(task.item.source, details_of(error))

    def convert(self, item: Item, on_progress: Callable[[Progress], None]) -> FileResult:
        """Convert a file; what is remote is fetched before, and put there afterwards. Raises DeviceError."""
        try:
            with local_input(item.source) as source, local_output(item.output) as output:
                local = source == item.source and output == item.output
                report = self._converter.convert_files(
                    [(source, output)], self._request, on_progress=on_progress, divided=local
                )
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

    def send(self, task: Item | Unit | None) -> bool:
        """Give the worker something to do; None lets it end. False if it can't be told anything yet."""

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


def share(
    items: Sequence[Item],
    backend: Backend,
    *,
    workers: int,
    request: Request | None = None,
    hooks: Hooks | None = None,
) -> RunReport:
    """Convert many files by several workers, at most one for each file, or part of a file; counters are their sums.

    Without the workers' `request` there are no parts.

    Raises:
        MenuraError: the request as a whole can't be carried out.
        CancelledError: the run was cancelled.
    """
    start_s = time.perf_counter()
    scheduler, gently = _Scheduler(items, backend, request, hooks or Hooks()), False
    try:
        scheduler.run(task_count(items, request, workers))
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


def lost_once_more(attempts: Counter[Any], task: object, subject: str, how: str, most: int) -> FileResult | None:
    """Count a worker's end at a task: None if another may try, else what the recording then gets."""
    attempts[task] += 1
    if attempts[task] < most:
        return None
    problem, advice = f"its worker ended {most} times ({how})", "If memory is short, use fewer {workers}"
    return failed_result(subject, ErrorDetails(kind="resource", subject=subject, problem=problem, advice=advice))


def task_count(items: Sequence[Item], request: Request | None, most: int) -> int:
    """How many files there are, or where they are fewer than wanted, parts of them."""
    count = len(items)
    for item in items:
        if count >= most:
            break
        count += likely_parts(item, request, most)[0] - 1
    return min(count, most)


@dataclass(slots=True, kw_only=True, eq=False)
class _Worker:
    number: int
    link: Link
    ready: bool = False
    task: tuple[int, Item | Unit] | None = None
    """What it does, after the item's position."""
    next: tuple[int, Item | Unit] | None = None
    """What it would best do then."""


class _Scheduler:
    """The workers, and who does what."""

    def __init__(self, items: Sequence[Item], backend: Backend, request: Request | None, hooks: Hooks) -> None:
        self._items, self._backend, self._request, self._hooks = items, backend, request, hooks
        self._sizes = [size_bytes(item.source) for item in items]
        self._waiting: list[tuple[int, Item | Unit]] = []
        """Taken from the end: the longest first."""
        self._whole_bytes = sum(self._sizes)
        """Of files among them that no worker had yet."""
        for task in enumerate(items):
            insort(self._waiting, task, key=self._size_of)
        self._shared: dict[int, SharedRecording] = {}
        self._workers: list[_Worker] = []
        self._attempts: Counter[tuple[int, Item | Unit]] = Counter()
        self._false_starts = 0
        self._meter = RunMeter(self._sizes)
        self._begun: set[int] = set()
        self.results: dict[int, FileResult] = {}

    def run(self, count: int) -> None:
        """Have all items converted."""
        for number in range(count):
            self._start(number)
        while len(self.results) < len(self._items):
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
            if worker.task is not None:
                remove_partial(self._items[worker.task[0]].output)
        for position, shared in self._shared.items():
            shared.end(self.results.get(position))

    def _start(self, number: int) -> None:
        self._workers.append(_Worker(number=number, link=self._backend.start(number)))

    def _wait(self, workers: Sequence[_Worker]) -> list[_Worker]:
        links = self._backend.wait([worker.link for worker in workers], _LOOK_S)
        return [worker for worker in workers if worker.link in links]

    def _size_of(self, task: tuple[int, Item | Unit]) -> int:
        return self._sizes[task[0]]

    def _take(self, worker: _Worker, message: Message) -> None:
        task = worker.task
        if isinstance(message, MenuraError):
            raise message
        if isinstance(message, Lost):
            self._lost(worker, message.how)
        elif isinstance(message, Ready):
            worker.ready, self._false_starts = True, 0
        elif task is not None and isinstance(message, (Progress, Worked)):
            self._advance(*task, message)
        elif task is not None and isinstance(message, (FileResult, Finished)):
            worker.task = None
            self._end(*task, message)
        for idle in self._workers:
            if idle.ready and idle.task is None and self._waiting:
                self._give(idle)
        if task is not None and not isinstance(message, Lost):
            self._hooks.on_progress(self._meter.progress(str(self._items[task[0]].source)))

    def _give(self, worker: _Worker) -> None:
        """Have a worker do what continues its last task, or what is next."""
        others = [each.next for each in self._workers if each is not worker]
        position, task = chosen = max(reversed(self._waiting), key=lambda it: (it == worker.next, it not in others))
        self._waiting.remove(chosen)
        if isinstance(task, Item) and position not in self._shared and not self._attempts[chosen]:
            task = self._divided(position, task)
        worker.task, worker.next = (position, task), None
        if isinstance(task, Unit):
            self._shared[position].worked_s[task] = 0.0  # what a lost worker did of it counts no more
            worker.next = position, task._replace(number=task.number + 1)
        worker.link.send(task)

    def _divided(self, position: int, item: Item) -> Item | Unit:
        """A file's first unit, if it is long, and whole files wouldn't keep all workers busy."""
        left_bytes, size = self._whole_bytes, self._sizes[position]
        self._whole_bytes -= size
        if self._request is None or size * len(self._workers) <= left_bytes:
            return item
        count, length_s = likely_parts(item, self._request, len(self._workers))
        if count < 2:
            return item
        tag = self._request.with_parts_of(length_s).parts_tag(FileStamp.of(item.source))
        survey = Unit(item, tag, length_s, "survey")
        self._shared[position] = SharedRecording(survey=survey)
        return survey

    def _advance(self, position: int, task: Item | Unit, message: Progress | Worked) -> None:
        shared = self._shared.get(position)
        if isinstance(message, Worked) and shared is not None and isinstance(task, Unit):
            shared.worked_s[task] += message.audio_s
            self._meter.advanced(position, sum(shared.worked_s.values()))
        elif isinstance(message, Progress):
            if position not in self._begun:
                self._begun.add(position)
                self._meter.begun(position, message.audio_s or 0.0)
            self._meter.advanced(position, message.audio_done_s)

    def _end(self, position: int, task: Item | Unit, message: FileResult | Finished) -> None:
        shared = self._shared.get(position)
        if position in self.results:  # another unit of it has failed
            return
        if isinstance(message, FileResult):
            self._done(position, shared.joined(message) if shared else message)
        elif isinstance(task, Unit) and shared is not None:
            for each in reversed(shared.finish(task, message, len(self._workers))):
                insort(self._waiting, (position, each), key=self._size_of)
            if task.step == "survey" and shared.parts:
                self._begun.add(position)
                self._meter.begun(position, message.audio_s)

    def _done(self, position: int, result: FileResult) -> None:
        self.results[position] = result
        if position in self._shared:
            self._waiting = [task for task in self._waiting if task[0] != position]
        self._meter.failed(position) if result.output is None else self._meter.finished()
        self._hooks.on_result(position, result)

    def _lost(self, worker: _Worker, how: str) -> None:
        """A worker ended by itself: another does its task, once."""
        self._workers.remove(worker)
        self._backend.close([worker.link], gently=False)
        if worker.task is not None:
            position, _ = worker.task
            item = self._items[position]
            remove_partial(item.output)
            given_up = lost_once_more(self._attempts, worker.task, str(item.source), how, _MOST_ATTEMPTS)
            if position not in self.results:  # else another unit of it has failed
                self._done(position, given_up) if given_up else self._waiting.append(worker.task)
        if not worker.ready:
            self._false_starts += 1
        if self._waiting and self._false_starts < _MOST_FALSE_STARTS:
            self._start(worker.number)
        elif self._waiting and not self._workers:
            raise ResourceError(None, f"worker processes crash on start-up ({how})", "Use fewer {workers}, or none")
