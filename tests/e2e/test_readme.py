"""The documents say what is so: their commands and code run, their options exist, the two READMEs keep step."""

from __future__ import annotations

import dataclasses
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import faiss
import numpy as np
import pytest

from menura.cli.main import cli, run
from menura.options import DEFAULT_VOICE
from menura.voices.library import list_voices
from support.tiny import tiny_config
from support.voicefiles import write_voice

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    "README.md",
    "README.zh-CN.md",
    "docs/usage.md",
    "docs/usage.zh-CN.md",
    "docs/training.md",
    "docs/training.zh-CN.md",
    "docs/service.md",
    "docs/service.zh-CN.md",
    "docs/migration.md",
    "docs/python.md",
    "docs/architecture.md",
    "docs/performance.md",
    "docs/starter-voices.md",
)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    return [body for kind, body in BLOCK.findall(text(name)) if kind == language]


def commands(name: str) -> list[list[str]]:
    return [shlex.split(line) for block in blocks(name, "bash") for line in block.splitlines()]


@pytest.fixture
def readers_folder(
    place: Path, talk: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A working folder as the README's reader has it: a recording, a folder of them, and a voice of their own."""
    monkeypatch.setenv("MENURA_HOME", str(tmp_path_factory.mktemp("reader")))
    Path("talks").mkdir()
    for name in ("a.wav", "b.wav"):
        shutil.copy(talk, Path("talks") / name)
    config = dataclasses.replace(tiny_config(rates=(10, 6, 2, 2)), content_dim=384, content_encoder="menura-starter")
    write_voice(Path("my-voice.pth"), config)
    _write_index(Path("added_my-voice.index"), config.content_dim)
    shutil.make_archive("my-voice", "zip", ".", "my-voice.pth")
    return place


def _write_index(path: Path, dim: int) -> None:
    index = faiss.index_factory(dim, "IVF1,Flat")
    vectors = np.random.default_rng(1).standard_normal((64, dim)).astype(np.float32)
    index.train(vectors)
    index.add(vectors)
    faiss.write_index(index, str(path))


def test_the_first_two_commands_are_make_s() -> None:
    for name in ("README.md", "README.zh-CN.md"):
        assert commands(name)[:2] == [["make", "demo"], ["make", "test"]]
    makefile = text("Makefile")
    assert re.search(r"^demo:", makefile, re.MULTILINE)
    assert re.search(r"^test:", makefile, re.MULTILINE)
    assert re.search(r"^exec make test\b", text(".ci/run"), re.MULTILINE)


def test_the_readme_s_commands_run(readers_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = 0
    for command in commands("README.md"):
        if command[0] == "menura":
            assert run(command[1:]) == 0, (command, capsys.readouterr().err)
            ran += 1
    assert ran == 7
    for made in ("talk-wren.wav", "higher.flac", "podcast.wav", "converted/a.mp3", "converted/b.mp3", "out.wav"):
        assert Path(made).stat().st_size > 1000


SHOWN = ("--effects", "--loudness", "--clean-input", "--clean-output")
"""Options whose examples in docs/usage.md are run."""


def test_the_usage_page_s_examples_of_sound_run(readers_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = [command for command in commands("docs/usage.md") if any(option in command for option in SHOWN)]
    assert all(any(option in command for command in shown) for option in SHOWN)
    for command in shown:
        assert run(command[1:]) == 0, (command, capsys.readouterr().err)
        assert Path(command[command.index("-o") + 1]).stat().st_size > 1000


def test_the_commands_on_pitch_run(place: Path, talk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = text("docs/usage.md")
    section = document.split("\n### Pitch estimators")[1].split("\n### Formats")[0]
    section += document.split("\n## menura f0")[1].split("\n## ")[0]
    for command in (shlex.split(line) for _, block in BLOCK.findall(section) for line in block.splitlines()):
        if command[0] == "menura":
            assert run(command[1:]) == 0, (command, capsys.readouterr().err)
    sounds = [f"{name}.wav" for name in ("talk-crepe", "talk-pm", "tuned", "high", "moved", "talk-given")]
    for made in (*sounds, "talk.csv", "talk.png"):
        assert Path(made).stat().st_size > 1000


@pytest.mark.parametrize("number", range(len(blocks("README.md", "python"))))
def test_the_readme_s_python_runs(readers_folder: Path, number: int, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(blocks("README.md", "python")[number], f"README.md, block {number}", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_the_examples_of_voices_run(readers_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examples = [command for command in commands("docs/usage.md") if {"finch", "exported/", "--content"} & set(command)]
    assert len(examples) >= 6
    for command in examples:
        assert run(command[1:]) == 0, (command, capsys.readouterr().err)
    assert Path("talk-finch.wav").stat().st_size > 1000
    assert Path("exported/wren.decoder.onnx").stat().st_size > 1_000_000
    assert Path("exported/my-voice.safetensors").is_file()


def test_both_readmes_keep_step() -> None:
    english, chinese = text("README.md"), text("README.zh-CN.md")
    assert BLOCK.findall(english) == BLOCK.findall(chinese)

    def shape(document: str) -> list[str]:
        return re.findall(r"^(?:#+(?= )|\|(?=---)|- (?=\*\*))", document, re.MULTILINE)

    def figures(document: str) -> list[list[str]]:
        rows = [line.split("|")[1:-1] for line in document.splitlines() if line.startswith("|")]
        return [re.findall(r"\d[\d.]*(?:e-\d)?|not yet measured", cell) for row in rows for cell in row]

    assert shape(english) == shape(chinese)
    assert figures(english) == figures(chinese)


@pytest.mark.parametrize("name", ["usage", "training", "service"])
def test_the_translated_pages_keep_step(name: str) -> None:
    english, chinese = text(f"docs/{name}.md"), text(f"docs/{name}.zh-CN.md")
    assert BLOCK.findall(english) == BLOCK.findall(chinese)
    for document in (english, chinese):  # every option that the program has, and no other
        assert set(re.findall(r"^\| `(?:-\w, )?(--[\w-]+)", document, re.MULTILINE)) == options_of_page(name)
    assert len(re.findall("^## ", english, re.MULTILINE)) == len(re.findall("^## ", chinese, re.MULTILINE))


def options_of_page(name: str) -> set[str]:
    """The options between the marks that scripts/option_tables.py fills."""
    english = text(f"docs/{name}.md")
    tables = "".join(re.findall(r"<!-- options: .*?<!-- end of options -->", english, re.DOTALL))
    return set(re.findall(r"^\| `(?:-\w, )?(--[\w-]+)", tables, re.MULTILINE))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", text(name)):
        if "://" not in target:
            assert (ROOT / name).parent.joinpath(target).exists(), target


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_named_in_code_exist(name: str) -> None:
    for path in re.findall(r"`(?:python |scripts/test )?((?:scripts|tests|docs|cli|pipeline)/[\w./-]+)", text(name)):
        assert (ROOT / path).exists() or (ROOT / "src" / "menura" / path).exists(), path


def test_tables_of_options_are_up_to_date() -> None:
    script = ROOT / "scripts" / "option_tables.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_and_their_options_exist(name: str) -> None:
    for words in commands(name):
        for start in (i for i, word in enumerate(words) if word == "menura"):
            command: click.Command = cli
            context = click.Context(cli, info_name="menura")
            for word in words[start + 1 :]:
                if isinstance(command, click.Group):
                    found = command.get_command(context, word)
                    assert found is not None or word == "COMMAND", words
                    if found is None:
                        break
                    command, context = found, click.Context(found, parent=context)
                elif word.lstrip("[").startswith("--"):
                    known = {option for parameter in command.params for option in parameter.opts}
                    assert word.strip("[]") in known | {"--help"}, words


def test_the_default_voice_is_shipped(tmp_path: Path) -> None:
    builtin = {voice.name: voice for voice in list_voices(tmp_path) if voice.builtin}
    assert DEFAULT_VOICE in builtin
    assert ":" in builtin[DEFAULT_VOICE].source
