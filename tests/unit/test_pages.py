"""Weights mapped from files leave memory when they are released, and come back unchanged."""

from __future__ import annotations

import mmap
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from menura.checkpoints.pickles import load_weights
from menura.system.memory import MappedPages
from support.pages import mapped_bytes

MEGABYTE = 2**20


def size_bytes(pages: MappedPages) -> int:
    return sum(last - first for first, last in pages._spans)


def weights() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return {
        str(n): torch.randn(shape, generator=random) for n, shape in enumerate([(1000, 700), (3,), (500, 900), (5, 5)])
    }


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.bin"])
def test_released_pages_leave_memory_and_come_back(tmp_path: Path, name: str) -> None:
    file, wanted = tmp_path / name, weights()
    if file.suffix == ".bin":
        torch.save(wanted, file)
    else:
        save_file(wanted, file)
    mapped = load_weights(file)
    found = MappedPages(mapped.values())
    total = sum(float(tensor.sum()) for tensor in mapped.values())
    before = mapped_bytes(file)
    assert 4 * MEGABYTE < size_bytes(found) <= before
    found.release()
    assert mapped_bytes(file) < before - 4 * MEGABYTE
    for key, tensor in wanted.items():
        assert torch.equal(mapped[key], tensor)
    assert sum(float(tensor.sum()) for tensor in mapped.values()) == total
    assert mapped_bytes(file) >= before - MEGABYTE


def test_memory_of_its_own_is_left_alone() -> None:
    own = [torch.randn(1000, 1000), torch.zeros(0), torch.randn(3)]
    wanted = [tensor.clone() for tensor in own]
    found = MappedPages(own)
    assert size_bytes(found) == 0
    found.release()
    assert all(torch.equal(a, b) for a, b in zip(own, wanted, strict=True))


def test_only_whole_pages_within_the_tensors_count(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(5000), "b": torch.ones(100_000), "c": torch.zeros(10)}, tmp_path / "w.safetensors")
    mapped = load_file(tmp_path / "w.safetensors")
    address, size = mapped["b"].data_ptr(), 400_000
    ((first, last),) = MappedPages([mapped["b"]])._spans
    assert address <= first < last <= address + size
    assert first % mmap.PAGESIZE == last % mmap.PAGESIZE == 0
    assert last - first > size - 2 * mmap.PAGESIZE


def test_the_pages_stay_the_weights_own(tmp_path: Path) -> None:
    save_file(weights(), tmp_path / "w.safetensors")
    mapped = load_file(tmp_path / "w.safetensors")
    found = MappedPages(mapped.values())
    del mapped
    others = [torch.ones(700_000) for _ in range(4)]
    found.release()
    assert all(bool((other == 1).all()) for other in others)


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_a_file_that_was_zipped_again_is_read_all_the_same(tmp_path: Path, kind: int) -> None:
    wanted = weights()
    torch.save(wanted, tmp_path / "first.bin")
    with zipfile.ZipFile(tmp_path / "first.bin") as old, zipfile.ZipFile(tmp_path / "again.bin", "w", kind) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    loaded = load_weights(tmp_path / "again.bin")
    assert all(torch.equal(loaded[key], tensor) for key, tensor in wanted.items())


def no_such_file(*_: object, **__: object) -> str:
    raise FileNotFoundError


def test_elsewhere_nothing_is_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(weights(), tmp_path / "w.safetensors")
    mapped = load_file(tmp_path / "w.safetensors")
    monkeypatch.setattr(Path, "read_text", no_such_file)
    found = MappedPages(mapped.values())
    assert size_bytes(found) == 0
    found.release()
