"""What is measured is what is told: cost, comparison in turn, documents and tables; with stand-ins for the programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from menura.bench import inputs, suites
from menura.bench.document import about_document, suites_document
from menura.bench.figures import Measurement, work_cost
from menura.bench.inputs import Recordings, recordings
from menura.bench.machine import Machine, commit
from menura.bench.measure import MeasureAnswer, MeasureRequest, measure
from menura.bench.other import Comparison, Failure, Program, compare, parse_program
from menura.bench.process import in_fresh_process, timed
from menura.bench.suites import SUITES, Outcome, Plan, Subject, SuiteResult, run_suites
from menura.bench.turns import take_turns
from menura.cli import bench as command
from menura.cli.bench_tables import problems, tables
from menura.cli.main import run
from menura.errors import MenuraError, OptionError, ResourceError, VoiceNotFoundError
from menura.options import ConversionOptions, EngineOptions
from menura.types import StageTimes

PYTHON = sys.executable
MACHINE = Machine(
    menura="0.1.0",
    commit="0123456789abcdef",
    python="3.11.7",
    packages={"torch": "2.4"},
    system="Linux",
    processor="a processor",
    logical_cores=4,
    physical_cores=2,
    memory_gb=8.0,
    device="cpu",
    threads=2,
    vector_instructions="AVX2",
    kernels="avx2",
    linear="torch's",
)


def made(wall_s: float = 6.0, audio_s: float = 60.0, **more: float) -> Measurement:
    figures = {"sgemm_gflops": 200.0, "peak_mb": 700.0, "busy_cores": 1.9} | more
    stages = StageTimes(content_s=1.0, synthesis_s=4.0)
    return Measurement(wall_s=wall_s, audio_s=audio_s, files=12, stages=stages, **figures)


def test_cost_is_wall_times_speed_by_audio() -> None:
    assert work_cost(30.0, 200.0, 60.0) == 100.0
    assert made(wall_s=30.0).cost == 100.0
    assert made(wall_s=30.0).real_time_factor == 0.5
    # A machine of half the speed takes twice as long for the same cost.
    assert made(wall_s=60.0, sgemm_gflops=100.0).cost == made(wall_s=30.0).cost


# The other program


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{PYTHON} x.py {{in}} {{out}}", (PYTHON, "x.py", "{in}", "{out}")),
        (f"'{PYTHON}' --a='b c' --from={{in}} '{{out}}'", (PYTHON, "--a=b c", "--from={in}", "{out}")),
    ],
)
def test_commands_are_split_as_a_shell_does(text: str, words: tuple[str, ...]) -> None:
    assert parse_program(text) == Program(words=words, folders=False)
    assert parse_program(f"{PYTHON} {{in_dir}} {{out_dir}}").folders


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "needs {in} and {out}"),
        (PYTHON, "needs {in} and {out}"),
        (f"{PYTHON} {{in}}", "needs {in} and {out}"),
        (f"{PYTHON} {{in}} {{out_dir}}", "needs {in} and {out}"),
        (f"{PYTHON} {{in}} {{out}} {{in_dir}}", "needs {in} and {out}"),
        (f"{PYTHON} '{{in}} {{out}}", "can't be split"),
        (f"{PYTHON} {{in}} {{out}} > log", "'>' means something to a shell"),
        (f"{PYTHON} {{in}} {{out}} && rm -r x", "'&&' means something to a shell"),
        ("no-such-program {in} {out}", "no program 'no-such-program'"),
    ],
)
def test_commands_that_cannot_be_run_are_refused(text: str, problem: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse_program(text)
    assert problem in str(caught.value)


def test_what_is_filled_in_is_neither_split_nor_interpreted() -> None:
    program = parse_program(f"{PYTHON} --from={{in}} {{out}} '$(touch owned)'")
    words = program.command(Path("a b; rm {out} $(x).wav"), Path("c'd.wav"))
    assert words == [PYTHON, "--from=a b; rm {out} $(x).wav", "c'd.wav", "$(touch owned)"]


@pytest.fixture
def sound(tmp_path: Path) -> Recordings:
    folder = tmp_path / "a folder; with $(signs)"
    folder.mkdir()
    paths = tuple(folder / name for name in ("00.wav", "01.wav"))
    for path in paths:
        path.write_bytes(b"sound")
    return Recordings(folder=folder, paths=paths, seconds=2.0)


CONVERTER = """
import pathlib, shutil, sys
name, log, source, output = sys.argv[1:5]
with open(log, "a") as stream:
    stream.write(f"{name} {pathlib.Path(source).name}\\n")
if "fails" in sys.argv and source.endswith("01.wav"):
    sys.exit("first line\\nno such voice")
if "nothing" in sys.argv:
    sys.exit(0)
if pathlib.Path(source).is_dir():
    shutil.copytree(source, output, dirs_exist_ok=True)
else:
    shutil.copy(source, output)
"""


class Fake:
    """A converter that copies, and notes when it is called."""

    def __init__(self, folder: Path) -> None:
        self.script, self.log = folder / "converter.py", folder / "log"
        self.script.write_text(CONVERTER)

    def program(self, name: str, *more: str, folders: bool = False) -> Program:
        places = ("{in_dir}", "{out_dir}") if folders else ("{in}", "{out}")
        return Program(words=(PYTHON, str(self.script), name, str(self.log), *places, *more), folders=folders)

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return Fake(tmp_path)


def test_both_programs_run_in_turn(fake: Fake, sound: Recordings) -> None:
    found = compare(fake.program("other"), fake.program("menura"), sound, rounds=2)
    assert fake.calls == ["menura 00.wav", "other 00.wav", "menura 01.wav", "other 01.wav"] * 2
    assert (found.failures, found.starts, found.audio_s) == ((), 2, 4.0)
    assert found.times_menura == pytest.approx(found.wall_s / found.menura_wall_s)
    assert found.peak_mb > 1
    assert not (Path.cwd() / "owned").exists()


def test_a_program_for_folders_is_started_once(fake: Fake, sound: Recordings) -> None:
    found = compare(fake.program("other", folders=True), fake.program("menura", folders=True), sound)
    assert fake.calls == [f"menura {sound.folder.name}", f"other {sound.folder.name}"]
    assert (found.starts, found.audio_s, found.failures) == (1, 4.0, ())


def test_failures_of_the_other_program_are_told_and_left_out(fake: Fake, sound: Recordings) -> None:
    found = compare(fake.program("other", "fails"), fake.program("menura"), sound)
    assert found.failures == (Failure(input=str(sound.paths[1]), exit_code=1, error="no such voice"),)
    assert found.audio_s == 2.0
    assert found.times_menura is not None
    nothing = compare(fake.program("other", "nothing"), fake.program("menura"), sound)
    assert [(f.exit_code, f.error) for f in nothing.failures] == [(0, "it ended well, but wrote 0 of 1 file")] * 2
    assert nothing.times_menura is None
    with pytest.raises(MenuraError, match="Menura itself failed: no such voice"):
        compare(fake.program("other"), fake.program("menura", "fails"), sound)


def test_timing_knows_how_a_program_ended() -> None:
    took = timed([PYTHON, "-c", "import time, sys; time.sleep(0.2); x = b'x' * 200_000_000; sys.exit(3)"])
    assert took.exit_code == 3
    assert 0.2 <= took.wall_s < 30
    assert 190 < took.peak_mb < 1000
    assert 0 < took.cpu_s <= took.wall_s * 2
    killed = timed([PYTHON, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
    assert (killed.exit_code, killed.last_words) == (-9, "")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        timed(["nowhere/no-such-program"])


def test_a_programs_memory_is_its_own_not_that_of_who_measures_it() -> None:
    ballast = np.ones(75_000_000)  # 600 MB
    took = timed([PYTHON, "-S", "-c", "pass"])
    assert took.peak_mb < 200 < ballast.nbytes / 2**20


# Fresh processes


def _square(number: float) -> float:
    if number < 0:
        raise VoiceNotFoundError("no such voice")
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
    with pytest.raises(RuntimeError, match="KeyError: 'bug'"):
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

    monkeypatch.setattr(inputs, "_loop", fails)
    with pytest.raises(OSError, match="disk full"):
        recordings(1, 9.0, tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == list(made.paths)


def test_quick_is_short() -> None:
    for suite in SUITES.values():
        files, lengths = suite.size(quick=True)
        assert files * sum(lengths) <= 100
        assert len(lengths) == len(suite.seconds)
    assert SUITES["batch12"].size(quick=False) == (12, (5,))
    assert set(SUITES) == set(command.SUITES)


def test_turns_are_taken() -> None:
    order: list[str] = []
    taken = take_turns({"a": lambda: order.append("a"), "b": lambda: (order.append("b"), time.sleep(0.02))}, 3)
    assert order == ["a", "b"] * 4
    assert len(taken["a"].wall_s) == 3
    assert 0.02 <= taken["b"].best_s <= taken["b"].median_s
    assert taken["b"].busy_cores < 0.9


# Suites


class Stub:
    """Stands in for the measuring process: each turn is quicker, but takes more memory."""

    def __init__(self) -> None:
        self.measured: list[str] = []

    def __call__(self, task: Callable[[MeasureRequest], MeasureAnswer], request: MeasureRequest) -> MeasureAnswer:
        assert task is measure
        folder = request.paths[0].parent.name
        self.measured.append(folder)
        turn = len(self.measured)
        audio_s = sum(soundfile.info(path).duration for path in request.paths)
        figures = made(wall_s=10.0 / turn, audio_s=audio_s, peak_mb=500.0 + turn)
        return MeasureAnswer(loaded=figures, again=made(wall_s=1.0) if request.again else None, machine=MACHINE)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    stub = Stub()
    monkeypatch.setattr(suites, "in_fresh_process", stub)
    return stub


def test_suites_take_turns_and_the_best_counts(tmp_path: Path, stub: Stub) -> None:
    plan = Plan(suites=("five-minutes", "memory"), quick=True, rounds=2)
    subject = Subject(options=ConversionOptions(), engine=EngineOptions())
    outcome = run_suites(subject, plan, tmp_path, lambda _: None)
    assert stub.measured == ["1x20s", "1x5s", "1x30s", "1x60s"] * 2
    assert outcome.machine == MACHINE
    five, memory = outcome.results
    assert (five.main.wall_s, five.main.peak_mb) == (2.0, 505.0)
    assert [length.audio_s for length in memory.lengths] == [5, 30, 60]
    assert memory.main == memory.lengths[-1]
    assert memory.main.peak_mb == 508.0


def test_a_command_that_fails_is_told(tmp_path: Path, stub: Stub) -> None:
    subject = Subject(options=ConversionOptions(voice="nobody"), engine=EngineOptions(home=tmp_path))
    with pytest.raises(MenuraError, match=r"exit code 1: menura: .*nobody"):
        run_suites(subject, Plan(suites=("batch12",), quick=True), tmp_path, lambda _: None)
    assert stub.measured == ["3x2s"]


def test_the_command_line_is_that_of_convert(tmp_path: Path) -> None:
    options = ConversionOptions(voice="a b", index=Path("x.index"), f0="rmvpe")
    engine = EngineOptions(device="cpu", threads=2, cudnn=False, home=tmp_path)
    words = Subject(options=options, engine=engine).program(folders=True).command(Path("in"), Path("out"))
    assert words[:4] == [PYTHON, "-m", "menura", "convert"]
    line = " ".join(words[4:])
    assert line == (
        f"in -o out --quiet --voice a b --f0 rmvpe --device cpu --index x.index --threads 2 --home {tmp_path} "
        "--no-cudnn"
    )


# Documents and tables


def result(suite: str = "batch12", *, comparisons: tuple[Comparison, ...] = ()) -> SuiteResult:
    return SuiteResult(
        suite=suite,
        main=made(),
        cold=made(wall_s=10.0),
        cold_one=made(wall_s=4.0, audio_s=5.0),
        again=made(wall_s=0.5, audio_s=5.0),
        comparisons=comparisons,
    )


def comparison(*failures: Failure) -> Comparison:
    return Comparison(
        command="other {in} {out}",
        starts=12,
        audio_s=60.0,
        wall_s=30.0,
        menura_wall_s=10.0,
        peak_mb=2000.0,
        menura_peak_mb=700.0,
        failures=failures,
    )


def test_the_document_has_each_suite_by_name() -> None:
    document = suites_document(Outcome(machine=MACHINE, results=(result(),)), full_size=False)
    suite = json.loads(json.dumps(document))["batch12"]
    assert (suite["wall_s"], suite["audio_s"], suite["sgemm_gflops"], suite["cost"]) == (6.0, 60.0, 200.0, 20.0)
    assert suite["peak_mb"] == 700.0
    assert suite["stages"]["synthesis"] == 4.0
    assert suite["cold"]["wall_s"] == 10.0
    assert suite["again"]["cost"] == 20.0
    assert "target_cost" not in suite


def test_only_the_full_size_voice_has_targets() -> None:
    outcome = Outcome(machine=MACHINE, results=(result(), result("hour")))
    document = suites_document(outcome, full_size=True)
    assert document["batch12"]["target_cost"] < document["batch12"]["again"]["target_cost"]
    assert "target_cost" not in document["hour"]


def test_tables_tell_every_figure() -> None:
    outcome = Outcome(machine=MACHINE, results=(result(comparisons=(comparison(),)),))
    document = suites_document(outcome, full_size=True)
    document["about"] = about_document(MACHINE, voice="wren", quick=True)
    lines = list(tables(document))
    text = "\n".join(lines)
    assert "0123456789ab" in text
    assert "no figures to compare" in text
    loaded = next(line for line in lines if "networks loaded" in line).split()
    assert loaded[-8:] == ["12", "60.0", "6.00", "0.100", "20.0", "85", "1.90", "700"]
    assert next(line for line in lines if line.startswith("batch12, cost")).split()[-3:] == ["13.3", "0.0", "0.0"]
    assert next(line for line in lines if "12 starts" in line).split()[-5:] == ["10.00", "3.00", "2000", "700", "0"]
    assert problems(document) == []


def test_problems_name_input_and_exit_code() -> None:
    failed = comparison(Failure(input="00.wav", exit_code=3, error="no such voice"))
    document = suites_document(Outcome(machine=MACHINE, results=(result(comparisons=(failed,)),)), full_size=False)
    assert problems(document) == ["00.wav: the other program ended with exit code 3: no such voice"]


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
        (("--full-size", "--voice", "wren"), "--full-size and --voice exclude each other"),
        (("--full-size", "--index", "x.index"), "--full-size and --index exclude each other"),
        (("--compare", "copy {in}"), "compare: the command needs {in} and {out}"),
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


def test_where_the_document_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = comparison(Failure(input="00.wav", exit_code=3, error="no such voice"))
    documents = []
    for comparisons in ((), (failed,)):
        outcome = Outcome(machine=MACHINE, results=(result(comparisons=comparisons),))
        about = about_document(MACHINE, voice="wren", quick=False)
        documents.append({**suites_document(outcome, full_size=False), "about": about})
    document = json.loads(json.dumps(documents[0]))
    monkeypatch.setattr(command, "_measured", lambda request: documents[0])
    assert run(["bench", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == document
    assert run(["bench", "--json", "--quick"]) == 0
    assert json.loads(capsys.readouterr().out) == document
    assert run(["bench", "--json", str(tmp_path / "new" / "figures.json")]) == 0
    assert "networks loaded" in capsys.readouterr().out
    assert json.loads((tmp_path / "new" / "figures.json").read_text()) == document
    monkeypatch.setattr(command, "_measured", lambda request: documents[1])
    assert run(["bench"]) == 1
    assert "00.wav: the other program ended with exit code 3: no such voice" in capsys.readouterr().err
