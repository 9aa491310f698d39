"""Another program in turn with Menura, and targets; with stand-ins for the programs."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from benchmarks import compare as command
from benchmarks.compare import Failure, Program, compare, main, parse_program
from benchmarks.full_size import target_lines
from benchmarks.turns import take_turns
from menura.bench.suites import Recordings
from menura.errors import MenuraError, OptionError

PYTHON = sys.executable


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
        ("no-such-program {in} {out}", "no such program"),
    ],
)
def test_commands_that_cannot_be_run_are_refused(text: str, problem: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse_program(text)
    assert problem in caught.value.problem


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
    assert [(f.exit_code, f.error) for f in nothing.failures] == [(0, "exit code 0, but 0 of 1 files written")] * 2
    assert nothing.times_menura is None
    with pytest.raises(MenuraError) as caught:
        compare(fake.program("other"), fake.program("menura", "fails"), sound)
    assert caught.value.problem == "Menura itself failed: no such voice"


def test_the_command_prints_a_row_and_says_what_failed(
    fake: Fake, sound: Recordings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "menura_program", lambda *_, folders: fake.program("menura", folders=folders))
    monkeypatch.setattr("menura.bench.suites.recordings", lambda *_: sound)
    words = [PYTHON, str(fake.script), "other", str(fake.log), "{in}", "{out}", "fails"]
    figures = tmp_path / "figures.json"
    assert main([" ".join(words), "--home", str(tmp_path), "--json", str(figures)]) == 1
    told = capsys.readouterr()
    assert told.out.splitlines()[1].split()[:4] == ["2", "starts", "2.0", told.out.splitlines()[1].split()[3]]
    assert told.err == f"{sound.paths[1]}: exit code 1: no such voice\n"
    (document,) = json.loads(figures.read_text())
    assert [failure["error"] for failure in document["failures"]] == ["no such voice"]


def test_turns_are_taken() -> None:
    order: list[str] = []
    taken = take_turns({"a": lambda: order.append("a"), "b": lambda: (order.append("b"), time.sleep(0.02))}, 3)
    assert order == ["a", "b"] * 4
    assert len(taken["a"].wall_s) == 3
    assert 0.02 <= taken["b"].best_s <= taken["b"].median_s
    assert taken["b"].busy_cores < 0.9


def test_targets_stand_beside_the_costs() -> None:
    document = {"batch12": {"cost": 65.5, "again": {"cost": 120.0}}, "hour": {"cost": 60.0}, "about": {}}
    assert list(target_lines(document)) == [
        "batch12, main: cost 65.5, target 85",
        "batch12, again: cost 120.0, target 155",
    ]
