"""Killed at any moment, the same command finishes what is missing and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from menura.cli.main import run
from menura.jobs.journal import JOURNAL_NAME

CONVERT = ["convert", "talks", "-o", "out", "--voice", "tiny", "--threads", "1"]
FILES = 6


@pytest.fixture
def talks(place: Path, talk: Path) -> Path:
    """Recordings of 1.5 to 12 s."""
    samples, rate = soundfile.read(talk, dtype="float32")
    Path("talks/day").mkdir(parents=True)
    for number in range(FILES):
        name = f"talks/{'day/' if number % 2 else ''}{number}.wav"
        soundfile.write(name, np.tile(samples, 1 + 7 * (number % 2)) * (0.5 + 0.05 * number), rate)
    return Path("talks")


def outputs(folder: Path = Path("out")) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != JOURNAL_NAME)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def finished(folder: Path = Path("out")) -> list[str]:
    """Names of whole outputs; unread, for a temporary file may be renamed between two looks at it."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.wav"))


def kill_after(wanted: int) -> None:
    """Start the conversion and kill it as soon as `wanted` outputs stand there."""
    command = [sys.executable, "-m", "menura", *CONVERT]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            deadline = time.monotonic() + 120
            while len(finished()) < wanted:
                assert process.poll() is None, process.stderr and process.stderr.read()
                assert time.monotonic() < deadline, "nothing was converted within two minutes"
                time.sleep(0.005)
        finally:
            process.kill()


def convert(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert run([*CONVERT, "--json", *arguments]) == code, capsys.readouterr().err
    document = json.loads(capsys.readouterr().out)
    assert isinstance(document, dict)
    return document


def resumed(document: dict[str, Any]) -> list[bool]:
    return [file["resumed"] for file in document["files"]]


def test_kill_and_resume(talks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wanted in (1, 3):
        kill_after(wanted)
    times = {name: os.stat(Path("out") / name).st_mtime_ns for name in finished()}
    done = {line["output"]["path"] for line in map(json.loads, (Path("out") / JOURNAL_NAME).read_text().splitlines())}
    assert len(times) - len(done) <= 1  # killed between a file's last move and its line
    document = convert(capsys)
    made = outputs()
    assert sorted(made) == sorted(path.relative_to("talks").as_posix() for path in talks.rglob("*.wav"))
    assert sum(resumed(document)) == len(done) >= 2
    for name, before in times.items():
        if str((Path("out") / name).resolve()) in done:
            assert os.stat(Path("out") / name).st_mtime_ns == before, f"{name} was written twice"
    shutil.rmtree("out")
    convert(capsys)
    assert outputs() == made


@pytest.mark.usefixtures("talks")
def test_the_next_run_removes_what_a_killed_one_left() -> None:
    kill_after(1)
    code = """if True:
        import os
        from menura.audio.encode import AudioWriter
        writer = AudioWriter("out/0.wav", 16000)
        os.kill(os.getpid(), 9)
    """
    subprocess.run([sys.executable, "-c", code], check=False)
    assert len(list(Path("out").glob(".0.wav.*"))) == 1
    with subprocess.Popen([sys.executable, "-m", "menura", *CONVERT, "-q"]) as process:
        assert process.wait(120) == 0
    assert not list(Path("out").rglob(".*.part"))


def test_what_is_done_again_and_what_not(talks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = convert(capsys, "--report", "report.json")
    assert resumed(first) == [False] * FILES
    assert json.loads(Path("report.json").read_text()) == first
    assert sorted(first["model_loads"].values()) == [1, 1, 1]
    again = convert(capsys)
    assert resumed(again) == [True] * FILES
    assert again["model_loads"] == {}
    for before, after in zip(first["files"], again["files"], strict=True):
        assert {**before, "resumed": True} == after
    made = outputs()
    assert resumed(convert(capsys, "--force", "--workers", "2")) == [False] * FILES
    assert outputs() == made
    samples, rate = soundfile.read("talks/0.wav")
    soundfile.write("talks/0.wav", samples[:8000], rate)
    Path("out/2.wav").write_bytes(b"damaged")
    Path("out/4.wav").unlink()
    flags = {file["input"]: file["resumed"] for file in convert(capsys)["files"]}
    assert {name for name, flag in flags.items() if not flag} == {"talks/0.wav", "talks/2.wav", "talks/4.wav"}
    assert resumed(convert(capsys, "--precision", "exact", "--include", "0.wav")) == [False]
    assert resumed(convert(capsys, "--precision", "exact", "--include", "0.wav")) == [True]
    assert resumed(convert(capsys, "--transpose", "2")) == [False] * FILES
    assert resumed(convert(capsys, "--transpose", "2", "--include", "day/*")) == [True] * (FILES // 2)
    assert resumed(convert(capsys, "--transpose", "2", "--exclude", "day/*", "--force")) == [False] * (FILES // 2)
    assert run([*CONVERT, "--transpose", "2"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{FILES} of {FILES} converted")


def test_failed_ones_are_tried_again(talks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("talks/bad.wav").write_text("no recording " * 50)
    first = convert(capsys, "--no-recursive", code=1)
    assert [file["state"] for file in first["files"]] == ["done", "done", "done", "failed"]
    again = convert(capsys, "--no-recursive", code=1)
    assert resumed(again) == [True, True, True, False]
    shutil.copy("talks/0.wav", "talks/bad.wav")
    assert resumed(convert(capsys, "--no-recursive")) == [True, True, True, False]


def test_nothing_is_left_to_choose(talks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = convert(capsys, "--include", "*.flac", code=1)
    assert document["files"][0]["error"]["subject"] == "talks"


def test_a_long_recording_killed_at_any_moment_goes_on(home: Path, long_talk: Path) -> None:
    folder = Path("long")
    folder.mkdir()
    samples, rate = soundfile.read(long_talk, stop=130 * 16_000)
    soundfile.write(folder / "long.flac", samples, rate)
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-m", "support.killed_parts", str(folder / "long.flac"), str(home), "1", "4"]
    ran = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(tests)}, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    parts, found = map(int, ran.stdout.split())
    assert parts == 7
    assert found > 0
