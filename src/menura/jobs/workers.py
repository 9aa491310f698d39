"""One batch shared by several processes: each converts whole files, the longest first. Loads no torch by itself."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING

from menura.device import physical_cores
from menura.errors import MenuraError, ResourceError
from menura.options import ConversionOptions, EngineOptions
from menura.pipeline.meter import RunMeter
from menura.types import FileResult, Progress, RunReport, State

if TYPE_CHECKING:
    from types import TracebackType

_MOST_ATTEMPTS = 2
_FAREWELL_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    number: int
    source: Path
    output: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    """A worker's networks are loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refused:
    """The request can't be carried out."""

    error: MenuraError


@dataclass(frozen=True, slots=True, kw_only=True)
class _Advanced:
    audio_done_s: float
    audio_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finished:
    result: FileResult


@dataclass(frozen=True, slots=True, kw_only=True)
class _Farewell:
    model_loads: Mapping[str, int]
    peak_memory_mb: float


_Message = _Ready | _Refused | _Advanced | _Finished | _Farewell


def convert_with_workers(
    pairs: Sequence[tuple[Path, Path]],
    options: ConversionOptions,
    engine: EngineOptions,
    *,
    workers: int,
    on_progress: Callable[[Progress], None] | None = None,
    on_result: Callable[[int, FileResult], None] | None = None,
) -> RunReport:
    """Convert many files by several processes; one that fails stops nothing, nor does a process that is killed.

    Args:
        pairs: (input, output).
        options: what is asked for, the same for all.
        engine: what each process runs with; without a number of threads the cores are divided among them. Several CUDA
            devices are taken in turn.
        workers: how many processes.
        on_progress: called when a file is begun and after every block.
        on_result: called with an item's place and result when its file is complete.

    Returns:
        The report; loads and peak memory are the sums over the processes.

    Raises:
        MenuraError: the request as a whole can't be carried out.
    """
    start = time.perf_counter()
    threads = engine.threads or max(1, physical_cores() // workers)
    with _Pool(pairs, options, dataclasses.replace(engine, threads=threads)) as pool:
        pool.run(workers, on_progress or (lambda _: None), on_result or (lambda _number, _result: None))
        farewells = pool.dismiss()
    loads: dict[str, int] = {}
    for farewell in farewells:
        for name, count in farewell.model_loads.items():
            loads[name] = loads.get(name, 0) + count
    return RunReport(
        files=tuple(pool.results[number] for number in range(len(pairs))),
        wall_s=time.perf_counter() - start,
        peak_memory_mb=sum(farewell.peak_memory_mb for farewell in farewells),
        model_loads=loads,
    )


@dataclass(slots=True, kw_only=True, eq=False)
class _Worker:
    process: SpawnProcess
    pipe: Connection
    ready: bool = False
    task: _Task | None = None


class _Pool:
    """The processes, and who does what."""

    def __init__(self, pairs: Sequence[tuple[Path, Path]], options: ConversionOptions, engine: EngineOptions) -> None:
        sizes = [_size(source) for source, _ in pairs]
        tasks = [_Task(number=n, source=source, output=output) for n, (source, output) in enumerate(pairs)]
        self._todo = sorted(tasks, key=lambda task: sizes[task.number])  # taken from the end: the longest first
        self._options, self._engine = options, engine
        self._workers: list[_Worker] = []
        self._attempts: dict[int, int] = {}
        self._meter = RunMeter(sizes)
        self._begun: set[int] = set()
        self.results: dict[int, FileResult] = {}

    def __enter__(self) -> _Pool:
        """Return the pool; processes are started by `run`."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all processes; those that are at work remove what is half-written."""
        for worker in self._workers:
            if kind is None:
                worker.process.join(_FAREWELL_S)
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(_FAREWELL_S)
            worker.process.kill()
            worker.process.join()
            worker.pipe.close()
            worker.process.close()

    def run(
        self, count: int, on_progress: Callable[[Progress], None], on_result: Callable[[int, FileResult], None]
    ) -> None:
        """Have all tasks done."""
        for number in range(min(count, len(self._todo))):
            self._start(number)
        while self._todo or any(worker.task for worker in self._workers):
            for worker in self._heard():
                try:
                    message = worker.pipe.recv()
                except (EOFError, OSError):
                    self._lost(worker, on_result)
                    continue
                task = self._take(worker, message, on_result)
                if task is not None:
                    on_progress(self._meter.progress(str(task.source)))

    def dismiss(self) -> list[_Farewell]:
        """Let the processes end, and take their last words."""
        farewells = []
        for worker in self._workers:
            with contextlib.suppress(EOFError, OSError):  # killed when it had nothing left to do
                worker.pipe.send(None)
                while worker.pipe.poll(_FAREWELL_S):
                    message = worker.pipe.recv()
                    if isinstance(message, _Farewell):
                        farewells.append(message)
                        break
        return farewells

    def _heard(self) -> list[_Worker]:
        ready = wait([worker.pipe for worker in self._workers])
        return [worker for worker in self._workers if worker.pipe in ready]

    def _start(self, number: int) -> None:
        context = multiprocessing.get_context("spawn")  # a forked child could hang on a lock of a thread it lacks
        pipe, theirs = context.Pipe()
        process = context.Process(
            target=_work,
            args=(theirs, self._options, self._engine, number),
            name=f"menura-worker-{number}",
            daemon=True,
        )
        process.start()
        theirs.close()
        self._workers.append(_Worker(process=process, pipe=pipe))

    def _take(self, worker: _Worker, message: _Message, on_result: Callable[[int, FileResult], None]) -> _Task | None:
        task = worker.task
        if isinstance(message, _Refused):
            raise message.error
        if isinstance(message, _Ready):
            worker.ready = True
        elif task is not None and isinstance(message, _Advanced):
            if task.number not in self._begun:
                self._begun.add(task.number)
                self._meter.begun(task.number, message.audio_s)
            self._meter.advanced(task.number, message.audio_done_s)
            return task
        elif task is not None and isinstance(message, _Finished):
            self._done(task, message.result, on_result)
            worker.task = None
        if worker.task is None and self._todo:
            worker.task = self._todo.pop()
            with contextlib.suppress(OSError):  # it has died: its pipe says so next
                worker.pipe.send(worker.task)
        return task

    def _done(self, task: _Task, result: FileResult, on_result: Callable[[int, FileResult], None]) -> None:
        self.results[task.number] = result
        if result.output is None:
            self._meter.failed(task.number)
        else:
            self._meter.finished()
        on_result(task.number, result)

    def _lost(self, worker: _Worker, on_result: Callable[[int, FileResult], None]) -> None:
        """A process ended by itself: another takes its file, a few times."""
        worker.process.join()
        code = worker.process.exitcode or 0
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        self._workers.remove(worker)
        worker.pipe.close()
        if not worker.ready:
            raise ResourceError(f"A worker ended before it began ({how}). Use fewer --workers, or leave them out.")
        task = worker.task
        if task is not None:
            _remove_unfinished(task.output)
            self._attempts[task.number] = self._attempts.get(task.number, 0) + 1
            if self._attempts[task.number] < _MOST_ATTEMPTS:
                self._todo.append(task)
            else:
                why = f"The process that converted it ended ({how}), twice. Is there enough memory for all --workers?"
                failed = FileResult(input=str(task.source), output=None, state=State.FAILED, error=why)
                self._done(task, failed, on_result)
        if self._todo:
            self._start(len(self._workers))


def _remove_unfinished(output: Path) -> None:
    from menura.audio.encode import remove_unfinished

    remove_unfinished([output])


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _work(pipe: Connection, options: ConversionOptions, engine: EngineOptions, number: int) -> None:
    """A worker process: convert what comes through the pipe until there is nothing more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    threading.Thread(target=_end_with_parent, name="menura-parent", daemon=True).start()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent has gone
        try:
            from menura.converter import Converter

            converter = Converter(dataclasses.replace(engine, device=_device(engine.device, number)))
            converter.preload(options)
        except MenuraError as error:
            pipe.send(_Refused(error=error))
            return
        pipe.send(_Ready())
        while (task := pipe.recv()) is not None:
            report = converter.convert_files(
                [(task.source, task.output)], options, on_progress=lambda progress: pipe.send(_advanced(progress))
            )
            pipe.send(_Finished(result=report.files[0]))
        last = converter.convert_files([], options)
        pipe.send(_Farewell(model_loads=last.model_loads, peak_memory_mb=last.peak_memory_mb))


def _advanced(progress: Progress) -> _Advanced:
    return _Advanced(audio_done_s=progress.audio_done_s, audio_s=progress.audio_s or 0.0)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


def _device(name: str, number: int) -> str:
    """Several CUDA devices are taken in turn."""
    if name not in ("auto", "cuda"):
        return name
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return f"cuda:{number % count}" if count > 1 else name
