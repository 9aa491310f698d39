"""Starting processes that leave Ctrl-C to their parent."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Job = TypeVar("Job")
Result = TypeVar("Result")


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Processes spawned in this block don't hear Ctrl-C, from their first instruction on.

    A terminal sends it to the whole group. A worker that ignores it as its first act would still be ended by one that
    comes while its interpreter starts, which takes a tenth of a second; a blocked signal is inherited. The parent gets
    one that comes meanwhile when the block ends. Where there are no signal masks (Windows) this does nothing.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # starting it with the first process would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Interruptible:
    """Lets Ctrl-C end what a worker does, but not the worker, who would say so at length.

    Made in a process that was started deaf, whose ears it opens.
    """

    def __init__(self) -> None:
        self._at_work = self._interrupted = False
        signal.signal(signal.SIGINT, self._hear)
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def _hear(self, _number: int, _frame: object) -> None:
        self._interrupted = True
        if self._at_work:
            raise KeyboardInterrupt

    def call(self, task: Callable[[Job], Result], job: Job) -> Result:
        """Do a job.

        Raises:
            KeyboardInterrupt: it came meanwhile, or before.
        """
        try:
            self._at_work = True
            if self._interrupted:
                raise KeyboardInterrupt
            return task(job)
        finally:
            self._at_work = False
