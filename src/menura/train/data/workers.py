"""Work spread over processes, results in order."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from menura.errors import ResourceError
from menura.system.processes import end_on_interrupt, end_with_parent, starting_processes

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_all(
    task: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    workers: int,
    prepare: Callable[[Any], None] | None = None,
    using: object = None,
) -> Iterator[Result]:
    """Results of all jobs, in their order, each as soon as it and those before it are there.

    Args:
        task: a module's function.
        jobs: its arguments, which can be pickled.
        workers: processes; with 1 all is done in this one.
        prepare: called once in each process with `using`, e.g. to load networks.
        using: what `prepare` gets.

    Raises:
        ResourceError: a process was killed, as systems do when memory runs out.
    """
    if not jobs:
        return
    if workers == 1 or len(jobs) == 1:
        if prepare is not None:
            prepare(using)
        yield from map(task, jobs)
        return
    # Not fork: torch's threads don't survive it.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        min(workers, len(jobs)), mp_context=context, initializer=_begin, initargs=(prepare, using)
    )
    try:
        with starting_processes():
            results = pool.map(task, jobs)
        yield from results
    except BrokenProcessPool as error:
        raise ResourceError(
            None, "a worker process died, perhaps out of memory", "Try again with {workers=1}"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(prepare: Callable[[Any], None] | None, using: object) -> None:
    end_on_interrupt()
    end_with_parent()
    import torch

    torch.set_num_threads(1)
    if prepare is not None:
        prepare(using)
