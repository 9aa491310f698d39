"""A folder from Python, as a user calls it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

import menura
from menura import BatchOptions, CancelledError, ConversionOptions, EngineOptions, FileResult, OptionError, State
from menura.types import Progress

TINY = ConversionOptions(voice="tiny")
ONE_THREAD = EngineOptions(threads=1)


@pytest.fixture
def talks(talk: Path) -> str:
    """Three recordings, one of them below, and one that isn't."""
    Path("talks/day").mkdir(parents=True)
    for name in ("a.wav", "b.wav", "day/c.wav"):
        shutil.copy(talk, Path("talks") / name)
    Path("talks/bad.wav").write_text("no recording " * 50)
    return "talks"


def test_a_folder_is_converted_once(talks: str) -> None:
    told: list[FileResult] = []
    report = menura.convert_folder(talks, "out", TINY, engine=ONE_THREAD, on_result=told.append)
    states = {result.input: result.state for result in report.files}
    assert states == {
        "talks/a.wav": State.DONE,
        "talks/b.wav": State.DONE,
        "talks/bad.wav": State.FAILED,
        "talks/day/c.wav": State.DONE,
    }
    assert sorted(result.input for result in told) == sorted(states)
    assert [result.output for result in report.files if result.output] == [
        Path("out/a.wav"), Path("out/b.wav"), Path("out/day/c.wav"),
    ]  # fmt: skip
    told.clear()
    again = menura.convert_folder(Path(talks), Path("out"), TINY, engine=ONE_THREAD, on_result=told.append)
    assert [result.resumed for result in again.files] == [True, True, False, True]
    assert [result.input for result in told] == ["talks/bad.wav"]


def test_several_sources_and_a_selection(talks: str, talk: Path) -> None:
    options = BatchOptions(include=("a.*",), recursive=False)
    report = menura.convert_folder([talks, talk, "nowhere.wav"], "out", TINY, batch=options, engine=ONE_THREAD)
    assert [(result.input, result.state.value) for result in report.files] == [
        ("talks/a.wav", "done"),
        ("talk.wav", "done"),
        ("nowhere.wav", "failed"),
    ]
    error = report.files[-1].error
    assert error is not None
    assert error.problem == "no such file"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_cancelled_run_goes_on_where_it_stopped(talks: str, talk: Path, workers: int) -> None:
    samples, rate = soundfile.read(talk)
    soundfile.write("talks/long.wav", np.tile(samples, 40), rate)
    cancel, finished = threading.Event(), list[str]()

    def stop(progress: Progress) -> None:
        if progress.file == "talks/long.wav" and (workers == 1 or finished):
            cancel.set()

    def on_result(result: FileResult) -> None:
        finished.append(result.input)

    batch = BatchOptions(workers=workers, exclude=("bad.wav",))
    with pytest.raises(CancelledError):
        menura.convert_folder(
            talks, "out", TINY, batch=batch, engine=ONE_THREAD, on_progress=stop, on_result=on_result, cancel=cancel
        )
    assert "talks/long.wav" not in finished
    assert not list(Path("out").rglob("*.part"))
    report = menura.convert_folder(talks, "out", TINY, batch=batch, engine=ONE_THREAD)
    assert {result.input for result in report.files if result.resumed} == set(finished)
    assert all(result.state is State.DONE for result in report.files)


def test_an_output_folder_that_is_the_input_is_refused(talks: str) -> None:
    with pytest.raises(OptionError) as caught:
        menura.convert_folder(talks, talks, TINY)
    assert caught.value.option == "output"


def test_a_script_needs_no_main_guard(talks: str) -> None:
    """Workers don't run it again."""
    Path("script.py").write_text(
        f"""
import menura
batch = menura.BatchOptions(workers=2, exclude=("bad.wav",))
options, engine = menura.ConversionOptions(voice="tiny"), menura.EngineOptions(threads=1)
report = menura.convert_folder({talks!r}, "out", options, batch=batch, engine=engine)
print(len(report.files), report.exit_code)
"""
    )
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("3 0\n", "")
