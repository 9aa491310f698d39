"""Ctrl-C in the middle of reading and writing."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from menura.audio import encode
from menura.audio.containers.survey import PieceFile
from menura.audio.decode import open_audio
from menura.audio.encode import AudioWriter
from menura.audio.interrupts import deferred_interrupts
from support.media import encode_media


def interrupting(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, call: int) -> None:
    """Let the process get a SIGINT in the nth call of a method, as soon as a library calls it."""
    original = getattr(owner, name)
    calls = 0

    def method(self: Any, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *arguments)

    monkeypatch.setattr(owner, name, method)


def noise(samples: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return (0.1 * np.random.default_rng(0).standard_normal(samples)).astype(np.float32)


def read(path: Path) -> int:
    return sum(block.size for block in open_audio(path).blocks(1000))


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg", "a.m4a"])
@pytest.mark.parametrize("call", [1, 5])
def test_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str, call: int
) -> None:
    if name == "a.m4a":
        encode_media(tmp_path / name, noise(200_000), 48_000)
    else:
        soundfile.write(tmp_path / name, noise(200_000), 48_000)
    interrupting(monkeypatch, PieceFile, "read", call)
    with pytest.raises(KeyboardInterrupt):
        read(tmp_path / name)
    assert capfd.readouterr().err == ""
    assert read(tmp_path / name) == 200_000


@pytest.mark.parametrize("format", ["wav", "flac", "mp3", "ogg", "m4a"])
def test_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], format: str
) -> None:
    interrupting(monkeypatch, encode._TemporaryOutput, "write", 2)
    path = tmp_path / f"out.{format}"

    def write() -> None:
        with AudioWriter(path, 48_000) as writer:
            for _ in range(5):
                writer.write(noise(20_000))

    with pytest.raises(KeyboardInterrupt):
        write()
    assert capfd.readouterr().err == ""
    assert list(tmp_path.iterdir()) == []
    write()
    assert read(path) == 100_000


def test_the_handler_is_back_afterwards_and_other_threads_have_none() -> None:
    before = signal.getsignal(signal.SIGINT)
    with deferred_interrupts():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
    seen: list[object] = []

    def work() -> None:
        with deferred_interrupts():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
