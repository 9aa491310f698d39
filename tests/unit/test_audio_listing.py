"""Files, folders and globs."""

from __future__ import annotations

from pathlib import Path

import pytest

from menura.audio.places import Selection, audio_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.wav", "a.FLAC", ".hidden.wav", "notes.txt", "ü ö.mp3", "deep/c.ogg", ".cache/d.wav", "[x].wav"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "folder.wav").mkdir()
    return tmp_path


def names(entries: object) -> list[str]:
    assert isinstance(entries, list)
    return [entry.relative.as_posix() for entry in entries]


def test_folder_is_sorted_without_hidden_and_other_files(folder: Path) -> None:
    entries = audio_files([folder])
    assert names(entries) == ["[x].wav", "a.FLAC", "b.wav", "ü ö.mp3"]
    assert all(entry.error is None for entry in entries)


def test_recursive_keeps_the_tree(folder: Path) -> None:
    assert "deep/c.ogg" in names(audio_files([folder], Selection(recursive=True)))
    assert ".cache/d.wav" not in names(audio_files([folder], Selection(recursive=True)))


def test_globs(folder: Path) -> None:
    assert names(audio_files([f"{folder}/*.wav"])) == ["[x].wav", "b.wav"]
    assert names(audio_files([f"{folder}/**/*.ogg"])) == ["deep/c.ogg"]
    assert names(audio_files([f"{folder}/[ab].*"])) == ["a.FLAC", "b.wav"]


def test_a_named_file_is_taken_whatever_it_is_called(folder: Path) -> None:
    entries = audio_files([folder / "notes.txt", folder / ".hidden.wav", folder / "[x].wav", folder / "missing.wav"])
    assert names(entries) == ["notes.txt", ".hidden.wav", "[x].wav", "missing.wav"]
    assert all(entry.error is None for entry in entries)


def test_each_once_in_the_order_given(folder: Path) -> None:
    assert names(audio_files([folder / "b.wav", folder]))[0] == "b.wav"
    assert len(audio_files([folder / "b.wav", folder, f"{folder}/*"])) == 4


def test_nothing_matched_is_an_entry_with_an_error(folder: Path) -> None:
    (folder / "empty").mkdir()
    entries = audio_files([folder / "empty", f"{folder}/*.aiff", folder / "b.wav"])
    assert [entry.error is None for entry in entries] == [False, False, True]
    assert "contains no recordings" in str(entries[0].error)
    assert "matches no recordings" in str(entries[1].error)


@pytest.mark.parametrize(
    ("include", "exclude", "taken"),
    [
        ((), (), ["a.wav", "b.mp3", "day/c.wav", "day/night/d.wav"]),
        (("*.wav",), (), ["a.wav", "day/c.wav", "day/night/d.wav"]),
        (("*.mp3", "a.*"), (), ["a.wav", "b.mp3"]),
        (("day/",), (), ["day/c.wav", "day/night/d.wav"]),
        (("day/*",), ("day/night/*",), ["day/c.wav"]),
        ((), ("**/night/*",), ["a.wav", "b.mp3", "day/c.wav"]),
        (("**/a.*", "night/"), (), ["a.wav"]),
        (("**/day/*",), (), ["day/c.wav", "day/night/d.wav"]),
        ((), ("[ab].*",), ["day/c.wav", "day/night/d.wav"]),
        (("*.WAV",), (), []),
    ],
)
def test_globs_choose(include: tuple[str, ...], exclude: tuple[str, ...], taken: list[str]) -> None:
    selection = Selection(include=include, exclude=exclude)
    paths = ["a.wav", "b.mp3", "day/c.wav", "day/night/d.wav"]
    assert [path for path in paths if selection.takes(Path(path))] == taken


def test_globs_concern_only_what_is_found_in_folders_and_patterns(folder: Path) -> None:
    none = Selection(recursive=True, exclude=("*",))
    entries = audio_files([folder, f"{folder}/*.wav", folder / "b.wav"], none)
    assert [entry.error is None for entry in entries] == [False, False, True]
