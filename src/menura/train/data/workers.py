"""Work spread over processes, results in order."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from menura.errors import ResourceError
from menura.system.processes import end_on_interrupt, end_with_parent, starting_processes

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_all(task: Callable[[Job], Result], jobs: Sequence[Job], *, workers: int) -> Iterator[Result]:
    """Results of all jobs, in their order, each as soon as it and those before it are there.

    Both are pickled, unless one worker does all in this process.

    Raises:
        ResourceError: a process was killed, as systems do when memory runs out.
    """
    workers = min(workers, len(jobs))
    if workers <= 1:
        yield from map(task, jobs)
        return
    # Not fork: torch's threads don't survive it.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)
    try:
        with starting_processes():
            results = pool.map(task, jobs)
        yield from results
    except BrokenProcessPool as error:
        advice = "Try again with {workers=1}"
        raise ResourceError(None, "a worker process died, perhaps out of memory", advice) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    end_on_interrupt()
    end_with_parent()
    import torch

    torch.set_num_threads(1)
