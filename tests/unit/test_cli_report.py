"""What a run tells: progress, lines, a table, one document."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import time
from pathlib import Path

import pytest

from menura.cli.convert import ProgressLine, show_problems, show_results, show_timings
from menura.cli.terminal import LiveLine, columns_of
from menura.errors import ErrorDetails
from menura.types import FileResult, Progress, State
from support.results import DONE, FAILED, PARTLY, report


def test_results_are_shown_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    again = dataclasses.replace(DONE, input="d.wav", resumed=True)
    show_results(report(DONE, PARTLY, FAILED, again), err=False)
    assert capsys.readouterr().out.splitlines() == [
        f"{Path('out/a.wav')}  2.00 s at 48000 Hz, in 0.50 s, 4.0 times faster than real time",
        "  note: opus has no 44100 Hz; written at 48000 Hz.",
        f"{Path('out/b.wav')}  1.00 s at 0 Hz, no sound",
        "3 of 4 converted (1 by an earlier run; --force converts them again), 0:03 of sound in 0:02",
    ]
    show_results(report(dataclasses.replace(DONE, wall_s=5.0)), err=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "2.5 times slower than real time" in captured.err
    assert "converted" not in captured.err


def test_timings(capsys: pytest.CaptureFixture[str]) -> None:
    long = dataclasses.replace(PARTLY, input="a/very/long/folder/with/b.wav")
    show_timings(report(DONE, long, FAILED), err=False)
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines]
    assert [row[0] for row in rows] == ["seconds", "a.wav", "…long/folder/with/b.wav", "total", "peak"]
    assert rows[1][1:] == ["0.100", "0.000", "0.000", "0.000", "0.300", "0.000", "0.000", "0.500", "0.250"]
    assert rows[3][-1] == "0.500"
    assert len({len(line) for line in lines[:4]}) == 1


def test_problems_are_shown_once_each(capsys: pytest.CaptureFixture[str]) -> None:
    again = FileResult(
        input="d.wav", output=None, state=State.FAILED, error=ErrorDetails(kind="system", problem="the disk is full")
    )
    show_problems(report(DONE, PARTLY, FAILED, again))
    assert capsys.readouterr().err.splitlines() == [
        "menura: warning: b.wav: cut off.",
        "menura: c.wav: the disk is full.",
        "menura: 2 of 4 failed: c.wav, d.wav",
    ]
    show_problems(report(FAILED))
    assert capsys.readouterr().err == "menura: the disk is full.\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def progress(done: int, files: int, audio_s: float | None = 6.0, file: str = "in/{}.wav") -> Progress:
    return Progress(
        file=file.format(done),
        files_begun=done + 1,
        files_done=done,
        files=files,
        audio_done_s=3.0 * done,
        audio_s=audio_s,
        wall_s=1.5,
    )


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """One of 80 columns, on which every call draws."""
    monkeypatch.setattr(LiveLine, "_INTERVAL_S", 0.0)
    monkeypatch.setattr(LiveLine, "_PULSE_S", 60.0)
    monkeypatch.setenv("COLUMNS", "80")
    return Terminal()


def test_progress_on_a_terminal_is_one_line_that_goes_away(terminal: Terminal) -> None:
    with contextlib.redirect_stderr(terminal), contextlib.closing(ProgressLine(quiet=False)) as line:
        assert terminal.getvalue() == "\rloading ... 0:00"
        for done in (0, 1):
            line(progress(done, 2))
        assert "[----------] 1/2 in/0.wav  0:00 of 0:06\r" in terminal.getvalue()
        assert "[#####-----] 2/2 in/1.wav  0:03 of 0:06, 2.0x real time, 0:02 left" in terminal.getvalue()
        line(progress(1, 2, None))
        assert terminal.getvalue().rstrip().endswith("[----------] 2/2 in/1.wav  0:03, 2.0x real time")
    assert "\n" not in terminal.getvalue()
    assert terminal.getvalue().split("\r")[-2].strip() == ""
    assert terminal.getvalue().endswith("\r")


@pytest.mark.parametrize("columns", [10, 20, 40, 80, 200])
@pytest.mark.parametrize("file", ["a folder/with a rather long name of one.flac", "録音/" * 20 + "録音.wav", "a"])
def test_progress_fits_any_terminal(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, columns: int, file: str
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    with contextlib.redirect_stderr(terminal), contextlib.closing(ProgressLine(quiet=False)) as line:
        for done in range(3):
            line(progress(done, 3, file=file))
    drawn = terminal.getvalue().split("\r")
    assert all(columns_of(text) < columns for text in drawn)
    assert columns < 80 or any(text.rstrip().endswith("left") for text in drawn)


def test_progress_is_drawn_again_while_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LiveLine, "_PULSE_S", 0.01)
    monkeypatch.setattr(LiveLine, "_INTERVAL_S", 0.0)
    to = Terminal()
    with contextlib.redirect_stderr(to), contextlib.closing(ProgressLine(quiet=False)):
        end_s = time.monotonic() + 10
        while to.getvalue().count("loading") < 3 and time.monotonic() < end_s:
            time.sleep(0.01)
    assert to.getvalue().count("loading") >= 3


def test_progress_elsewhere_is_a_line_a_file_and_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    for quiet in (False, True):
        with contextlib.closing(ProgressLine(quiet=quiet)) as line:
            for done in (0, 0, 1):
                line(progress(done, 2))
    assert capsys.readouterr().err == "1/2 in/0.wav\n2/2 in/1.wav\n"
    with contextlib.closing(ProgressLine(quiet=False)) as line:
        line(progress(0, 1))
    assert capsys.readouterr().err == ""
