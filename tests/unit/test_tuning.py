"""How a batch is divided on a machine: by fake measurements, and what is kept of real ones."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from menura.jobs import measure, resume
from menura.jobs.measure import clean_speed, divide_batch, kept_in_words, speed_file
from menura.jobs.resume import convert_pairs
from menura.jobs.tuning import Choice, Load, Machine, Speed, choose, settled
from menura.options import BatchOptions, ConversionOptions, EngineOptions
from menura.types import Place, RunReport, Url

HOUR = Load(files=60, audio_s=3600.0, longest_s=60.0, full_size=False)
FOUR = Machine(cores=4, gpus=0, on_cpu=True, free_bytes=16 * 10**9)
EVEN = Speed(seconds=((1, 0.20), (4, 0.05)), crowding=1.0, start_s=4.0)
"""Threads lose nothing."""
LOSSY = Speed(seconds=((1, 0.20), (4, 0.10)), crowding=1.1, start_s=4.0)
"""Four threads are twice as fast as one."""


def picked(load: Load = HOUR, machine: Machine = FOUR, speed: Speed = LOSSY) -> tuple[int, int | None]:
    choice = choose(load, machine, speed)
    return choice.workers, choice.threads


def test_workers_where_threads_lose() -> None:
    assert picked() == (4, 1)
    choice = choose(HOUR, FOUR, LOSSY)
    assert choice.reason == "about 3 min, where one process with 4 threads would take 6 min"


def test_one_process_where_threads_lose_nothing() -> None:
    assert picked(speed=EVEN) == (1, 4)
    assert picked(speed=dataclasses.replace(LOSSY, crowding=2.0)) == (1, 4)


def test_a_small_gain_is_not_worth_the_memory() -> None:
    slightly = dataclasses.replace(EVEN, seconds=((1, 0.20), (4, 0.055)))
    assert picked(speed=slightly) == (1, 4)
    assert "too little less" in choose(HOUR, FOUR, slightly).reason


def test_short_batches_start_too_slowly() -> None:
    """LOSSY saves half of the time, here less than 10 s."""
    assert picked(load=dataclasses.replace(HOUR, audio_s=150.0, longest_s=20.0)) == (1, 4)


def test_a_long_file_is_not_divided() -> None:
    """All wait for it, and it is faster with all cores."""
    assert picked(load=Load(files=4, audio_s=4000.0, longest_s=3600.0, full_size=False)) == (1, 4)


def test_no_more_workers_than_files_and_memory() -> None:
    two_files = Load(files=2, audio_s=3600.0, longest_s=1800.0, full_size=False)
    assert picked(load=two_files, speed=dataclasses.replace(LOSSY, seconds=((1, 0.20), (4, 0.19)))) == (2, 2)
    small = dataclasses.replace(FOUR, free_bytes=4 * 10**9)
    assert picked(machine=small) == (3, 1)
    full = dataclasses.replace(HOUR, full_size=True)
    choice = settled(full, small)
    assert choice is not None
    assert choice.reason == "4.0 GB of free memory are too little for two workers of 2.0 GB"


def test_full_size_networks_lose_less_by_threads() -> None:
    middling = dataclasses.replace(LOSSY, seconds=((1, 0.20), (4, 0.07)), crowding=1.05)
    assert picked(speed=middling) == (4, 1)
    assert picked(load=dataclasses.replace(HOUR, full_size=True), speed=middling) == (1, 4)


def test_a_busy_machine() -> None:
    """Threads that wait for a core which others have take longer together than one alone."""
    busy = Speed(seconds=((1, 0.5), (2, 12.0)), crowding=2.0, start_s=7.0)
    two = dataclasses.replace(FOUR, cores=2)
    assert picked(machine=two, speed=busy) == (1, 1)
    assert picked(machine=two, speed=dataclasses.replace(busy, crowding=1.2)) == (2, 1)


@pytest.mark.parametrize(
    ("load", "machine", "workers", "reason"),
    [
        (dataclasses.replace(HOUR, files=1), FOUR, 1, "one file"),
        (HOUR, dataclasses.replace(FOUR, gpus=3, on_cpu=False), 3, "a worker for each of 3 GPUs"),
        (dataclasses.replace(HOUR, files=2), dataclasses.replace(FOUR, gpus=3, on_cpu=False), 2, "each of 2 GPUs"),
        (HOUR, dataclasses.replace(FOUR, gpus=1, on_cpu=False), 1, "one GPU"),
        (HOUR, dataclasses.replace(FOUR, cores=1), 1, "one core"),
        (dataclasses.replace(HOUR, audio_s=100.0), FOUR, 1, "about 40 s of sound beside the longest file"),
    ],
)
def test_settled_without_measuring(load: Load, machine: Machine, workers: int, reason: str) -> None:
    choice = settled(load, machine)
    assert choice is not None
    assert (choice.workers, choice.threads) == (workers, None)
    assert reason in choice.reason


def test_what_must_be_measured() -> None:
    assert settled(HOUR, FOUR) is None


@pytest.fixture
def talks(tmp_path: Path) -> list[Path]:
    """Three recordings of 100 s at 8 kHz."""
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", np.zeros(800_000, dtype=np.float32), 8000)
    return [tmp_path / f"{number}.wav" for number in range(3)]


def divided(talks: list[Path], home: Path, *, workers: int | None = None, threads: int | None = None) -> Choice:
    engine = EngineOptions(device="cpu", home=home, threads=threads)
    return divide_batch(talks, ConversionOptions(), engine, BatchOptions(workers=workers))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of cores with which it was measured."""
    calls: list[int] = []

    def fake(home: Path, cores: int) -> Speed:
        calls.append(cores)
        measure._keep(home, LOSSY)
        return LOSSY

    monkeypatch.setattr(measure, "_measured_now", fake)
    monkeypatch.setattr(measure, "physical_cores", lambda: 4)
    monkeypatch.setattr(measure, "available_memory_bytes", lambda: 16 * 10**9)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    return calls


def test_measured_once_and_only_where_it_can_pay(talks: list[Path], tmp_path: Path, measured: list[int]) -> None:
    assert divided(talks[:2], tmp_path).workers == 1
    assert divided(talks, tmp_path, workers=2) == Choice(workers=2, threads=None, reason="asked for")
    assert divided(talks, tmp_path, threads=3) == Choice(workers=1, threads=3, reason="asked for")
    assert measured == []
    assert "not measured yet" in kept_in_words(tmp_path)
    first = divided(talks, tmp_path)
    assert divided(talks, tmp_path) == first
    assert (first.workers, first.threads) == (1, 4)
    assert "3 with 1 would take 26 s, too little less" in first.reason
    assert measured == [4]
    assert kept_in_words(tmp_path).startswith("for a second of sound 0.20 s with 1, 0.10 s with 4 threads")


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"machine": "another", "seconds": [], "crowding": 1}'])
def test_what_is_no_measurement_of_this_machine(
    talks: list[Path], tmp_path: Path, measured: list[int], damage: str
) -> None:
    divided(talks, tmp_path)
    speed_file(tmp_path).write_text(damage)
    divided(talks, tmp_path)
    assert measured == [4, 4]
    assert json.loads(speed_file(tmp_path).read_text())["crowding"] == 1.1
    assert clean_speed(tmp_path) > 0
    assert clean_speed(tmp_path) == 0


def test_without_a_measurement(
    talks: list[Path], tmp_path: Path, measured: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (2.5, 0.0, 0.0))
    choice = divided(talks, tmp_path)
    assert (choice.workers, choice.threads, measured) == (1, None, [])
    assert "busy" in choice.reason
    monkeypatch.setattr(os, "getloadavg", lambda: (1.5, 0.0, 0.0))
    monkeypatch.setattr(measure, "_measured_now", lambda _home, _cores: None)
    assert "didn't succeed" in divided(talks, tmp_path).reason


def test_the_measurement_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_MEASURING_S", 300.0)  # however busy the machine is
    monkeypatch.setattr(measure, "_LOADING_S", 300.0)
    speed = measure._measured_now(tmp_path, 1)
    assert speed is not None
    assert [threads for threads, _ in speed.seconds] == [1]
    assert speed.seconds[0][1] > 0
    assert speed.crowding >= 1.0
    assert speed.start_s > 0
    assert measure._kept(tmp_path) == speed


@pytest.mark.parametrize(("workers", "remote", "shared"), [(1, False, False), (3, False, True), (1, True, True)])
def test_what_is_chosen_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, remote: bool, shared: bool
) -> None:
    """By workers where there are several, and for URLs, which workers fetch."""
    calls: list[tuple[int | None, int | None]] = []
    report = RunReport(files=(), wall_s=0.0, peak_memory_mb=0.0, model_loads={})

    class FakeConverter:
        def __init__(self, engine: EngineOptions) -> None:
            calls.append((None, engine.threads))

        def preload(self, options: ConversionOptions) -> None: ...

        def convert_files(self, *_: object, **__: object) -> RunReport:
            return report

    def fake(_pairs: object, _options: object, engine: EngineOptions, *, workers: int, **_: object) -> RunReport:
        calls.append((workers, engine.threads))
        return report

    monkeypatch.setattr(resume, "divide_batch", lambda *_: Choice(workers=workers, threads=2, reason=""))
    monkeypatch.setattr("menura.jobs.workers.convert_with_workers", fake)
    monkeypatch.setattr("menura.converter.Converter", FakeConverter)
    folder = Url("memory://bucket/in") if remote else tmp_path
    pairs: list[tuple[Place, Place]] = [(folder / name, tmp_path / "out" / name) for name in ("a.wav", "b.wav")]
    assert convert_pairs(pairs, ConversionOptions(), EngineOptions(), BatchOptions()) is report
    assert calls == [(workers if shared else None, 2)]
