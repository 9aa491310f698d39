"""What holds for every test."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from menura.system import interrupts

if TYPE_CHECKING:
    from support.pretended_gpu import PretendedGpu


def pytest_configure() -> None:
    """A shell's background jobs ignore Ctrl-C; the tests send it, so it must mean what it means in the foreground."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def signals_handled() -> Iterator[None]:
    """The process handles Ctrl-C and termination as the command does."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    interrupts.handle_signals()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    interrupts._received = None


@pytest.fixture
def gpu() -> Iterator[PretendedGpu]:
    """Torch has a CUDA device, pretended on the CPU."""
    from support.pretended_gpu import pretended_gpu

    with pretended_gpu() as pretended:
        yield pretended
