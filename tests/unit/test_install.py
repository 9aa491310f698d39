"""Importing voices: files, folders, archives, and archives that mean harm."""

from __future__ import annotations

import json
import os
import shutil
import struct
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from menura.checkpoints.voice import load_voice
from menura.errors import CheckpointError, IndexFileError, OptionError, ResourceError, UnsafeCheckpointError
from menura.voices import library
from menura.voices.changes import rename_voice
from menura.voices.library import ImportRequest, VoiceEntry, import_voices, list_voices, read_card
from support.tiny import DIM
from support.voicefiles import write_voice


@pytest.fixture(autouse=True)
def any_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any bytes are an index that serves any voice."""
    monkeypatch.setattr(library, "_check_index", lambda *_: None)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def voice(tmp_path: Path) -> Path:
    return write_voice(tmp_path / "Öl 1.pth")


def archive(path: Path, members: dict[str, bytes | Path]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content.read_bytes() if isinstance(content, Path) else content)
    return path


def installed(home: Path) -> list[str]:
    """Everything below the voices folder, so that nothing half-done is overlooked."""
    return sorted(path.relative_to(home / "voices").as_posix() for path in (home / "voices").rglob("*"))


def import_voice(source: Path, home: Path, **fields: Any) -> VoiceEntry:
    (result,) = import_voices(ImportRequest(source=source, home=home, **fields))
    if result.error is not None:
        raise result.error
    assert result.voice is not None
    return result.voice


def test_a_file(home: Path, voice: Path) -> None:
    entry = import_voice(voice, home)
    assert (entry.name, entry.builtin, entry.source, entry.index_path) == ("Öl 1", False, "Öl 1.pth", None)
    assert installed(home) == ["Öl 1", "Öl 1/card.json", "Öl 1/voice.safetensors"]
    assert entry in list_voices(home)
    before, after = load_voice(voice), load_voice(entry.path)
    assert after.config == before.config
    assert all(torch.equal(after.state[name], tensor) for name, tensor in before.state.items())
    assert after.metadata.author == "nobody"


def test_a_name_may_be_respelt(home: Path, voice: Path) -> None:
    import_voice(voice, home, name="some one")
    assert rename_voice("some one", "Some One", home).name == "Some One"
    assert installed(home) == ["Some One", "Some One/card.json", "Some One/voice.safetensors"]
    for taken in ("Some One", "WREN"):
        with pytest.raises(OptionError, match="exists already"):
            rename_voice("Some One", taken, home)


def test_name_and_index_given(home: Path, voice: Path, tmp_path: Path) -> None:
    index = tmp_path / "some.index"
    index.write_bytes(b"index")
    entry = import_voice(voice, home, name="mine", index=index)
    assert entry.name == "mine"
    assert entry.index_path == home / "voices" / "mine" / "mine.index"
    assert entry.index_path.read_bytes() == b"index"
    assert read_card(entry.path.parent / "card.json").fields == {"name": "mine", "source": "Öl 1.pth"}


def test_weights_finer_than_float16_stay_so(home: Path, tmp_path: Path, voice: Path) -> None:
    content = torch.load(voice, weights_only=True)
    content["weight"]["emb_g.weight"] = torch.full_like(content["weight"]["emb_g.weight"], 0.1, dtype=torch.float32)
    torch.save(content, tmp_path / "fine.pth")
    entry = import_voice(tmp_path / "fine.pth", home)
    assert float(load_voice(entry.path).state["emb_g.weight"][0, 0]) == float(torch.tensor(0.1))


def test_an_archive_as_they_are_passed_on(home: Path, voice: Path, tmp_path: Path) -> None:
    source = archive(
        tmp_path / "Some Voice.zip",
        {
            "./model//Some.pth": voice,
            "./model//added_IVF1_Flat_nprobe_1_Some_v2.index": b"added",
            "model/trained_IVF1_Flat.index": b"trained",
            "model/G_2333.pth": b"a training state",
            "__MACOSX/model/._Some.pth": b"rubbish",
            "__MACOSX/model/._added_IVF1_Flat_nprobe_1_Some_v2.index": b"rubbish",
            "readme.txt": b"hello",
        },
    )
    entry = import_voice(source, home)
    assert entry.name == "Some"
    assert entry.source == "Some Voice.zip"
    assert entry.index_path is not None
    assert entry.index_path.read_bytes() == b"added"
    assert installed(home) == ["Some", "Some/Some.index", "Some/card.json", "Some/voice.safetensors"]


def test_a_folder(home: Path, voice: Path, tmp_path: Path) -> None:
    (tmp_path / "unpacked" / "deep").mkdir(parents=True)
    voice.rename(tmp_path / "unpacked" / "deep" / "v.pth")
    (tmp_path / "unpacked" / "x.index").write_bytes(b"x")
    entry = import_voice(tmp_path / "unpacked", home)
    assert entry.name == "v"
    assert entry.index_path is not None


def refused(home: Path, source: Path, kind: type[Exception], said: str, name: str | None = None) -> None:
    with pytest.raises(kind, match=said) as caught:
        import_voice(source, home, name=name)
    assert ".import-" not in str(caught.value)
    assert not (home / "voices").exists() or installed(home) == []


@pytest.mark.parametrize(
    "member", ["../escape.pth", "/abs.pth", "a/../../b.pth", "..\\escape.pth", "C:\\x.pth", "C:/x.pth"]
)
def test_archives_that_reach_out_are_refused(home: Path, voice: Path, tmp_path: Path, member: str) -> None:
    refused(home, archive(tmp_path / "bad.zip", {"v.pth": voice, member: b"x"}), CheckpointError, "unsafe path")
    assert not list(tmp_path.rglob("escape*"))


def test_archives_without_bounds_are_refused(
    home: Path, voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "MAX_ARCHIVE_ENTRIES", 3)
    many = archive(tmp_path / "many.zip", {"v.pth": voice, **{f"{i}.txt": b"" for i in range(3)}})
    refused(home, many, CheckpointError, "4 files are too many")
    monkeypatch.setattr(library, "MAX_MEMBER_BYTES", voice.stat().st_size - 1)
    refused(home, archive(tmp_path / "large.zip", {"v.pth": voice}), CheckpointError, "larger than any voice")


def test_a_member_that_lies_about_its_size_is_refused(
    home: Path, voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = archive(tmp_path / "bomb.zip", {"v.pth": bytes(1_000_000)})
    content = bytearray(source.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", content, content.index(signature) + offset, 10)
    source.write_bytes(content)
    monkeypatch.setattr(library, "MAX_MEMBER_BYTES", 1000)
    refused(home, source, CheckpointError, "not a torch file|damaged|larger than any voice")


@pytest.mark.parametrize(
    ("members", "kind", "said"),
    [
        ({"readme.txt": b"x"}, CheckpointError, "holds no voice"),
        ({"G_1.pth": b"x", "D_1.pth": b"x"}, CheckpointError, "holds no voice"),
        ({"a.pth": b"no torch file"}, CheckpointError, "bad.zip: .*not a torch file"),
    ],
)
def test_archives_without_one_voice(
    home: Path, tmp_path: Path, members: dict[str, bytes | Path], kind: type[Exception], said: str
) -> None:
    refused(home, archive(tmp_path / "bad.zip", members), kind, said)


def test_damaged_archive(home: Path, voice: Path, tmp_path: Path) -> None:
    source = archive(tmp_path / "bad.zip", {"v.pth": voice})
    content = bytearray(source.read_bytes())
    content[200:400] = bytes(200)
    source.write_bytes(content)
    refused(home, source, CheckpointError, "bad.zip: ")


def test_code_is_not_run(home: Path, tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(tmp_path / "ran"),)  # type: ignore[return-value]

    torch.save({"weight": Harmful(), "config": []}, tmp_path / "harmful.pth")
    refused(home, tmp_path / "harmful.pth", UnsafeCheckpointError, "more than weights")
    assert not (tmp_path / "ran").exists()


def test_wrong_requests(home: Path, voice: Path, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe.zip")
    for path in (
        tmp_path / "missing.pth",
        tmp_path / "loop",
        tmp_path / "pipe.zip",
        Path("/dev/zero"),
        Path("x" * 999),
    ):
        refused(home, path, OptionError, "no such file")
    (tmp_path / "song.mp3").write_bytes(b"x")
    refused(home, tmp_path / "song.mp3", CheckpointError, "not a voice")
    refused(home, voice, OptionError, "can't be a voice's name", name="../x")
    with pytest.raises(OptionError, match="no such index"):
        import_voice(voice, home, index=tmp_path / "missing.index")
    import_voice(voice, home, name="Taken")
    for name in ("Taken", "tAKEN"):
        with pytest.raises(OptionError, match="exists already"):
            import_voice(voice, home, name=name)


def test_an_index_that_can_t_serve_the_voice_stops_the_import(
    home: Path, voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def check(index: Path, content_dim: int) -> None:
        asked.append((index.read_bytes(), content_dim))
        raise IndexFileError(index, "is damaged")

    monkeypatch.setattr(library, "_check_index", check)
    source = archive(tmp_path / "voice.zip", {"v.pth": voice, "added_v.index": b"index"})
    with pytest.raises(IndexFileError, match=r"voice\.zip.*is damaged"):
        import_voice(source, home)
    assert asked == [(b"index", DIM)]
    assert installed(home) == []


def test_a_folder_that_can_t_be_written(voice: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(ResourceError, match="can't be written"):
        import_voice(voice, tmp_path / "file")


def test_a_voice_whose_name_begins_like_a_checkpoint_s(home: Path, voice: Path, tmp_path: Path) -> None:
    members: dict[str, bytes | Path] = {"G_Dragon.pth": voice, "added_IVF9_Flat_nprobe_1_G_Dragon_v2.index": b"index"}
    entry = import_voice(archive(tmp_path / "G_Dragon.zip", {**members, "G_200.pth": b"x", "f0D40k.pth": b"x"}), home)
    assert entry.name == "G_Dragon"
    assert entry.index_path is not None


def imported(source: Path, home: Path, **fields: Any) -> list[str]:
    results = list(import_voices(ImportRequest(source=source, home=home, **fields)))
    return [f"{r.error.details.kind}: {r.file}" if r.error else r.name for r in results]


def several(folder: Path, voice: Path) -> Path:
    """As a folder of models looks after some trainings."""
    for name in (
        "singer/singer_100e_2500s.pth",
        "singer/singer_200e_5000s.pth",
        "singer/singer_20e_500s_best_epoch.pth",
        "singer/G_2333333.pth",
        "weights/bird.pth",
        "weights/bird_e50_s100.pth",
        "weights/damaged.pth",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(voice, folder / name)
    (folder / "weights" / "damaged.pth").write_bytes(b"x")
    (folder / "singer" / "added_IVF9_Flat_nprobe_1_singer_v2.index").write_bytes(b"singer's")
    (folder / "logs").mkdir()
    (folder / "logs" / "added_IVF9_Flat_nprobe_1_bird_v2.index").write_bytes(b"bird's")
    (folder / "logs" / "pipe.pth").symlink_to("/dev/zero")
    return folder


def test_all_voices_of_a_folder_each_with_its_index(home: Path, voice: Path, tmp_path: Path) -> None:
    folder = several(tmp_path / "models", voice)
    failed = "checkpoint: weights/damaged.pth"
    assert imported(folder, home) == ["singer_200e_5000s", "bird", failed]
    indexes = {v.name: v.index_path.read_bytes() for v in list_voices(home) if v.index_path}
    assert indexes == {"singer_200e_5000s": b"singer's", "bird": b"bird's"}
    again = imported(folder, home, every_epoch=True)
    assert again == [
        "singer_100e_2500s", "voice_exists: singer/singer_200e_5000s.pth", "singer_20e_500s_best_epoch",
        "voice_exists: weights/bird.pth", "bird_e50_s100", failed,
    ]  # fmt: skip


def test_a_name_is_for_one_voice(home: Path, voice: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"holds 3 voices \(singer"):
        imported(several(tmp_path / "models", voice), home, name="mine")


def test_a_card_in_an_archive_is_kept(home: Path, voice: Path, tmp_path: Path) -> None:
    card = json.dumps({"name": "v", "f0_median_hz": 210.5, "licence": "CC0"}).encode()
    entry = import_voice(archive(tmp_path / "v.zip", {"v.pth": voice, "card.json": card}), home)
    assert entry.f0_median_hz == 210.5


def test_what_killed_imports_left_is_removed(home: Path, voice: Path) -> None:
    for name in (".import-0123456789abcdef.tmp", ".import-k3j_x"):
        (home / "voices" / name / "voice").mkdir(parents=True)
    import_voice(voice, home, name="v")
    assert installed(home) == ["v", "v/card.json", "v/voice.safetensors"]


def test_several_imports_of_one_name_at_once(
    home: Path, voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.index").write_bytes(b"x")
    together = threading.Barrier(4)
    # All have found the name free.
    monkeypatch.setattr(library, "_check_index", lambda *_: together.wait(timeout=60))

    def attempt(_: int) -> str:
        try:
            return import_voice(voice, home, name="v", index=tmp_path / "x.index").name
        except OptionError as error:
            return error.problem

    with ThreadPoolExecutor(4) as pool:
        results = sorted(pool.map(attempt, range(4)))
    assert results == ["a voice named 'v' exists already"] * 3 + ["v"]
    assert installed(home) == ["v", "v/card.json", "v/v.index", "v/voice.safetensors"]
