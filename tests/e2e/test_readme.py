"""The documents say what is so: their options, files and links exist, and both languages keep step."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from menura.cli.main import cli
from menura.options import DEFAULT_VOICE
from menura.voices.library import list_voices

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
DOCUMENTS = ("README.md", "README.zh-CN.md", "CHANGELOG.md", *sorted(f"docs/{path.name}" for path in DOCS.glob("*.md")))
TRANSLATED = sorted(path.name.removesuffix(".zh-CN.md") for path in DOCS.glob("*.zh-CN.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
REASON = re.compile(r"^<!-- not run: .*? -->$", re.MULTILINE)


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    return [body for kind, body in BLOCK.findall(text(name)) if kind == language]


def commands(name: str) -> list[list[str]]:
    """Also the forms of commands (`text`), and what no test runs."""
    listed = [block for kind in ("bash", "console", "text") for block in blocks(name, kind)]
    return [shlex.split(line) for block in listed for line in block.splitlines()]


def test_the_first_two_commands_are_make_s() -> None:
    for name in ("README.md", "README.zh-CN.md"):
        assert commands(name)[:2] == [["make", "demo"], ["make", "test"]]
    makefile = text("Makefile")
    assert re.search(r"^demo:", makefile, re.MULTILINE)
    assert re.search(r"^test:", makefile, re.MULTILINE)
    assert re.search(r"^exec make test\b", text(".ci/run"), re.MULTILINE)


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


@pytest.mark.parametrize("name", TRANSLATED)
def test_the_translated_pages_keep_step(name: str) -> None:
    english, chinese = text(f"docs/{name}.md"), text(f"docs/{name}.zh-CN.md")
    assert BLOCK.findall(english) == BLOCK.findall(chinese)
    assert REASON.findall(english) == REASON.findall(chinese)
    assert f"\n[中文]({name}.zh-CN.md)\n" in english
    assert f"\n[English]({name}.md)\n" in chinese
    for document in (english, chinese):  # every option that the program has, and no other
        assert set(re.findall(r"^\| `(?:-\w, )?(--[\w-]+)", document, re.MULTILINE)) == options_of_page(name)
    assert re.findall("^##+(?= )", english, re.MULTILINE) == re.findall("^##+(?= )", chinese, re.MULTILINE)


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
