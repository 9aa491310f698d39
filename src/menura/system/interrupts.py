"""Ctrl-C and termination that nothing swallows.

A signal's handler raises wherever the main thread happens to be: also in a Python function that a C library called, in
a `__del__`, or in a Cython module's initialization, where the exception is printed at best, and lost.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_received: type[BaseException] | None = None
"""What the last signal raised, after `handle_signals`."""


class TerminatedError(BaseException):
    """SIGTERM came; not an Exception, so that it passes like Ctrl-C and outputs are cleaned up on its way."""


def handle_signals() -> None:
    """Raise KeyboardInterrupt at SIGINT and TerminatedError at SIGTERM, and remember them for `check_interrupts`.

    For a process of Menura's own, which ends after one. A SIGINT that is ignored, as in a shell's background jobs, or
    that has another handler than Python's, stays so. Only the main thread sets handlers.
    """
    global _received  # one for the process, as signals are
    if threading.current_thread() is not threading.main_thread():
        return
    _received = None
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _on_signal)
    signal.signal(signal.SIGTERM, _on_signal)


def check_interrupts() -> None:
    """Raise again what a signal raised and something swallowed: for work that goes on, not for cleaning up."""
    if _received is not None:
        raise _received


@contextmanager
def deferred_interrupts(*, cleaning_up: bool = False) -> Iterator[None]:
    """Delay Ctrl-C and termination until the block ends.

    libsndfile and FFmpeg read and write through Python functions. An exception raised in one of them is printed and
    lost, and to the library the file just ends: a KeyboardInterrupt would leave half a recording that looks complete.
    First comes `check_interrupts`, in every thread, but for cleaning up.
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


def _on_signal(number: int, _frame: object) -> None:
    global _received
    _received = KeyboardInterrupt if number == signal.SIGINT else TerminatedError
    raise _received
