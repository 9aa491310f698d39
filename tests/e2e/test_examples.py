"""Every example in the documents runs, in a folder as their reader has it, or says above it why it doesn't."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest

from menura.cli.main import run
from support.tiny import tiny_config
from support.voicefiles import write_voice

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md") if "." not in path.stem))
"""The Chinese pages have the same examples (test_readme.py)."""
EXAMPLE = re.compile(r"^(<!-- not run: .*? -->\n)?```(bash|console|sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OUTPUT = ("-o", "--output", "--out", "--plot", "--report")


def examples(page: str) -> list[tuple[str, str]]:
    found = EXAMPLE.findall((ROOT / page).read_text(encoding="utf-8"))
    return [(kind, code) for reason, kind, code in found if not reason]


@pytest.fixture
def readers_folder(place: Path, talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Recordings, a folder of them, recordings of a voice, and a voice of the reader's own with its index."""
    monkeypatch.setenv("MENURA_HOME", str(tmp_path / ".home"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    Path("talks").mkdir()
    for name in ("talks/a.wav", "talks/b.wav", "voice-1.wav", "voice-2.wav"):
        shutil.copy(talk, name)
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


@pytest.mark.parametrize("page", [page for page in PAGES if examples(page)])
def test_the_examples_run(page: str, readers_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind, code in examples(page):
        if kind == "python":
            exec(compile(code, page, "exec"), {"__name__": "example"})
            said = capsys.readouterr().out
            assert said.strip() or "print(" not in code, code
        for line in code.splitlines() if kind != "python" else ():
            words = shlex.split(line)
            code_of_exit = run(words[1:]) if words[0] == "menura" and ">" not in words else _shell(line)
            assert code_of_exit == 0, (line, capsys.readouterr().err)
            for name in (after for word, after in itertools.pairwise(words) if word in (*OUTPUT, ">")):
                made = [path for path in Path(name).rglob("*") if path.is_file()] or [Path(name)]
                assert name == "-" or max(path.stat().st_size for path in made) > 500, (line, made)


def _shell(line: str) -> int:
    return subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], check=False).returncode


def test_reasons_are_of_use() -> None:
    """They name a test that does the same, or what is needed that no test has."""
    for page in PAGES:
        for reason in re.findall(
            r"^<!-- not run: (.*?) -->\n```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE
        ):
            assert all((ROOT / named).exists() for named in re.findall(r"tests/[\w/]+\.py", reason)), reason
