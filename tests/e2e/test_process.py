"""The command as a process: pipes, signals, a full disk."""

from __future__ import annotations

import json
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


def test_standard_input_is_explained(talk: Path) -> None:
    command = [*CONVERT, "-", "--explain", "--json"]
    run = subprocess.run(command, input=talk.read_bytes(), capture_output=True, timeout=120)
    assert run.returncode == 0, run.stderr
    (file,) = json.loads(run.stdout)["files"]
    assert (file["input"], file["audio_s"], file["refusal"]) == ("-", 1.5, None)
    empty = subprocess.run(command, input=b"", capture_output=True, timeout=120)
    assert empty.returncode == 1
    assert json.loads(empty.stdout)["files"][0]["refusal"]["problem"] == "the file is empty"


def test_without_standard_output_and_with_names_that_are_not_unicode(talk: Path) -> None:
    name = os.fsencode("録音\n") + b"\xff.wav"
    os.rename(talk, name)
    script = 'exec "$@" -o out.wav --report report.json >&-'
    run = subprocess.run(["sh", "-c", script, "sh", *CONVERT, name], capture_output=True, timeout=120)
    assert (run.returncode, run.stderr) == (0, b"")
    assert Path("out.wav").stat().st_size > 1000
    assert json.loads(Path("report.json").read_text())["files"][0]["input"] == os.fsdecode(name)


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


SWALLOWED = """
import os, signal, sys
from menura.cli.main import main
from support.swallow import WAYS, instead
way, number, place = sys.argv[1:4]
instead(place, lambda: WAYS[way](lambda: os.kill(os.getpid(), signal.Signals[number])))
main(sys.argv[4:])
"""
"""The command, with a signal to itself at a place, in such a way that what the handler raises is lost."""


def swallowed(way: str, number: signal.Signals, place: str, talk: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SWALLOWED, way, number.name, place, *CONVERT[3:], talk, "-o", "out/x.wav"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("way", "number", "code", "word"),
    [
        ("except", signal.SIGINT, 130, "interrupted"),
        ("del", signal.SIGINT, 130, "interrupted"),
        ("weakref", signal.SIGINT, 130, "interrupted"),
        ("callback", signal.SIGINT, 130, "interrupted"),
        ("except", signal.SIGTERM, 143, "terminated"),
    ],
)
def test_a_signal_is_not_lost_where_exceptions_are(
    talk: Path, way: str, number: signal.Signals, code: int, word: str
) -> None:
    run = swallowed(way, number, "menura.pipeline.execute:latent_noise", talk)  # in the only segment
    assert run.returncode == code, run.stderr
    assert run.stdout == ""
    told = run.stderr.splitlines()
    assert told[-1] == f"menura: {word}; finished work is kept; run the same command to resume."
    assert (len(told) == 1) == (way == "except")  # Python itself tells of what it ignores
    assert list(Path("out").iterdir()) == []


def test_a_lost_signal_comes_again_with_the_next_pass(long_talk: Path) -> None:
    run = swallowed("once", signal.SIGINT, "menura.pipeline.execute:latent_noise", long_talk)
    assert run.returncode == 130, run.stderr
    assert run.stderr == "menura: interrupted; finished work is kept; run the same command to resume.\n"
    assert list(Path("out").iterdir()) == []


def test_a_signal_lost_at_the_very_end_is_told(talk: Path) -> None:
    run = swallowed("except", signal.SIGINT, "menura.cli.convert:show_problems", talk)
    assert run.returncode == 130
    assert run.stderr == "menura: interrupted; finished work is kept; run the same command to resume.\n"
    assert [path.name for path in Path("out").iterdir()] == ["x.wav"]


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


def test_too_little_address_space_is_told_before_anything_is_loaded(talk: Path) -> None:
    def limited() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (512 * 2**20, 512 * 2**20))

    run = subprocess.run(
        [*CONVERT, talk, "-o", "x.wav"], capture_output=True, text=True, timeout=60, preexec_fn=limited
    )
    assert run.returncode == 1
    assert run.stderr.startswith("menura: the address space is limited to 537 MB.")
    assert len(run.stderr.splitlines()) == 1
