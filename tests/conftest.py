"""What holds for every test."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import pytest


def pytest_configure() -> None:
    """A shell's background jobs ignore Ctrl-C; the tests send it, so it must mean what it means in the foreground."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def denormals() -> Iterator[None]:
    """A converter makes its process flush denormals, which Hypothesis can't work with: undone after every test."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)
