"""Results of three files and their report: done, converted in part, failed."""

from __future__ import annotations

from pathlib import Path

from menura.errors import ErrorDetails
from menura.types import FileResult, RunReport, StageTimes, State

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
