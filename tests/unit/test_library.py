"""Voices by name: found, listed, removed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from menura.errors import OptionError, VoiceNotFoundError
from menura.voices import library
from menura.voices.library import check_name, find_voice, list_voices, read_card, remove_voice


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


def test_a_path_is_a_voice_with_the_index_beside_it(home: Path) -> None:
    path = home / "voices" / "loose.pth"
    entry = find_voice(str(path), home)
    assert (entry.name, entry.path, entry.index_path, entry.builtin) == (
        "loose",
        path,
        path.with_suffix(".index"),
        False,
    )
    assert "loose.index" in entry.note


ADDED = "added_IVF256_Flat_nprobe_1_singer_v2.index"


@pytest.mark.parametrize(
    ("weights", "others", "index"),
    [
        ("singer.pth", [ADDED], ADDED),
        ("singer_100e_2500s.pth", [ADDED, "other.pth", "added_IVF9_Flat_nprobe_1_other_v2.index"], ADDED),
        ("singer_e100_s2500.pth", ["singer.index", ADDED], "singer.index"),
        ("Singer.pth", [ADDED], ADDED),
        ("singer.pth", ["trained_IVF256_Flat_nprobe_1_singer_v2.index"], None),
        ("singer.pth", ["whatever.index", "singer_20e_500s.pth", "G_2333.pth"], "whatever.index"),
        ("singer.pth", ["whatever.index", "other.pth"], None),
        ("singer.pth", ["one.index", "two.index"], None),
        ("singer.pth", [], None),
    ],
)
def test_which_index_beside_a_voice_is_its_own(
    weights: str, others: list[str], index: str | None, tmp_path: Path, home: Path
) -> None:
    folder = tmp_path / "downloads"
    folder.mkdir()
    for name in (weights, *others):
        (folder / name).write_bytes(b"x")
    entry = find_voice(str(folder / weights), home)
    assert (entry.index_path and entry.index_path.name) == index
    assert (index or "clearly its own" if entry.note else "") in entry.note
    assert bool(entry.note) == any(name.endswith(".index") and not name.startswith("trained") for name in others)


def test_a_name_in_another_case(home: Path) -> None:
    assert find_voice("Lark", home).name == "lark"
    (home / "voices" / "LARK").mkdir()
    (home / "voices" / "LARK" / "voice.pth").write_bytes(b"x")
    assert find_voice("LARK", home).path.suffix == ".pth"
    with pytest.raises(VoiceNotFoundError):
        find_voice("Lark", home)


def test_one_bad_voice_does_not_harm_the_others(home: Path) -> None:
    voices = home / "voices"
    (voices / "loop").symlink_to("loop")
    (voices / "loop.pth").symlink_to("loop.pth")
    os.mkfifo(voices / "pipe.pth")
    bad = {
        "deep": lambda card: card.write_text("[" * 300_000),
        "pipe": os.mkfifo,
        "endless": lambda card: card.symlink_to("/dev/zero"),
        "around": lambda card: card.symlink_to(card.name),
        "long": lambda card: card.write_text(json.dumps({"source": "x" * 10**6})),
        "bytes": lambda card: card.write_bytes(b"\xff\xfe"),
    }
    for name, make in bad.items():
        (voices / name).mkdir()
        (voices / name / "voice.pth").write_bytes(b"x")
        (voices / name / "broken.index").symlink_to("broken.index")
        make(voices / name / "card.json")
    names = {voice.name: voice.source for voice in list_voices(home)}
    assert names == {"lark": "kokoro:af_x", "loose": "loose.pth", "own": "e_120.pth", "Öl (2)": "voice.safetensors"} | {
        name: "voice.pth" for name in bad
    }


def test_cards_are_bounded_and_one_line(home: Path) -> None:
    path = home / "voices" / "own" / "card.json"
    deep: object = "end"
    for _ in range(50):
        deep = [deep]
    card = {"source": "a\n\x1b]0;x\x07" + "b" * 5000, "deep": deep, "f0_median_hz": True}
    card |= {f"key {i}\n": i for i in range(500)}
    path.write_text(json.dumps(card))
    read = read_card(path)
    assert read.source.isprintable()
    assert len(read.source) == 1000
    assert read.f0_median_hz is None
    assert len(read.fields) == 64
    assert all(key.isprintable() for key in read.fields)
    assert len(json.dumps(read.fields)) < 10_000
    assert {voice.name: voice.source for voice in list_voices(home)}["own"] == read.source


@pytest.mark.parametrize(
    ("median", "ends", "found"),
    [
        (200, [150, 260.5], (150.0, 260.5)),
        (None, [150, 260], None),
        (300, [150, 260], None),
        (200, [260, 150], None),
        (200, [150], None),
        (200, [150, "260"], None),
        (200, [15, 260], None),
        (200, 150, None),
    ],
)
def test_the_range_of_pitch_lies_around_the_median(
    home: Path, median: object, ends: object, found: tuple[float, float] | None
) -> None:
    path = home / "voices" / "own" / "card.json"
    path.write_text(json.dumps({"f0_median_hz": median, "f0_range_hz": ends}))
    assert read_card(path).f0_range_hz == found
    assert {voice.name: voice.f0_range_hz for voice in list_voices(home)}["own"] == found


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "~nobody-of-that-name/x", "\ud800"])
def test_names_that_no_file_can_have_are_not_known(name: str, home: Path) -> None:
    with pytest.raises(VoiceNotFoundError) as caught:
        find_voice(name, home)
    assert caught.value.option == "voice"


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
    with pytest.raises(VoiceNotFoundError, match=r"is a folder. Name the \.pth file"):
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
