"""The process edge: one line and the right exit code for whatever happens."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable

import click
import pytest

from menura.cli import main
from menura.errors import DecodeError, MenuraError, OptionError
from menura.system.interrupts import TerminatedError


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], int]:
    """Run a command that raises something."""

    def run(error: BaseException) -> int:
        @click.command()
        def raising() -> None:
            raise error

        monkeypatch.setattr(main.cli, "get_command", lambda _ctx, name: raising if name == "raise" else None)
        return main.run(["raise"])

    return run


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (DecodeError("a.wav", "the file\nis empty"), 1, r"menura: a.wav: the file\nis empty."),
        (OptionError(None, "'x' is not one of cpu", option="device"), 2, "menura: --device: 'x' is not one of cpu."),
        (MenuraError(None, "no"), 1, "menura: no."),
        (OSError(errno.ENOSPC, "No space left on device", "out.wav"), 1, "menura: out.wav: No space left on device."),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "menura: No space left on device. Free space on "),
        (MemoryError(), 1, "menura: not enough memory. Close other programs."),
        (KeyboardInterrupt(), 130, "menura: interrupted; finished work is kept; run the same command to resume."),
        (TerminatedError(), 143, "menura: terminated; finished work is kept; run the same command to resume."),
        (ZeroDivisionError("by 0"), 1, "menura: unexpected ZeroDivisionError: by 0 (MENURA_DEBUG=1 shows where; "),
        (click.UsageError("what?"), 2, "menura: what?"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)  # fmt: skip
def test_errors_become_one_line_and_a_code(
    command: Callable[[BaseException], int],
    error: BaseException,
    code: int,
    line: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(error) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(line)
    assert captured.err.count("\n") == 1
    assert captured.err.endswith("\n")


@pytest.mark.usefixtures("signals_handled")
@pytest.mark.parametrize("end", [None, click.exceptions.Exit(0), DecodeError("a.wav", "is cut off"), BrokenPipeError()])
def test_a_swallowed_ctrl_c_is_told_instead_of_what_came_then(
    end: Exception | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def swallowing() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        if end is not None:
            raise end

    monkeypatch.setattr(main.cli, "get_command", lambda _ctx, _name: swallowing)
    assert main.run(["swallow"]) == 130
    assert capsys.readouterr().err == "menura: interrupted; finished work is kept; run the same command to resume.\n"


def test_debug_shows_the_traceback(
    command: Callable[[BaseException], int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MENURA_DEBUG", "1")
    assert command(ZeroDivisionError("by 0")) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["-h"], 0),
        (["--version"], 0),
        (["-V"], 0),
        (["help"], 0),
        (["help", "voices", "import"], 0),
        (["nothing"], 2),
        (["--nothing"], 2),
        ([], 2),
        (["voices"], 2),
    ],
)
def test_usage(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(arguments) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert (captured.out if code == 0 else captured.err).strip()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["covert", "a.wav"], "'convert'"),
        (["help", "covert"], "'convert'"),
        (["voices", "imprt"], "--help"),
        (["convert", "--vioce", "x"], "--voice"),
        (["convert", "--pitch", "4"], "--transpose"),
        (["convert", "--f0_up_key", "4"], "--transpose"),
        (["convert", "--f0-method", "x"], "--f0?"),
        (["convert", "--search-feature-ratio", "1"], "--index-rate"),
        (["convert", "--volume-envelope", "1"], "--rms-mix-rate"),
        (["convert", "--index_rate", "1"], "--index-rate"),
        (["convert", "--hop-length", "1"], "10 ms"),
        (["convert", "-v", "x"], "--voice"),
        (["train", "new", "--total-epoch", "1"], "--steps"),
        (["train", "new", "--pitch-shift", "1"], "--help"),
    ],
)
def test_near_misses_lead_on(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert said in captured.err


def test_every_suggested_option_exists() -> None:
    context = click.Context(main.cli)
    wanted = [["convert"], ["train", "new"], ["train", "run"]]
    known = set()
    for words in wanted:
        found: click.Command = main.cli
        for word in words:
            assert isinstance(found, click.Group)
            found = found.get_command(context, word) or found
        known |= {name for parameter in found.params for name in parameter.opts}
    assert set(main._OPTIONS.values()) <= known
    assert known.isdisjoint({*main._OPTIONS, *main._SENTENCES})


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["completion", shell]) == 0
    assert "_MENURA_COMPLETE" in capsys.readouterr().out


def test_completion_is_for_any_machine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where an image is made, for one, there may be no bash yet."""
    monkeypatch.setenv("PATH", "")
    assert main.run(["completion", "bash"]) == 0
    told = capsys.readouterr()
    assert ("_MENURA_COMPLETE" in told.out, told.err) == (True, "")


def test_completion_completes() -> None:
    told = {"_MENURA_COMPLETE": "bash_complete", "COMP_WORDS": "menura convert --str", "COMP_CWORD": "2"}
    run = subprocess.run(
        [sys.executable, "-m", "menura"], env={**os.environ, **told}, capture_output=True, text=True, timeout=60
    )
    assert run.stdout == "plain,--strategy\n"


def test_every_listed_command_can_be_loaded() -> None:
    context = click.Context(main.cli)
    for name in main.cli.list_commands(context):
        command = main.cli.get_command(context, name)
        assert command is not None
        assert command.help


def test_a_reader_that_leaves_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "menura", "assets", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 141
    assert errors == b""


def test_a_full_disk_under_standard_output_is_told() -> None:
    with open("/dev/full", "wb") as full:
        run = subprocess.run(
            [sys.executable, "-m", "menura", "--help"], stdout=full, stderr=subprocess.PIPE, timeout=60
        )
    assert run.returncode == 1
    assert run.stderr == b"menura: standard output: No space left on device.\n"
