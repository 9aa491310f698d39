"""How many processes share a batch where nobody says so."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from menura.jobs import processes
from menura.jobs.processes import process_count
from menura.options import BatchOptions, EngineOptions
from menura.types import Item
from support.tiny import tiny_request


@pytest.fixture
def talks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Eight files of about a minute, on a machine of 16 cores and 16 GB."""
    machine(monkeypatch)
    paths = [tmp_path / f"{number}.wav" for number in range(8)]
    for path in paths:
        path.write_bytes(b"")
        with path.open("r+b") as file:
            file.truncate(5 * 2**20)
    return paths


def machine(patch: pytest.MonkeyPatch, *, cores: int = 16, gpus: int = 0, free_gb: float = 16) -> None:
    patch.setattr(processes, "default_threads", lambda: cores)
    patch.setattr(processes, "cuda_devices", lambda: gpus)
    patch.setattr(processes, "available_memory_bytes", lambda: int(free_gb * 1e9))
    patch.setattr(processes.platform, "machine", lambda: "x86_64")


def count(
    paths: list[Path], engine: EngineOptions | None = None, *, workers: int | None = None, builtin: bool = False
) -> int:
    items = [Item(source=path, output=path.with_suffix(".out")) for path in paths]
    request = tiny_request()
    request = dataclasses.replace(request, voice=dataclasses.replace(request.voice, builtin=builtin))
    return process_count(items, engine or EngineOptions(), BatchOptions(workers=workers), request)


def test_what_is_asked_for_is_done(talks: list[Path]) -> None:
    assert count(talks, workers=3) == 3
    assert count(talks, workers=100) == 8
    assert count([], workers=2) == 1
    assert count(talks, EngineOptions(threads=2)) == 1
    assert count(talks, EngineOptions(threads=2), workers=3) == 3


@pytest.mark.parametrize(("cores", "wanted"), [(1, 1), (2, 1), (7, 1), (8, 2), (16, 4), (128, 4)])
def test_one_for_every_four_cores_as_memory_permits(
    talks: list[Path], monkeypatch: pytest.MonkeyPatch, cores: int, wanted: int
) -> None:
    machine(monkeypatch, cores=cores)
    assert count(talks) == wanted
    machine(monkeypatch, cores=cores, free_gb=3)
    assert count(talks) == 1


def test_a_starter_voice_takes_less_memory(talks: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cores=128, free_gb=6)
    assert count(talks) == 1
    assert count(talks, builtin=True) == 5


def test_one_for_each_gpu(talks: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpus=1)
    assert count(talks) == 1
    machine(monkeypatch, gpus=3)
    assert count(talks) == 3
    assert count(talks[:2]) == 2
    assert count(talks, EngineOptions(device="cuda:1")) == 1
    assert count(talks, EngineOptions(device="cpu")) == 4


def test_little_to_do_is_for_one(talks: list[Path], tmp_path: Path) -> None:
    assert count(talks[:1]) == 1
    short = [tmp_path / f"short-{number}.wav" for number in range(50)]
    for path in short:
        path.write_bytes(bytes(32_000))
    assert count(short) == 1
    assert count([*short, *talks]) == 4
