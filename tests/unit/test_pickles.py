"""Torch files are read without running anything in them."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest
import torch

from menura.checkpoints import pickles
from menura.checkpoints.pickles import load_as_data, load_tensors, load_weights
from menura.errors import CheckpointError, UnsafeCheckpointError


class Payload:
    """Creates a file when unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.victim),))


def zip_form(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def legacy_form(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


FORMS = {
    "zip": zip_form,
    "legacy": legacy_form,
    "pickle-2": lambda content: pickle.dumps(content, protocol=2),
    "pickle-5": lambda content: pickle.dumps(content, protocol=5),
}


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_tensors_and_containers_are_read(form: str, tmp_path: Path) -> None:
    content = {"weight": {"a": torch.arange(3).half()}, "sr": "40k", "config": [1, [2, 3], None, 0.5, True]}
    path = tmp_path / "voice.pth"
    path.write_bytes(FORMS[form](content))
    loaded = load_tensors(path)
    assert isinstance(loaded, dict)
    assert torch.equal(loaded["weight"].pop("a"), torch.arange(3).half())
    assert loaded == {**content, "weight": {}}


@pytest.mark.parametrize("form", FORMS)
def test_code_is_refused_and_not_run(form: str, tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "voice.pth"
    path.write_bytes(FORMS[form]({"weight": Payload(victim)}))
    with pytest.raises(UnsafeCheckpointError) as caught:
        load_tensors(path)
    assert "mkdir" in caught.value.problem
    assert not victim.exists()


def test_code_behind_the_weights_is_refused(tmp_path: Path) -> None:
    """In a second pickle of the archive."""
    path = tmp_path / "voice.pth"
    path.write_bytes(zip_form({"weight": {}}))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/extra.pkl", pickle.dumps(Payload(tmp_path / "victim"), protocol=2))
    with pytest.raises(UnsafeCheckpointError, match="mkdir"):
        load_tensors(path)


def test_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "voice.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/code/__torch__.py", "pass")
        archive.writestr("archive/data.pkl", pickle.dumps({}, protocol=2))
    with pytest.raises(UnsafeCheckpointError, match="TorchScript"):
        load_tensors(path)


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.999])
def test_truncated_file(form: str, share: float, tmp_path: Path) -> None:
    whole = FORMS[form]({"weight": {"a": torch.randn(5000)}})
    path = tmp_path / "voice.pth"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError) as caught:
        load_tensors(path)
    assert caught.value.details.kind == "checkpoint"
    assert caught.value.problem.startswith("cut off, damaged")
    assert caught.value.subject == str(path)


PLAIN = {
    "set": {1, 2},
    "bytes": b"x",
    "bytearray": bytearray(b"x"),
    "complex": 1j,
    "device": torch.device("cpu"),
    "dtype": torch.float16,
    "size": torch.Size([1]),
}


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_plain_values_that_torch_takes_are_read(form: str, tmp_path: Path) -> None:
    path = tmp_path / "voice.pth"
    path.write_bytes(FORMS[form](PLAIN))
    assert load_tensors(path) == PLAIN


def test_narrow_floats_are_read(tmp_path: Path) -> None:
    path = tmp_path / "voice.pth"
    path.write_bytes(zip_form({"a": torch.ones(3).to(torch.float8_e4m3fn)}))
    loaded = load_tensors(path)
    assert isinstance(loaded, dict)
    assert loaded["a"].float().tolist() == [1, 1, 1]


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_other_objects_are_more_than_weights(form: str, tmp_path: Path) -> None:
    path = tmp_path / "voice.pth"
    path.write_bytes(FORMS[form]({"a": range(3), "b": PurePosixPath("x")}))
    with pytest.raises(UnsafeCheckpointError) as caught:
        load_tensors(path)
    assert caught.value.problem.startswith("holds more than weights: ")
    assert caught.value.problem.isprintable()


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_shapes_alone(form: str, tmp_path: Path) -> None:
    path = tmp_path / "voice.pth"
    path.write_bytes(FORMS[form]({"a": torch.ones(3, 5).half(), "b": "text"}))
    loaded = load_tensors(path, device="meta")
    assert isinstance(loaded, dict)
    assert (loaded["a"].shape, loaded["a"].dtype, loaded["a"].device.type) == ((3, 5), torch.float16, "meta")
    assert loaded["b"] == "text"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https:" + b"//git-lfs.github.com/spec/v1\noid sha256:0a\nsize 55000123\n", "Git LFS pointer"),
        (b"<!DOCTYPE html>\n<html><head>", "web page"),
        (b"\n <html>", "web page"),
    ],
)
@pytest.mark.parametrize("name", ["voice.pth", "rmvpe.pt", "pytorch_model.bin", "model.safetensors"])
def test_what_came_in_place_of_weights_is_named(content: bytes, what: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_weights(path)
    assert what in caught.value.problem
    assert caught.value.details.kind == "checkpoint"
    assert (caught.value.advice or "").startswith("Fetch it again")


@pytest.mark.parametrize(
    "content", [b"RIFF1234WAVEfmt ", b"\x80", b"\x00" * 2000, b"hello\n", b"PK\x03\x04junk", b"cos\nsystem\n(S'x'\ntR"]
)
def test_other_files(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "voice.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not a torch file"):
        load_tensors(path)


def test_missing_empty_folder_and_huge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_tensors(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="no such file"):
        load_tensors(tmp_path)
    path = tmp_path / "voice.pth"
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="empty"):
        load_tensors(path)
    path.write_bytes(zip_form({"a": torch.zeros(1000)}))
    monkeypatch.setattr(pickles, "MAX_FILE_BYTES", 2000)
    with pytest.raises(CheckpointError, match="more than any voice"):
        load_tensors(path)


@pytest.mark.parametrize("load", [load_tensors, load_as_data])
def test_tuples_nested_without_end(load: Callable[[Path], object], tmp_path: Path) -> None:
    """As a dict's key they would end the process."""
    path = tmp_path / "voice.pth"
    path.write_bytes(zip_form({}))
    with zipfile.ZipFile(path) as archive:
        members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            deep = b"\x80\x02})" + b"\x85" * 10**6 + b"K\x01s."
            archive.writestr(name, deep if name.endswith("data.pkl") else data)
    with pytest.raises(CheckpointError, match="damaged"):
        load(path)


def test_inflated_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small on disk, large when unpacked."""
    path = tmp_path / "voice.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(10**6))
    monkeypatch.setattr(pickles, "MAX_FILE_BYTES", 10**5)
    assert path.stat().st_size < 10**5
    with pytest.raises(CheckpointError, match="holds more than any voice"):
        load_tensors(path)
