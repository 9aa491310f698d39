"""What holds for every test."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from menura.system import interrupts

if TYPE_CHECKING:
    from support.origin import Origin
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


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A server's key and certificate."""
    from support.origin import certificate

    return certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def internet(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Origin]:
    """An HTTPS server on this machine that counts as public, and is the model hub's mirror; nothing else is there."""
    from support.origin import serving

    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setattr("menura.system.download.is_public", lambda address: address == "127.0.0.1")
    with serving(certificate) as origin:
        monkeypatch.setenv("HF_ENDPOINT", origin.url)
        yield origin
