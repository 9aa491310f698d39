"""What is measured is what is told: cost, documents and tables; with stand-ins for the measuring process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from menura.bench import suites
from menura.bench.conversion import commit, measure_conversion
from menura.bench.suites import (
    SUITES,
    Measurement,
    Plan,
    SuiteResult,
    convert_command,
    in_fresh_process,
    measure_suites,
    recordings,
    timed,
)
from menura.cli import bench as command
from menura.cli.bench import tables
from menura.cli.main import run
from menura.errors import MenuraError, ResourceError, VoiceNotFoundError
from menura.loading import resolve
from menura.options import ConversionOptions, EngineOptions
from menura.types import StageTimes

PYTHON = sys.executable
MACHINE = {
    "menura": "0.2.0",
    "commit": "0123456789abcdef",
    "python": "3.11.7",
    "packages": {"torch": "2.4"},
    "system": "Linux",
    "processor": "a processor",
    "logical_cores": 4,
    "physical_cores": 2,
    "memory_gb": 8.0,
    "device": "cpu",
    "threads": 2,
    "vector_instructions": "AVX2",
    "kernels": "avx2",
}


def made(wall_s: float = 6.0, audio_s: float = 60.0, **more: float) -> Measurement:
    figures = {"sgemm_gflops": 200.0, "peak_mb": 700.0, "busy_cores": 1.9} | more
    stages = StageTimes(content_s=1.0, synthesis_s=4.0)
    return Measurement(wall_s=wall_s, audio_s=audio_s, files=12, stages=stages, **figures)


def test_cost_is_wall_times_speed_by_audio() -> None:
    assert made(wall_s=30.0).cost == 100.0
    assert made(wall_s=30.0).real_time_factor == 0.5
    # A machine of half the speed takes twice as long for the same cost.
    assert made(wall_s=60.0, sgemm_gflops=100.0).cost == made(wall_s=30.0).cost


def test_timing_knows_how_a_program_ended() -> None:
    # In a fresh process: a child's peak is at least its parent's, which has torch loaded here.
    took = in_fresh_process(
        timed, [PYTHON, "-c", "import time, sys; time.sleep(0.2); x = b'x' * 200_000_000; sys.exit(3)"]
    )
    assert took.exit_code == 3
    assert 0.2 <= took.wall_s < 30
    assert 190 < took.peak_mb < 1000
    assert 0 < took.cpu_s <= took.wall_s * 2
    killed = timed([PYTHON, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
    assert (killed.exit_code, killed.last_line) == (-9, "")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        timed(["nowhere/no-such-program"])


def test_who_measures_memory_is_small_itself() -> None:
    """A program's largest memory is at least that of the process which starts it."""
    code = "import sys; import menura.bench.suites; print('torch' in sys.modules)"
    took = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True)
    assert took.stdout == "False\n"


# Fresh processes


def _square(number: float) -> float:
    if number < 0:
        raise VoiceNotFoundError(None, "no such voice")
    if number == 0:
        os._exit(5)
    return number**2


def _broken(_: None) -> None:
    raise KeyError("bug")


def test_fresh_processes_answer_raise_or_are_gone() -> None:
    assert in_fresh_process(_square, 3.0) == 9.0
    with pytest.raises(VoiceNotFoundError, match="no such voice"):
        in_fresh_process(_square, -1.0)
    with pytest.raises(ResourceError, match="exit code 5"):
        in_fresh_process(_square, 0.0)
    with pytest.raises(KeyError, match="bug"):
        in_fresh_process(_broken, None)


# What is converted


def test_recordings_are_made_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = recordings(3, 1.25, tmp_path)
    assert sorted(made.folder.iterdir()) == list(made.paths)
    sounds = [soundfile.read(path, dtype="float32")[0] for path in made.paths]
    assert [len(sound) for sound in sounds] == [20_000] * 3
    assert not np.array_equal(sounds[0], sounds[1])
    assert min(np.abs(sound).max() for sound in sounds) > 0.02
    before = [path.stat().st_mtime_ns for path in made.paths]
    assert recordings(3, 1.25, tmp_path) == made
    assert [path.stat().st_mtime_ns for path in made.paths] == before

    def fails(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(suites, "_loop", fails)
    with pytest.raises(ResourceError):
        recordings(1, 9.0, tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == list(made.paths)


def test_quick_is_short() -> None:
    for suite in SUITES.values():
        assert suite.quick_files * sum(suite.quick_seconds) <= 100
        assert len(suite.quick_seconds) == len(suite.seconds)


# Suites


class Stub:
    """Stands in for the measuring process: each turn is quicker, but takes more memory."""

    def __init__(self) -> None:
        self.measured: list[str] = []

    def __call__(
        self,
        task: Callable[..., object],
        paths: tuple[Path, ...],
        _options: ConversionOptions,
        _engine: EngineOptions,
        again_runs: int,
    ) -> tuple[Measurement, Measurement | None, dict[str, object]]:
        assert task is measure_conversion
        folder = paths[0].parent.name
        self.measured.append(folder)
        turn = len(self.measured)
        audio_s = sum(soundfile.info(path).duration for path in paths)
        figures = made(wall_s=10.0 / turn, audio_s=audio_s, peak_mb=500.0 + turn)
        return figures, made(wall_s=1.0) if again_runs else None, MACHINE


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    stub = Stub()
    monkeypatch.setattr(suites, "in_fresh_process", stub)
    return stub


def test_suites_take_turns_and_the_best_counts(tmp_path: Path, stub: Stub) -> None:
    plan = Plan(
        suites=("five-minutes", "memory"),
        options=ConversionOptions(voice="heron"),
        engine=EngineOptions(),
        quick=True,
        rounds=2,
    )
    document = json.loads(json.dumps(measure_suites(plan, tmp_path, lambda _: None)))
    assert stub.measured == ["1x20s", "1x5s", "1x30s", "1x60s"] * 2
    assert document["about"] == {**MACHINE, "voice": "heron", "quick": True}
    five, memory = document["five-minutes"], document["memory"]
    assert (five["wall_s"], five["peak_mb"]) == (2.0, 505.0)
    assert [length["audio_s"] for length in memory["lengths"]] == [5, 30, 60]
    assert memory["wall_s"] == memory["lengths"][-1]["wall_s"]
    assert memory["peak_mb"] == 508.0


def test_a_command_that_fails_is_told(tmp_path: Path, stub: Stub) -> None:
    options, engine = ConversionOptions(voice="nobody"), EngineOptions(home=tmp_path)
    with pytest.raises(MenuraError) as caught:
        measure_suites(Plan(suites=("batch12",), options=options, engine=engine, quick=True), tmp_path, lambda _: None)
    assert caught.value.subject == "menura convert"
    assert "exit code 1: menura: " in caught.value.problem
    assert "nobody" in caught.value.problem
    assert stub.measured == ["3x2s"]


# Documents and tables


def test_the_command_line_is_that_of_convert(tmp_path: Path) -> None:
    options = ConversionOptions(voice="a b", index=Path("x.index"), index_rate=0.5, f0="rmvpe")
    engine = EngineOptions(device="cpu", threads=2, cudnn=False, home=tmp_path)
    words = convert_command(["in"], "out", options, engine)
    assert words[:4] == [PYTHON, "-m", "menura", "convert"]
    assert " ".join(words[4:]) == (
        "in -o out --quiet --voice a b --f0 rmvpe --device cpu --precision auto --index x.index --index-rate 0.5 "
        f"--threads 2 --home {tmp_path} --no-cudnn"
    )


RESULT = SuiteResult(
    loaded=(made(),),
    others={
        "cold": made(wall_s=10.0),
        "cold_one": made(wall_s=4.0, audio_s=5.0),
        "again": made(wall_s=0.5, audio_s=5.0),
    },
)
DOCUMENT = {"batch12": RESULT.document(), "about": {**MACHINE, "voice": "wren", "quick": True}}


def test_the_document_has_every_figure() -> None:
    suite = json.loads(json.dumps(DOCUMENT))["batch12"]
    assert (suite["wall_s"], suite["audio_s"], suite["sgemm_gflops"], suite["cost"]) == (6.0, 60.0, 200.0, 20.0)
    assert suite["peak_mb"] == 700.0
    assert suite["stages"]["synthesis"] == 4.0
    assert suite["cold"]["wall_s"] == 10.0
    assert suite["again"]["cost"] == 20.0


def test_tables_have_every_figure() -> None:
    lines = list(tables(DOCUMENT))
    text = "\n".join(lines)
    assert "0123456789ab" in text
    assert "quick: not comparable" in text
    loaded = next(line for line in lines if "networks loaded" in line).split()
    assert loaded[-7:] == ["12", "60.0", "6.00", "0.100", "20.0", "1.90", "700"]
    assert next(line for line in lines if line.startswith("batch12, cost")).split()[-3:] == ["13.3", "0.0", "0.0"]


def test_commits_are_those_of_the_package_s_own_checkout(tmp_path: Path) -> None:
    package = tmp_path / "src" / "menura"
    package.mkdir(parents=True)
    assert commit(package) is None

    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    (package / "a.py").write_text("a = 1\n")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    clean = commit(package)
    assert clean is not None
    assert len(clean) == 40
    (package / "a.py").write_text("a = 2\n")
    assert commit(package) == f"{clean}-dirty"
    elsewhere = tmp_path / "venv" / "lib" / "menura"
    elsewhere.mkdir(parents=True)
    assert commit(elsewhere) is None


# The command line


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--suite", "week"), "'week' is not one of"),
        (("--rounds", "0"), "--rounds"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_done(
    arguments: tuple[str, ...], problem: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["bench", *arguments, "--home", str(tmp_path)]) == 2
    assert problem in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_misspelt_voice_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--voice", "wern", "--home", str(tmp_path)]) == 1
    assert "wren" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("given", "rate"), [((), 0.0), (("--index", "x.index"), 0.75)])
def test_an_index_that_is_given_counts_whatever_the_voice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], rate: float
) -> None:
    (tmp_path / "x.index").touch()
    monkeypatch.chdir(tmp_path)
    plans: list[Plan] = []
    monkeypatch.setattr(command, "measure_suites", lambda plan, *_: plans.append(plan) or DOCUMENT)
    assert run(["bench", *given]) == 0
    request = resolve(plans[0].options, tmp_path)
    assert (request.index_rate, request.index_path is not None) == (rate, rate > 0)


def test_where_the_document_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads(json.dumps(DOCUMENT))
    monkeypatch.setattr(command, "measure_suites", lambda *_: DOCUMENT)
    assert run(["bench", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == document
    assert run(["bench", "--json", "--quick"]) == 0
    assert json.loads(capsys.readouterr().out) == document
    assert run(["bench", "--json", str(tmp_path / "new" / "figures.json")]) == 0
    assert "networks loaded" in capsys.readouterr().out
    assert json.loads((tmp_path / "new" / "figures.json").read_text()) == document
