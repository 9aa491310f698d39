"""Voices by name: found, listed, removed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from menura.errors import OptionError, VoiceNotFoundError
from menura.voices import library
from menura.voices.library import check_name, find_voice, list_voices, remove_voice


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with three voices beside one built-in."""
    home, builtin = tmp_path / "home", tmp_path / "builtin"
    for folder, names in {
        builtin / "lark": ["voice.safetensors"],
        home / "voices" / "Öl (2)": ["voice.safetensors", "voice.pth", "added_IVF9_Flat.index", "trained_x.index"],
        home / "voices" / "own": ["e_120.pth", "own.index", "added_x.index"],
        home / "voices" / "lark": ["voice.safetensors"],
        home / "voices" / "empty": ["readme.txt"],
        home / "voices" / ".import-1": ["voice.safetensors"],
    }.items():
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).write_bytes(b"x")
    for name in ("loose.pth", "loose.index", "readme.txt"):
        (home / "voices" / name).write_bytes(b"x")
    (builtin / "lark" / "card.json").write_text(json.dumps({"name": "lark", "source": "kokoro:af_x"}))
    (home / "voices" / "own" / "card.json").write_text("[broken")
    monkeypatch.setattr(library, "_BUILTIN_FOLDER", builtin)
    return home


def test_list(home: Path) -> None:
    listed = [(voice.name, voice.builtin, voice.source, voice.path.name) for voice in list_voices(home)]
    assert listed == [
        ("lark", True, "kokoro:af_x", "voice.safetensors"),
        ("loose", False, "loose.pth", "loose.pth"),
        ("own", False, "e_120.pth", "e_120.pth"),
        ("Öl (2)", False, "voice.safetensors", "voice.safetensors"),
    ]
    assert [voice.name for voice in list_voices(home / "nowhere")] == ["lark"]


def test_index_beside_a_voice_is_its_own(home: Path) -> None:
    indexes = {voice.name: voice.index_path and voice.index_path.name for voice in list_voices(home)}
    assert indexes == {"lark": None, "loose": "loose.index", "own": "own.index", "Öl (2)": "added_IVF9_Flat.index"}


def test_a_path_is_a_voice_without_index(home: Path) -> None:
    path = home / "voices" / "loose.pth"
    entry = find_voice(str(path), home)
    assert (entry.name, entry.path, entry.index_path, entry.builtin) == ("loose", path, None, False)


def test_a_name_goes_before_a_file_of_that_name(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lark").write_bytes(b"x")
    (tmp_path / "robin").write_bytes(b"x")
    assert find_voice("lark", home).builtin
    assert find_voice("robin", home).path == Path("robin")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lrak", "Did you mean 'lark'.*Known: lark, loose, own, Öl"),
        ("xyz", r"voice 'xyz' is not known\. Known: lark"),
        ("missing.pth", "no such voice file"),
        ("some/where", "no such voice file"),
        ("", "is not known"),
    ],
)
def test_unknown(home: Path, name: str, said: str) -> None:
    with pytest.raises(VoiceNotFoundError, match=said):
        find_voice(name, home)


def test_a_folder_is_no_voice(home: Path) -> None:
    with pytest.raises(VoiceNotFoundError, match=r"is a folder; name the \.pth file"):
        find_voice(str(home / "voices" / "own"), home)


def test_remove(home: Path) -> None:
    remove_voice("own", home)
    assert not (home / "voices" / "own").exists()
    remove_voice("loose", home)
    assert not (home / "voices" / "loose.pth").exists()
    assert not (home / "voices" / "loose.index").exists()
    assert [voice.name for voice in list_voices(home)] == ["lark", "Öl (2)"]


def test_remove_leaves_what_a_link_points_to(home: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "voice.pth").write_bytes(b"x")
    (home / "voices" / "linked").symlink_to(elsewhere)
    remove_voice("linked", home)
    assert not (home / "voices" / "linked").exists()
    assert (elsewhere / "voice.pth").exists()


def test_what_is_not_installed_is_not_removed(home: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.pth"
    outside.write_bytes(b"x")
    with pytest.raises(OptionError, match="built in"):
        remove_voice("lark", home)
    with pytest.raises(OptionError, match="not an installed voice"):
        remove_voice(str(outside), home)
    with pytest.raises(VoiceNotFoundError):
        remove_voice("../home", home)
    assert outside.exists()


@pytest.mark.parametrize("name", ["wren", "Öl (2)", "my voice", "a.b-c_d", "声", "x" * 100])
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "a\\b",
        ".hidden",
        "-o",
        " x",
        "x ",
        "x.",
        "CON",
        "nul.txt",
        "a\0",
        "a\n",
        "x" * 101,
    ],
)
def test_names_that_no_folder_can_have(name: str) -> None:
    with pytest.raises(OptionError, match="can't be a voice's name"):
        check_name(name)
