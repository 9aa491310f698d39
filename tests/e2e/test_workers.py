"""Several processes share a batch: the same files, whatever happens to one of them."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from menura import ConversionOptions, Converter, EngineOptions, VoiceNotFoundError
from menura.cli.main import run
from menura.jobs.journal import JOURNAL_NAME
from menura.jobs.processes import Processes, process_count
from menura.jobs.scheduler import Hooks, share
from menura.loading import resolve
from menura.options import BatchOptions
from menura.system.files import parts_folder
from menura.types import FileResult, Item, Progress, RunReport, State
from menura.voices.assets import home_folder

ONE_THREAD = EngineOptions(threads=1)
TINY = ConversionOptions(voice="tiny")
IN_PARTS = ConversionOptions(voice="tiny", part_length=20)


def share_out(items: list[Item], workers: int, hooks: Hooks, options: ConversionOptions = TINY) -> RunReport:
    request = resolve(options, home_folder(None))
    return share(items, Processes(request, ONE_THREAD, workers), workers=workers, request=request, hooks=hooks)


@pytest.fixture
def items(talk: Path) -> list[Item]:
    for number in range(4):
        shutil.copy(talk, f"{number}.wav")
    Path("1.wav").write_text("no recording " * 50)
    return [Item(source=Path(f"{number}.wav"), output=Path("out") / f"{number}.wav") for number in range(4)]


def test_workers_do_what_one_process_does(items: list[Item]) -> None:
    told: dict[int, FileResult] = {}
    seen: list[Progress] = []
    report = share_out(items, 2, Hooks(on_progress=seen.append, on_result=told.__setitem__))
    assert [result.state.value for result in report.files] == ["done", "failed", "done", "done"]
    assert [result.input for result in report.files] == [str(item.source) for item in items]
    assert [told[number] for number in range(4)] == list(report.files)
    assert sorted(report.model_loads.values()) == [2, 2, 2]
    assert seen[-1].files == 4
    assert not multiprocessing.active_children()
    Converter(ONE_THREAD).convert("0.wav", "alone.wav", TINY)
    for number in (0, 2, 3):
        assert Path(f"out/{number}.wav").read_bytes() == Path("alone.wav").read_bytes()


@pytest.fixture
def minute(talk: Path) -> Path:
    """A minute, so that there is time to kill who converts it."""
    samples, rate = soundfile.read(talk, dtype="float32")
    soundfile.write("minute.wav", np.tile(samples, 40), rate)
    return Path("minute.wav")


def test_a_killed_worker_s_file_is_done_by_another(items: list[Item], minute: Path) -> None:
    items[1] = Item(source=minute, output=Path("out/minute.wav"))
    killed: list[int] = []

    def kill(progress: Progress) -> None:
        if not killed and progress.file == str(minute):
            victim = next(p for p in multiprocessing.active_children() if p.name == "menura-worker-0")
            killed.append(victim.pid or 0)
            os.kill(killed[0], signal.SIGKILL)

    report = share_out(items, 1, Hooks(on_progress=kill))
    assert len(killed) == 1
    assert [result.state.value for result in report.files] == ["done"] * 4
    assert sorted(path.name for path in Path("out").iterdir()) == ["0.wav", "2.wav", "3.wav", "minute.wav"]


def test_a_file_that_ends_every_process_is_given_up(minute: Path) -> None:
    def kill(_: Progress) -> None:
        for process in multiprocessing.active_children():
            os.kill(process.pid or 0, signal.SIGKILL)

    items = [Item(source=minute, output=Path("out/minute.wav"))]
    report = share_out(items, 1, Hooks(on_progress=kill))
    assert report.files[0].state is State.FAILED
    error = report.files[0].error
    assert error is not None
    assert "signal 9" in error.problem
    assert list(Path("out").iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_workers_end_with_their_parent(minute: Path, number: signal.Signals, code: int) -> None:
    """Ctrl-C reaches the whole group, as from a terminal; a killed parent can't tell its workers anything."""
    Path("in").mkdir()
    for name in ("a.wav", "b.wav"):
        shutil.copy(minute, Path("in") / name)
    command = [sys.executable, "-m", "menura", "convert", "in", "-o", "out", "--voice", "tiny", "--threads", "1"]
    process = subprocess.Popen(
        [*command, "--workers", "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stderr is not None
    begun = process.stderr.readline()
    assert begun.startswith(b"1/2 "), begun
    if number is signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, told = process.communicate(timeout=60)  # until the workers, who share the pipe, have gone as well
    assert process.returncode == code
    assert [line for line in told.splitlines() if b"2/2 " not in line and b"interrupted" not in line] == []
    assert [path.name for path in Path("out").iterdir()] == [JOURNAL_NAME]


def test_what_is_wrong_with_the_request_is_raised(items: list[Item]) -> None:
    with pytest.raises(VoiceNotFoundError) as caught:
        share(items, Processes(ConversionOptions(voice="nobody"), ONE_THREAD, 2), workers=2)
    assert "nobody" in str(caught.value)
    assert not multiprocessing.active_children()


@pytest.fixture
def long(talk: Path) -> tuple[Path, bytes]:
    """Two minutes, and what one process makes of them."""
    samples, rate = soundfile.read(talk, dtype="float32")
    soundfile.write("long.wav", np.tile(samples, 80), rate)
    Converter(ONE_THREAD).convert("long.wav", "alone.wav", TINY)
    return Path("long.wav"), Path("alone.wav").read_bytes()


def kill(number: int) -> None:
    victim = next(p for p in multiprocessing.active_children() if p.name == f"menura-worker-{number}")
    os.kill(victim.pid or 0, signal.SIGKILL)


@pytest.mark.parametrize("killed", [False, True])
def test_workers_share_one_recording(long: tuple[Path, bytes], killed: bool) -> None:
    """Also when one of them is killed in the middle of a part."""
    source, expected = long
    shutil.copy("talk.wav", "short.wav")
    items = [Item(source=Path(name), output=Path("out") / name) for name in ("short.wav", source.name)]
    seen: list[Progress] = []
    at_s: list[float] = []
    victims = [1] if killed else []

    def watch(progress: Progress) -> None:
        seen.append(progress)
        if progress.file == str(source):
            at_s.append(time.perf_counter())
        if victims and progress.file == str(source) and progress.audio_done_s > 60:
            kill(victims.pop())

    report = share_out(items, 2, Hooks(on_progress=watch), IN_PARTS)
    assert not victims
    assert [result.state.value for result in report.files] == ["done", "done"]
    short, result = report.files
    assert (short.parts, result.parts) == (0, 6)
    assert result.parts_resumed == 0 or killed
    assert Path("out/long.wav").read_bytes() == expected
    assert sorted(path.name for path in Path("out").iterdir()) == ["long.wav", "short.wav"]
    assert sorted(report.model_loads.values()) == [2, 2, 2] or killed
    assert seen[-1].audio_done_s == pytest.approx(short.audio_s + result.audio_s)
    assert report.wall_s >= result.wall_s > at_s[-1] - at_s[0] > 0
    assert min(result.stages.content_s, result.stages.synthesis_s, result.stages.encode_s) > 0


def test_a_killed_run_is_taken_up_by_parts(long: tuple[Path, bytes], capfd: pytest.CaptureFixture[str]) -> None:
    source, expected = long
    arguments = ["convert", str(source), "-o", "out/long.wav", "--voice", "tiny", "--threads", "1", "--workers", "2"]
    arguments += ["--part-length", "20", "--json"]
    folder = parts_folder(Path("out/long.wav"))
    process = subprocess.Popen(
        [sys.executable, "-m", "menura", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while len(list(folder.glob("*.sound-*-facts"))) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.kill()
    process.communicate(timeout=60)  # until the workers have gone as well
    complete = {path: path.stat().st_mtime_ns for path in folder.glob("*.f0-*")}
    found = len(list(folder.glob("*.sound-*-facts")))
    assert len(complete) == 6
    assert run(arguments) == 0
    document = json.loads(capfd.readouterr().out)
    (file,) = document["files"]
    assert (file["parts"], file["parts_resumed"]) == (6, found)
    assert Path("out/long.wav").read_bytes() == expected
    assert [path.name for path in Path("out").iterdir()] == ["long.wav"]


def test_parts_count_as_files_do(long: tuple[Path, bytes]) -> None:
    items = [Item(source=long[0], output=Path("out.wav"))]
    batch = BatchOptions(workers=9)
    in_parts, whole = (resolve(options, home_folder(None)) for options in (IN_PARTS, TINY))
    assert process_count(items, ONE_THREAD, batch, in_parts) == 6
    assert process_count(items, ONE_THREAD, batch, whole) == 1
    assert process_count(items, EngineOptions(), BatchOptions(), in_parts) == 1
