"""Ctrl-C while a C library calls back into Python."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Hold Ctrl-C and termination back until the block ends.

    libsndfile and FFmpeg read and write through Python functions. An exception raised in one of those is printed and
    lost, and to the library the file just ends: a KeyboardInterrupt would leave half a recording that looks whole.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are handled in the main thread only
        return
    caught: list[tuple[Any, Any]] = []
    previous = {
        number: handler for number in (signal.SIGINT, signal.SIGTERM) if callable(handler := signal.getsignal(number))
    }
    try:
        for number in previous:
            signal.signal(number, lambda *arguments: caught.append(arguments))
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        for number, frame in caught:
            previous[number](number, frame)
