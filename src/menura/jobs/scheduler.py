"""One batch shared by several workers: each converts whole files, the longest first, and one that dies stops nothing.

The scheduler knows nothing of where workers run: `jobs/workers.py` starts processes of this machine, `jobs/cluster.py`
actors of a Ray cluster. Loads no torch.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from menura import __version__
from menura.audio.remote import remove_unfinished_at, size_bytes
from menura.errors import ErrorDetails, ResourceError
from menura.jobs.worker import Advanced, Farewell, Finished, Message, Ready, Refused, Task
from menura.pipeline.progress import RunMeter
from menura.system.interrupts import check_interrupts
from menura.types import FileResult, Place, Progress, RunReport, State, Url

if TYPE_CHECKING:
    from types import TracebackType

_MOST_ATTEMPTS = 2
_MOST_FALSE_STARTS = 3
_FAREWELL_S = 20.0


class WorkerLostError(Exception):
    """A worker ended by itself; the message says how, as far as is known."""


class Link(Protocol):
    """The scheduler's end of what joins it to a worker."""

    def send(self, task: Task | None) -> None:
        """Give the worker a file; None lets it end. May raise WorkerLostError."""
        ...

    def receive(self) -> Message:
        """The next message of a worker that was heard. Raises WorkerLostError."""
        ...


class Backend(Protocol):
    """Where workers run."""

    stays_for_loading: bool
    """Whether a worker that is still loading at the end is waited for."""

    def start(self, number: int) -> Link:
        """Start a worker in the place of that number; places are filled again when their worker was lost."""
        ...

    def heard(self, links: Sequence[Link], timeout_s: float | None) -> list[Link]:
        """Those that have something to tell, or that are lost; waits until there is one, or the time is over."""
        ...

    def forget(self, link: Link) -> None:
        """A worker was lost: let go of what belonged to it, and make sure that it is dead."""
        ...

    def close(self, links: Sequence[Link], *, gently: bool) -> None:
        """End all workers and wait until they have gone; gently, if they were told to end."""
        ...


def convert_shared(
    pairs: Sequence[tuple[Place, Place]],
    backend: Backend,
    *,
    workers: int,
    on_progress: Callable[[Progress], None] | None = None,
    on_result: Callable[[int, FileResult], None] | None = None,
) -> RunReport:
    """Convert many files by several workers.

    Args:
        pairs: (input, output).
        backend: where they run.
        workers: how many, at most one for each file.
        on_progress: called when a file is begun and after every block.
        on_result: called with an item's place and result when its file is complete.

    Returns:
        The report; loads and peak memory are the sums over the workers.

    Raises:
        MenuraError: the request as a whole can't be carried out.
    """
    start = time.perf_counter()
    with Scheduler(pairs, backend) as scheduler:
        scheduler.run(workers, on_progress or (lambda _: None), on_result or (lambda _number, _result: None))
        farewells = scheduler.dismiss()
    loads: dict[str, int] = {}
    for farewell in farewells:
        for name, count in farewell.model_loads.items():
            loads[name] = loads.get(name, 0) + count
    return RunReport(
        files=tuple(scheduler.results[number] for number in range(len(pairs))),
        wall_s=time.perf_counter() - start,
        peak_memory_mb=sum(farewell.peak_memory_mb for farewell in farewells),
        model_loads=loads,
    )


@dataclass(slots=True, kw_only=True, eq=False)
class _Worker:
    number: int
    link: Link
    ready: bool = False
    task: Task | None = None


class Scheduler:
    """The workers, and who does what; use it as a context manager."""

    def __init__(self, pairs: Sequence[tuple[Place, Place]], backend: Backend) -> None:
        sizes = [size_bytes(source) for source, _ in pairs]
        tasks = [Task(number=n, source=source, output=output) for n, (source, output) in enumerate(pairs)]
        self._todo = sorted(tasks, key=lambda task: sizes[task.number])  # taken from the end: the longest first
        self._backend = backend
        self._workers: list[_Worker] = []
        self._attempts: dict[int, int] = {}
        self._false_starts = 0
        self._meter = RunMeter(sizes)
        self._begun: set[int] = set()
        self.results: dict[int, FileResult] = {}

    def __enter__(self) -> Scheduler:
        """Return the scheduler; workers are started by `run`."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all workers, and remove what those that were at work left half-written."""
        self._backend.close([worker.link for worker in self._workers], gently=kind is None)
        for worker in self._workers:
            if worker.task is not None:
                _remove_unfinished(worker.task.output)

    def run(
        self, count: int, on_progress: Callable[[Progress], None], on_result: Callable[[int, FileResult], None]
    ) -> None:
        """Have all tasks done."""
        for number in range(min(count, len(self._todo))):
            self._start(number)
        while self._todo or any(worker.task for worker in self._workers):
            check_interrupts()
            for worker in self._heard(self._workers, None):
                try:
                    message = worker.link.receive()
                except WorkerLostError as error:
                    self._lost(worker, str(error), on_result)
                    continue
                task = self._take(worker, message, on_result)
                if task is not None:
                    on_progress(self._meter.progress(str(task.source)))

    def dismiss(self) -> list[Farewell]:
        """Let the workers end, and take their last words."""
        leaving = [worker for worker in self._workers if worker.ready or self._backend.stays_for_loading]
        for worker in leaving:
            with contextlib.suppress(WorkerLostError):  # killed when it had nothing left to do
                worker.link.send(None)
        farewells = []
        deadline = time.monotonic() + _FAREWELL_S
        while leaving and (left_s := deadline - time.monotonic()) > 0:
            for worker in self._heard(leaving, left_s):
                try:
                    message = worker.link.receive()
                except WorkerLostError:
                    leaving.remove(worker)
                    continue
                if isinstance(message, Farewell):
                    farewells.append(message)
                    leaving.remove(worker)
        return farewells

    def _heard(self, workers: Sequence[_Worker], timeout_s: float | None) -> list[_Worker]:
        links = self._backend.heard([worker.link for worker in workers], timeout_s)
        return [worker for worker in workers if worker.link in links]

    def _start(self, number: int) -> None:
        self._workers.append(_Worker(number=number, link=self._backend.start(number)))

    def _take(self, worker: _Worker, message: Message, on_result: Callable[[int, FileResult], None]) -> Task | None:
        task = worker.task
        if isinstance(message, Refused):
            raise message.error
        if isinstance(message, Ready):
            _check_version(message)
            worker.ready = True
            self._false_starts = 0
        elif task is not None and isinstance(message, Advanced):
            if task.number not in self._begun:
                self._begun.add(task.number)
                self._meter.begun(task.number, message.audio_s)
            self._meter.advanced(task.number, message.audio_done_s)
            return task
        elif task is not None and isinstance(message, Finished):
            self._done(task, message.result, on_result)
            worker.task = None
        if worker.task is None and self._todo:
            worker.task = self._todo.pop()
            with contextlib.suppress(WorkerLostError):  # the next that is heard of it says so
                worker.link.send(worker.task)
        return task

    def _done(self, task: Task, result: FileResult, on_result: Callable[[int, FileResult], None]) -> None:
        self.results[task.number] = result
        if result.output is None:
            self._meter.failed(task.number)
        else:
            self._meter.finished()
        on_result(task.number, result)

    def _lost(self, worker: _Worker, how: str, on_result: Callable[[int, FileResult], None]) -> None:
        """A worker ended by itself: another takes its file, a few times."""
        self._workers.remove(worker)
        self._backend.forget(worker.link)
        task = worker.task
        if task is not None:
            _remove_unfinished(task.output)
            self._attempts[task.number] = self._attempts.get(task.number, 0) + 1
            if self._attempts[task.number] < _MOST_ATTEMPTS:
                self._todo.append(task)
            else:
                why = ErrorDetails(
                    kind="resource",
                    subject=str(task.source),
                    problem=f"the worker process converting it ended twice ({how})",
                    advice="If memory is short, use fewer {workers}",
                )
                failed = FileResult(input=str(task.source), output=None, state=State.FAILED, error=why)
                self._done(task, failed, on_result)
        if not worker.ready:
            self._false_starts += 1
        if self._todo and self._false_starts < _MOST_FALSE_STARTS:
            self._start(worker.number)
        elif self._todo and not self._workers:
            raise ResourceError(None, f"worker processes crash on start-up ({how})", "Use fewer {workers}, or none")


def _check_version(ready: Ready) -> None:
    if ready.version != __version__:
        raise ResourceError(
            ready.host, f"has Menura {ready.version}, this is {__version__}", "Install the same version on all machines"
        )


def _remove_unfinished(output: Place) -> None:
    if isinstance(output, Url):
        remove_unfinished_at(output)
        return
    from menura.system.files import remove_unfinished

    remove_unfinished([output])
