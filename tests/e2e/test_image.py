"""The Dockerfile's steps, without Docker: programs that would change the machine are stood in for."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.server import Service

ROOT = Path(__file__).parents[2]
_STANDING_IN = ("apt-get", "pip", "useradd", "rm")


def instructions(name: str) -> list[str]:
    """The arguments of all instructions of a kind."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    return [line.removeprefix(f"{name} ") for line in text.splitlines() if line.startswith(f"{name} ")]


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs that write their arguments down and do nothing; and what they wrote."""
    programs, log = tmp_path / "bin", tmp_path / "log"
    programs.mkdir()
    for name in _STANDING_IN:
        (programs / name).write_text(f'#!/bin/sh\necho {name} "$@" >> "$LOG"\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(log))
    log.touch()
    return log


def test_every_file_that_is_copied_is_there_and_sent() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for arguments in instructions("COPY"):
        *sources, _ = shlex.split(arguments)
        if not sources[0].startswith("--from"):
            assert set(sources) <= sent
            assert all((ROOT / source).exists() for source in sources)


@pytest.mark.parametrize(
    ("index", "asked"), [("https://localhost/cpu", "--index-url https://localhost/cpu torch"), ("", "torch")]
)
def test_the_steps_run(recorded: Path, tmp_path: Path, index: str, asked: str) -> None:
    for step in instructions("RUN"):
        step = step.replace("/opt/menura", str(tmp_path / "opt")).replace("python -m venv", f"{sys.executable} -m venv")
        environment = os.environ | {"TORCH": "torch", "TORCH_INDEX": index}
        subprocess.run(["sh", "-euc", step], check=True, env=environment)
    lines = recorded.read_text().splitlines()
    assert f"pip install --no-cache-dir {asked}" in lines
    assert "pip install --no-cache-dir /src[serve,media]" in lines
    assert (tmp_path / "opt" / "bin" / "python").exists()
    shutil.rmtree(tmp_path / "opt")


def test_it_runs_as_no_one_special_and_says_how_it_is(home: Path, tmp_path: Path) -> None:
    assert instructions("USER") == ["menura"]
    assert instructions("VOLUME") == ["/data"]
    (entry,), (check,) = instructions("ENTRYPOINT"), instructions("HEALTHCHECK")
    assert json.loads(entry)[:2] == ["menura", "serve"]
    command = json.loads(check.partition("CMD ")[2])
    with Service(tmp_path / "data", home, *json.loads(entry)[2:], "--token", "a long secret") as service:
        address = service.address.replace("localhost", "127.0.0.1")
        code = command[2].replace("http://127.0.0.1:7865", address)
        assert subprocess.run([sys.executable, *command[1:2], code], check=False).returncode == 0
    assert subprocess.run([sys.executable, *command[1:2], code], check=False, stderr=subprocess.PIPE).returncode != 0
