"""Ctrl-C and termination that nothing swallows.

What a signal's handler raises comes up wherever the main thread happens to be: also in a Python function that a C
library called back, in a `__del__`, in a weak reference's callback. There it is printed at best, and lost. Modules made
by Cython even have an `except: pass` in what runs when they are imported: while numpy.random was, a fifth of the
Ctrl-Cs got lost.
"""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_heard: type[BaseException] | None = None
"""What the last signal raised, in a process that hears them."""


class TerminatedError(BaseException):
    """SIGTERM came; not an Exception, so that it passes like Ctrl-C and outputs are cleaned up on its way."""


def hear_interrupts() -> None:
    """Raise KeyboardInterrupt at SIGINT and TerminatedError at SIGTERM, and keep them in mind for `check_interrupts`.

    For a process that is Menura's own, and that ends when one came. A SIGINT that is ignored, as in a shell's
    background jobs, or has another handler than Python's, is left so; in other threads than the main one, which can set
    no handlers, nothing is done.
    """
    global _heard  # one for the process, as signals are
    if threading.current_thread() is not threading.main_thread():
        return
    _heard = None
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _hear)
    signal.signal(signal.SIGTERM, _hear)


def check_interrupts() -> None:
    """Raise again what a signal raised: for work that goes on, and so can't have got it.

    Not for what cleans up on the exception's way.

    Raises:
        KeyboardInterrupt, TerminatedError: it came before, in a process that hears them.
    """
    if _heard is not None:
        raise _heard


@contextmanager
def deferred_interrupts(*, cleaning_up: bool = False) -> Iterator[None]:
    """Hold Ctrl-C and termination back until the block ends.

    libsndfile and FFmpeg read and write through Python functions. An exception raised in one of those is printed and
    lost, and to the library the file just ends: a KeyboardInterrupt would leave half a recording that looks whole.

    Args:
        cleaning_up: don't `check_interrupts` first, which is done in every thread.
    """
    if not cleaning_up:
        check_interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are handled in the main thread only
        return
    caught: list[tuple[Any, Any]] = []
    holding = True
    previous = {
        number: handler for number in (signal.SIGINT, signal.SIGTERM) if callable(handler := signal.getsignal(number))
    }

    def hold(number: Any, frame: Any) -> None:
        if holding:
            caught.append((number, frame))
        else:  # still in place, as the other signal came while the handlers were put back
            previous[number](number, frame)

    try:
        for number in previous:
            signal.signal(number, hold)
        yield
    finally:
        holding = False
        for number, handler in previous.items():
            signal.signal(number, handler)
        for number, frame in caught:
            previous[number](number, frame)


def _hear(number: int, _frame: object) -> None:
    global _heard
    _heard = KeyboardInterrupt if number == signal.SIGINT else TerminatedError
    raise _heard
