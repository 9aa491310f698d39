"""The command as a process: pipes, signals, a full disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CONVERT = [sys.executable, "-m", "menura", "convert", "--voice", "tiny", "--threads", "1"]


def test_standard_input_and_output(talk: Path) -> None:
    run = subprocess.run([*CONVERT, "-"], input=talk.read_bytes(), capture_output=True, timeout=120)
    assert run.returncode == 0, run.stderr
    told = run.stderr.decode()
    assert told.startswith("-  1.50 s at 24000 Hz, ")
    again = subprocess.run([*CONVERT, talk, "-o", "file.wav", "-q"], capture_output=True, timeout=120)
    assert (again.returncode, again.stdout, again.stderr) == (0, b"", b"")
    assert run.stdout == Path("file.wav").read_bytes()


def test_empty_standard_input(place: Path) -> None:
    run = subprocess.run(
        [*CONVERT, "-", "-o", "x.wav"],
        input=b"",
        capture_output=True,
        timeout=120,
        text=False,
    )
    assert run.returncode == 1
    assert run.stderr == b"menura: standard input: the file is empty.\n"
    assert not Path("x.wav").exists()


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, b"interrupted"), (signal.SIGTERM, 143, b"terminated")]
)
def test_signals_leave_nothing_half_written(long_talk: Path, number: signal.Signals, code: int, word: bytes) -> None:
    process = subprocess.Popen(
        [*CONVERT, long_talk, "-o", "out/x.wav"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 120
        while not Path("out").is_dir():  # made when the conversion begins
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "nothing was begun within two minutes"
            time.sleep(0.02)
        time.sleep(1)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == code, err
    assert out == b""
    assert word in err
    assert err.count(b"\n") == 1
    assert list(Path("out").iterdir()) == []


def test_a_full_disk(talk: Path) -> None:
    def no_large_files() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(
        [*CONVERT, talk, "-o", "out/x.wav"],
        capture_output=True,
        timeout=120,
        preexec_fn=no_large_files,  # stands in for a full disk: writing beyond it fails
        env=environment,
        check=False,
    )
    assert run.returncode == 1
    assert run.stdout == b""
    assert run.stderr.startswith(b"menura: ")
    assert run.stderr.count(b"\n") == 1
    assert list(Path("out").iterdir()) == []
