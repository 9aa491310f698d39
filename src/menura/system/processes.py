"""Processes that end with the one that started them: workers that leave Ctrl-C to it, and jobs spread over several."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import ModuleType
from typing import Any, TypeVar

from menura.errors import ResourceError
from menura.system.device import prepare_own_process

Job = TypeVar("Job")
Result = TypeVar("Result")


@contextmanager
def starting_processes() -> Iterator[None]:
    """Processes spawned in this block have SIGINT blocked, and don't import the main module.

    A terminal sends SIGINT to the whole group, and it would end a worker whose interpreter still starts; a blocked
    signal is inherited. The parent gets it when the block ends. Importing the main module, as multiprocessing does by
    itself, would run a user's script again in every worker, unless it stood below `if __name__ == "__main__"`.
    """
    main = sys.modules["__main__"]
    before = None
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        resource_tracker.ensure_running()  # starting it with the first process would unblock the signal
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        sys.modules["__main__"] = ModuleType("__main__")
        yield
    finally:
        sys.modules["__main__"] = main
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def spawn(work: Callable[..., None], *arguments: Any, name: str) -> tuple[SpawnProcess, Connection]:
    """Start a process that leaves Ctrl-C to this one, and that ends with it, however this one ends.

    There `work`, a module's function, gets its end of the pipe, whose other end is returned, and the arguments, which
    are pickled. SIGTERM raises SystemExit there, so that what's half-written is removed. A closed pipe ends it quietly.
    """
    context = multiprocessing.get_context("spawn")  # a forked child could hang on a lock of a thread it lacks
    pipe, theirs = context.Pipe()
    process = context.Process(target=_spawned, args=(work, theirs, arguments), name=name, daemon=True)
    with starting_processes():
        process.start()
    theirs.close()
    return process, pipe


def _spawned(work: Callable[..., None], pipe: Connection, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    end_with_parent()
    prepare_own_process()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent has gone
        work(pipe, *arguments)


def end_with_parent() -> None:
    """Have this process terminated when the one that started it ends, however that ends."""

    def wait_for_end() -> None:
        if (parent := multiprocessing.parent_process()) is not None:
            wait([parent.sentinel])
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait_for_end, name="menura-parent", daemon=True).start()


def run_all(task: Callable[[Job], Result], jobs: Sequence[Job], *, workers: int) -> Iterator[Result]:
    """Results of all jobs, in their order, each as soon as it and those before it are there.

    Both are pickled, unless one worker does all in this process. Ctrl-C ends the others at once and quietly.

    Raises:
        ResourceError: a process was killed, as systems do when memory runs out.
    """
    workers = min(workers, len(jobs))
    if workers <= 1:
        yield from map(task, jobs)
        return
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_begin_jobs)
    try:
        with starting_processes():
            results = pool.map(task, jobs)
        yield from results
    except BrokenProcessPool as error:
        advice = "Try again with {workers=1}"
        raise ResourceError(None, "a worker process died, perhaps out of memory", advice) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin_jobs() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    end_with_parent()
    import torch

    torch.set_num_threads(1)
