"""Ctrl-C in the middle of reading and writing."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from menura.audio import encode
from menura.audio.containers.structure import PieceFile
from menura.audio.decode import open_audio
from menura.audio.encode import AudioWriter
from menura.system.interrupts import TerminatedError, check_interrupts, deferred_interrupts, handle_signals
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
    interrupting(monkeypatch, encode._Output, "write", 2)
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


def swallowed(number: signal.Signals = signal.SIGINT) -> None:
    """Get a signal where what it raises is lost, as in the modules that Cython makes."""
    try:
        os.kill(os.getpid(), number)
    except BaseException:  # noqa: BLE001
        return
    raise AssertionError("nothing was raised")


BOTH = pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, TerminatedError)]
)


@BOTH
@pytest.mark.usefixtures("signals_handled")
def test_what_was_swallowed_comes_again_while_reading(
    tmp_path: Path, number: signal.Signals, error: type[BaseException]
) -> None:
    soundfile.write(tmp_path / "a.flac", noise(200_000), 48_000)
    blocks = open_audio(tmp_path / "a.flac").blocks(1000)
    next(blocks)
    swallowed(number)
    with pytest.raises(error):
        list(blocks)


@BOTH
@pytest.mark.usefixtures("signals_handled")
def test_what_was_swallowed_comes_again_before_a_file_has_its_name(
    tmp_path: Path, number: signal.Signals, error: type[BaseException]
) -> None:
    def write() -> None:
        with AudioWriter(tmp_path / "out.flac", 48_000) as writer:
            writer.write(noise(20_000))
            swallowed(number)

    with pytest.raises(error):
        write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("signals_handled")
def test_other_threads_hear_of_it() -> None:
    heard: list[BaseException] = []

    def work() -> None:
        try:
            with deferred_interrupts():
                pass
        except KeyboardInterrupt as error:
            heard.append(error)

    swallowed()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(heard) == 1


@pytest.mark.usefixtures("signals_handled")
def test_every_ctrl_c_is_raised() -> None:
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.usefixtures("signals_handled")
def test_a_deferred_one_is_kept_in_mind_too() -> None:
    went_on = False
    with pytest.raises(KeyboardInterrupt), deferred_interrupts():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        went_on = True
    assert went_on
    with pytest.raises(KeyboardInterrupt), deferred_interrupts():
        raise AssertionError("begun all the same")
    with deferred_interrupts(cleaning_up=True):
        pass


def test_nothing_is_installed_or_remembered_where_nobody_asked() -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    swallowed()
    check_interrupts()
    thread = threading.Thread(target=handle_signals)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.usefixtures("signals_handled")
@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda _number, _frame: None], ids=["ignored", "another"])
def test_who_does_otherwise_with_ctrl_c_keeps_it(handler: signal.Handlers | Callable[[int, object], None]) -> None:
    signal.signal(signal.SIGINT, handler)
    handle_signals()
    assert signal.getsignal(signal.SIGINT) is handler
    os.kill(os.getpid(), signal.SIGINT)
    check_interrupts()


@pytest.mark.usefixtures("signals_handled")
def test_one_that_comes_while_handlers_are_put_back_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    install = signal.signal
    calls = 0

    def interrupted(number: signal.Signals, handler: Any) -> None:
        nonlocal calls
        calls += 1
        install(number, handler)
        if calls == 3:  # the first of both that is put back
            os.kill(os.getpid(), number)

    monkeypatch.setattr(signal, "signal", interrupted)
    with pytest.raises(KeyboardInterrupt), deferred_interrupts():
        pass
    with pytest.raises(TerminatedError):
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.usefixtures("signals_handled")
def test_a_second_ctrl_c_while_the_first_is_cleaned_up_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write() -> None:
        with AudioWriter(tmp_path / "out.flac", 48_000) as writer:
            writer.write(noise(20_000))
            interrupting(monkeypatch, encode._Output, "seek", 1)  # by abort, which closes the encoder
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as raised:
        write()
    assert isinstance(raised.value.__context__, KeyboardInterrupt)
    assert list(tmp_path.iterdir()) == []
