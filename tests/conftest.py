"""What holds for every test."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """A shell's background jobs ignore Ctrl-C; the tests send it, so it must mean what it means in the foreground."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
