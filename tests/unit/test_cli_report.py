"""What a run tells: progress, lines, a table, one document."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from menura.cli.report import ProgressLine, document, tell_problems, tell_results, tell_timings
from menura.errors import ErrorDetails
from menura.types import FileResult, Progress, RunReport, StageTimes, State

DONE = FileResult(
    input="a.wav",
    output=Path("out/a.wav"),
    state=State.DONE,
    notes=("opus has no 44100 Hz; written at 48000 Hz.",),
    audio_s=2.0,
    output_samples=96_000,
    output_rate=48_000,
    f0_method="swift",
    transpose=-2.0,
    wall_s=0.5,
    stages=StageTimes(decode_s=0.1, synthesis_s=0.3),
    seams_s=(1.25,),
)
PARTLY = FileResult(
    input="b.wav",
    output=Path("out/b.wav"),
    state=State.WARNING,
    error=ErrorDetails(kind="decode", subject="b.wav", problem="cut off"),
    audio_s=1.0,
)
FAILED = FileResult(
    input="c.wav", output=None, state=State.FAILED, error=ErrorDetails(kind="system", problem="the disk is full")
)


def report(*files: FileResult) -> RunReport:
    return RunReport(files=files, wall_s=1.5, peak_memory_mb=100.06, model_loads={"voice:wren": 1})


def test_document_survives_json() -> None:
    made = json.loads(json.dumps(document(report(DONE, FAILED))))
    assert made["files"][0] == {
        "input": "a.wav",
        "output": str(Path("out/a.wav")),
        "state": "done",
        "error": None,
        "notes": ["opus has no 44100 Hz; written at 48000 Hz."],
        "audio_s": 2.0,
        "output_samples": 96_000,
        "output_rate": 48_000,
        "f0_method": "swift",
        "transpose": -2.0,
        "wall_s": 0.5,
        "real_time_factor": 0.25,
        "stages": {
            "decode": 0.1,
            "content": 0.0,
            "f0": 0.0,
            "retrieval": 0.0,
            "synthesis": 0.3,
            "assemble": 0.0,
            "encode": 0.0,
        },
        "seams_s": [1.25],
        "resumed": False,
    }
    assert made["files"][1]["output"] is None
    assert made["files"][1]["real_time_factor"] is None
    assert (made["wall_s"], made["peak_memory_mb"], made["model_loads"]) == (1.5, 100.1, {"voice:wren": 1})


def test_results_and_timings_are_told() -> None:
    to = io.StringIO()
    tell_results(report(DONE, PARTLY, FAILED), to)
    lines = to.getvalue().splitlines()
    assert lines[0] == f"{Path('out/a.wav')}  2.00 s at 48000 Hz, 0.50 s of work, real-time factor 0.250"
    assert lines[1] == "  note: opus has no 44100 Hz; written at 48000 Hz."
    assert len(lines) == 3
    to = io.StringIO()
    tell_timings(report(DONE, PARTLY, FAILED), to)
    rows = [line.split() for line in to.getvalue().splitlines()]
    assert [row[0] for row in rows] == ["seconds", "a.wav", "b.wav", "together", "peak"]
    assert rows[1][1:] == ["0.100", "0.000", "0.000", "0.000", "0.300", "0.000", "0.000", "0.500", "0.250"]
    assert rows[3][-1] == "0.500"


def test_problems_are_told_once_each(capsys: pytest.CaptureFixture[str]) -> None:
    again = FileResult(
        input="d.wav", output=None, state=State.FAILED, error=ErrorDetails(kind="system", problem="the disk is full")
    )
    tell_problems(report(DONE, PARTLY, FAILED, again))
    assert capsys.readouterr().err.splitlines() == [
        "menura: warning: b.wav: cut off.",
        "menura: c.wav: the disk is full.",
        "menura: 2 of 4 failed: c.wav, d.wav",
    ]
    tell_problems(report(FAILED))
    assert capsys.readouterr().err == "menura: the disk is full.\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def progress(done: int, files: int, audio_s: float | None = 6.0) -> Progress:
    return Progress(
        file=f"in/{done}.wav",
        files_begun=done + 1,
        files_done=done,
        files=files,
        audio_done_s=3.0 * done,
        audio_s=audio_s,
        wall_s=1.5,
    )


def test_progress_on_a_terminal_is_one_line_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProgressLine, "_INTERVAL_S", 0.0)
    to = Terminal()
    line = ProgressLine(quiet=False, stream=to)
    for done in (0, 1):
        line(progress(done, 2))
    assert "[--------------------] 1/2 0.wav, 0 of 6 s of sound\r" in to.getvalue()
    last = "[##########----------] 2/2 1.wav, 3 of 6 s of sound, real-time factor 0.50, 0:02 left"
    assert last in to.getvalue()
    line(progress(1, 2, None))
    assert to.getvalue().rstrip().endswith("[--------------------] 2/2 1.wav, 3 s of sound, real-time factor 0.50")
    line.close()
    assert "\n" not in to.getvalue()
    assert to.getvalue().split("\r")[-2].strip() == ""


def test_progress_elsewhere_is_a_line_a_file_and_quiet_is_quiet() -> None:
    to = io.StringIO()
    line = ProgressLine(quiet=False, stream=to)
    for done in (0, 0, 0, 1, 1):
        line(progress(done, 2))
    line.close()
    assert to.getvalue() == "1/2 0.wav\n2/2 1.wav\n"
    one = io.StringIO()
    ProgressLine(quiet=False, stream=one)(progress(0, 1))
    quiet = Terminal()
    ProgressLine(quiet=True, stream=quiet)(progress(0, 2))
    assert one.getvalue() == quiet.getvalue() == ""
