"""Voices from addresses and from a model hub: what an address means, what is fetched, what the card keeps."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import zipfile
from pathlib import Path
from typing import Any

import pytest

from menura.cli.main import run
from menura.errors import DownloadError, OptionError
from menura.options import FetchOptions
from menura.voices import library
from menura.voices.hub import fetch_voice, is_remote
from menura.voices.library import find_voice, read_card
from support.origin import Origin, Served
from support.voicefiles import write_voice

FILE = "/someone/singer/resolve/main/"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MENURA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(library, "_check_index", lambda *_: None)
    return tmp_path / "home"


@pytest.fixture
def weights(tmp_path: Path) -> bytes:
    return write_voice(tmp_path / "made.pth").read_bytes()


def lists(origin: Origin, *names: str, revision: str = "main") -> None:
    document: dict[str, Any] = {"siblings": [{"rfilename": name} for name in names]}
    origin.files[f"/api/models/someone/singer/revision/{revision}"] = Served(json.dumps(document).encode())


def card(home: Path, name: str) -> dict[str, object]:
    return dict(read_card(find_voice(name, home).path.with_name("card.json")).fields)


@pytest.mark.parametrize(
    "place",
    [
        "https://huggingface.co/someone/singer/blob/main/models/sing er.pth",
        "https://huggingface.co/someone/singer/resolve/main/models/sing%20er.pth?download=true",
        "someone/singer/models/sing er.pth",
        "{hub}/someone/singer/resolve/main/models/sing%20er.pth",
    ],
)
def test_a_hub_s_page_stands_for_its_file(home: Path, internet: Origin, weights: bytes, place: str) -> None:
    internet.files[f"{FILE}models/sing%20er.pth"] = Served(weights)
    assert run(["voices", "import", place.format(hub=internet.url), "--rights", "mine"]) == 0
    fields = card(home, "sing er")
    assert fields["url"] == f"{internet.url}{FILE}models/sing%20er.pth"
    assert fields["sha256"] == hashlib.sha256(weights).hexdigest()
    assert fields["rights"] == "mine"
    assert not list((home / "cache").rglob("*.pth"))


def test_a_repository_stands_for_its_one_voice_and_index(
    home: Path, internet: Origin, weights: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    lists(internet, ".gitattributes", "README.md", "singer_e10.pth", "singer_e20.pth", "added_IVF1_singer_v2.index")
    internet.files |= {
        f"{FILE}singer_e20.pth": Served(weights),
        f"{FILE}added_IVF1_singer_v2.index": Served(b"an index"),
    }
    assert run(["voices", "import", "someone/singer"]) == 0
    out = capsys.readouterr().out
    assert f"fetched {internet.url}{FILE}singer_e20.pth, SHA-256 {hashlib.sha256(weights).hexdigest()}" in out
    index = find_voice("singer_e20", home).index_path
    assert index is not None
    assert index.read_bytes() == b"an index"


def test_an_archive_is_hostile_like_any_other(home: Path, internet: Origin, weights: bytes, tmp_path: Path) -> None:
    for name, members in (("good.zip", {"a/v.pth": weights}), ("bad.zip", {"../v.pth": weights})):
        with zipfile.ZipFile(tmp_path / "made.zip", "w") as packed:
            for member, content in members.items():
                packed.writestr(member, content)
        internet.files[f"/{name}"] = Served((tmp_path / "made.zip").read_bytes())
    assert run(["voices", "import", f"{internet.url}/good.zip"]) == 0
    assert card(home, "v")["source"] == "good.zip"
    assert run(["voices", "import", f"{internet.url}/bad.zip"]) == 1
    assert [voice.name for voice in library.list_voices(home) if not voice.builtin] == ["v"]


def test_the_wanted_hash_is_compared(
    home: Path, internet: Origin, weights: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    internet.files["/v.pth"] = Served(weights)
    command = ["voices", "import", f"{internet.url}/v.pth", "--sha256"]
    assert run([*command, "0" * 64]) == 1
    assert f"has the SHA-256 {hashlib.sha256(weights).hexdigest()}, not 0000" in capsys.readouterr().err
    assert run([*command, hashlib.sha256(weights).hexdigest().upper()]) == 0


def test_private_addresses_need_to_be_allowed(
    home: Path, internet: Origin, weights: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("menura.system.download.is_public", lambda address: False)
    internet.files["/v.pth"] = Served(weights)
    assert run(["voices", "import", f"{internet.url}/v.pth"]) == 1
    assert "is an address of this machine or its own network. If you trust it, add --allow-private" in (
        capsys.readouterr().err
    )
    assert internet.asked == []
    assert run(["voices", "import", f"{internet.url}/v.pth", "--allow-private"]) == 0


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        (["README.md", "G_100.pth"], r"stands for 0 voices \(none\)"),
        (["a.pth", "b.pth", "c.zip"], r"stands for 2 voices \(a.pth, b.pth\). Name one: someone/singer/FILE"),
    ],
)
def test_a_repository_that_stands_for_no_one_voice(home: Path, internet: Origin, listed: list[str], said: str) -> None:
    lists(internet, *listed)
    with pytest.raises(OptionError, match=said):
        fetch_voice("someone/singer", home, FetchOptions(), lambda *_: None)


@pytest.mark.parametrize("content", [b"<html>", b"[]", b'{"siblings": 1}', b'{"siblings": [{}]}'])
def test_a_hub_that_answers_something_else(home: Path, internet: Origin, content: bytes) -> None:
    internet.files["/api/models/someone/singer/revision/old"] = Served(content)
    with pytest.raises(DownloadError, match="lists no files of a model"):
        fetch_voice("https://huggingface.co/someone/singer/tree/old", home, FetchOptions(), lambda *_: None)


def test_an_address_without_a_voice_s_file(home: Path, internet: Origin) -> None:
    with pytest.raises(OptionError, match=r"names no \.pth, \.safetensors or \.zip file"):
        fetch_voice(f"{internet.url}/page.html", home, FetchOptions(), lambda *_: None)
    assert internet.asked == []


def test_an_endpoint_that_is_given_goes_before_the_environment_s(home: Path, internet: Origin, weights: bytes) -> None:
    internet.files[f"/mirror{FILE}v.pth"] = Served(weights)
    options = FetchOptions(endpoint=f"{internet.url}/mirror/")
    assert fetch_voice("someone/singer/v.pth", home, options, lambda *_: None).path.read_bytes() == weights


def test_what_is_here_is_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for place in (
        "models/singer",
        "models/a/b.pth",
        "gone/v.pth",
        "v.zip",
        "/a/b",
        "./a/b",
        "../a/b",
        "~/a/b",
        "C:\\a\\b",
        "a b/c",
    ):
        assert not is_remote(place), place
    for place in ("someone/singer", "someone/singer/v.pth", "https://huggingface.co/x"):
        assert is_remote(place), place


def test_the_documents_examples(home: Path, internet: Origin, weights: bytes) -> None:
    document = (Path(__file__).parents[2] / "docs" / "voices.md").read_text(encoding="utf-8")
    lists(internet, "README.md", "singer.pth")
    internet.files[f"{FILE}singer.pth"] = Served(weights)
    commands = [
        shlex.split(line)[1:] for line in document.splitlines() if re.match("menura voices import .*someone", line)
    ]
    assert len(commands) == 2
    for command in commands:
        assert run(command) == 0
    assert {voice.name for voice in library.list_voices(home)} >= {"singer", "second"}
    assert card(home, "singer")["rights"] == "CC-BY-4.0, the singer agrees"
