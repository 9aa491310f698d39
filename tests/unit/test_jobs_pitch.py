"""The shifts of a batch: from its recordings' common pitch, without hearing much of them; kept for later runs."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from menura.converter import Converter
from menura.f0.swift import SwiftEstimator
from menura.jobs.batch import convert_folder, convert_items, with_common_shift
from menura.jobs.scheduler import Hooks
from menura.loading import Request, resolve
from menura.options import BatchOptions, ConversionOptions, EngineOptions
from menura.types import FloatArray, Item

RATE = 16_000
ENGINE = EngineOptions(threads=1)


def voiced(hz: float, seconds: float) -> FloatArray:
    """Something that has a pitch."""
    times = np.arange(int(seconds * RATE)) / RATE
    return np.asarray(sum(0.1 * np.sin(2 * np.pi * hz * n * times) / n for n in range(1, 8)), dtype=np.float32)


def hum(path: Path, hz: float, seconds: float = 2.0) -> Path:
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, voiced(hz, seconds), RATE)
    return path


def noise(path: Path, seconds: float = 2.0) -> Path:
    """Breath, with voice for a moment."""
    samples = 0.05 * np.random.default_rng(2).standard_normal(int(seconds * RATE)).astype(np.float32)
    samples[RATE:][: RATE // 16] += voiced(300, 1 / 16)
    soundfile.write(path, samples, RATE)
    return path


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    return resolve(ConversionOptions(f0="swift"), tmp_path)


def shifts(request: Request, *sources: Path) -> tuple[float, ...]:
    found = with_common_shift(request, sources)
    assert found.transpose == "auto"
    assert found.identity == request.identity  # the journal keeps them
    return found.shifts


def test_speakers_are_told_apart_and_what_cannot_be_heard_does_not_count(tmp_path: Path, request_: Request) -> None:
    low, high = hum(tmp_path / "low.wav", 110, 4), hum(tmp_path / "high.wav", 220)
    near, bad, quiet = hum(tmp_path / "near.wav", 117), tmp_path / "bad.wav", tmp_path / "quiet.wav"
    bad.write_bytes(b"no sound" * 100)
    soundfile.write(quiet, np.zeros(10), RATE)
    assert request_.aim is not None
    to_wren = 12 * np.log2(request_.aim.median_hz / 110)
    (one,) = shifts(request_, low, near, bad, quiet, noise(tmp_path / "noise.wav"))
    assert one == pytest.approx(to_wren, abs=1)
    assert shifts(request_, high, low) == (pytest.approx(to_wren, abs=1), pytest.approx(to_wren - 12, abs=1))
    assert shifts(request_, bad, quiet) == shifts(request_) == shifts(request_, low) == ()
    batch = replace(request_, options=replace(request_.options, transpose="auto-batch"))
    assert batch.identity != request_.identity
    assert shifts(batch, high, low) == shifts(batch, low, low)  # there is more of it
    assert shifts(batch, bad, quiet) == (0.0,)


@pytest.mark.parametrize("options", [{"transpose": "auto"}, {"transpose": 3.0}, {"compat": "rvc"}])
def test_other_requests_stay_as_they_are(tmp_path: Path, options: dict[str, object]) -> None:
    request = resolve(ConversionOptions(f0="swift", **options), tmp_path)  # type: ignore[arg-type]
    assert with_common_shift(request, [tmp_path / "nothing.wav"] * 2) is request


def test_little_is_heard_of_however_many(tmp_path: Path, request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []

    def estimate(_self: object, samples: torch.Tensor) -> torch.Tensor:
        heard.append(samples.shape[1])
        return torch.full((1, samples.shape[1] // 160 + 1), 100.0)

    monkeypatch.setattr(SwiftEstimator, "estimate", estimate)
    long = hum(tmp_path / "long.wav", 110, 20)
    shifts(request_, *[long] * 400)
    assert len(heard) == 16
    assert max(heard) <= 8 * RATE
    heard.clear()
    with_common_shift(request_, [long] * 400, known=(3.0,))
    assert heard == []


def test_conversions_estimate_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the short look ahead, a batch's recordings have as many windows as alone."""
    heard: list[int] = []
    estimate = SwiftEstimator.estimate

    def counted(self: SwiftEstimator, samples: torch.Tensor) -> torch.Tensor:
        heard.append(samples.numel())
        return estimate(self, samples)

    monkeypatch.setattr(SwiftEstimator, "estimate", counted)
    sources = [hum(tmp_path / "in" / f"{n}.wav", 110 + 3 * n, 1.0 + n) for n in range(3)]
    convert_folder(tmp_path / "in", tmp_path / "alone", ConversionOptions(f0="swift", transpose="auto"), engine=ENGINE)
    alone = sum(heard)
    heard.clear()
    convert_folder(tmp_path / "in", tmp_path / "together", ConversionOptions(f0="swift"), engine=ENGINE)
    ahead = sum(soundfile.info(source).frames for source in sources)
    assert alone < sum(heard) <= alone + ahead + 3 * RATE


def test_a_folders_files_are_moved_alike_and_later_ones_like_them(tmp_path: Path) -> None:
    """Unless a speaker is another, who is told of; one that is all breath goes with the others."""
    folder, out = tmp_path / "in", tmp_path / "out"
    for number, hz in enumerate((96, 101, 108)):
        hum(folder / f"{number}.wav", hz)
    noise(folder / "breath.wav")
    alone = convert_folder(folder, tmp_path / "alone", ConversionOptions(transpose="auto"), engine=ENGINE)
    assert len({result.transpose for result in alone.files}) > 2
    first = convert_folder(folder, out, engine=ENGINE)
    found = {result.transpose for result in first.files}
    (shift,) = found
    assert shift is not None
    notes = {Path(result.input).name: result.notes for result in first.files}
    assert notes["0.wav"] == (f"Pitch was moved by {shift:+g} semitones to the voice's.",)
    assert any("moved like the other recordings" in note for note in notes["breath.wav"])
    for number in range(3, 9):
        hum(folder / f"{number}.wav", 92)
    hum(folder / "child.wav", 330)
    later = {Path(r.input).name: r for r in convert_folder(folder, out, engine=ENGINE).files}
    assert {name for name, result in later.items() if result.resumed} == set(notes)
    assert {result.transpose for name, result in later.items() if name != "child.wav"} == {shift}
    assert later["child.wav"].transpose == -9
    assert any("it isn't like the other recordings" in note for note in later["child.wav"].notes)
    again = convert_folder(folder, out, engine=ENGINE, batch=BatchOptions(force=True))
    (new,) = {r.transpose for r in again.files if Path(r.input).name != "child.wav"}
    assert new is not None
    assert new > shift


@pytest.mark.slow
def test_workers_and_other_machines_are_told(tmp_path: Path, request_: Request) -> None:
    items = [Item(source=hum(tmp_path / f"{hz}.wav", hz), output=tmp_path / f"{hz}.out.wav") for hz in (96, 108)]
    batch = BatchOptions(workers=2)
    report = convert_items(items, request_, folder=None, batch=batch, engine=ENGINE, hooks=Hooks())
    (shift,) = {result.transpose for result in report.files}
    request = with_common_shift(request_, [item.source for item in items])
    assert request.shifts == (shift,)
    with Converter(ENGINE) as converter:
        assert converter.resolve(pickle.loads(pickle.dumps(request.portable))).shifts == (shift,)
    assert request.parts_tag(None) != request_.parts_tag(None)


@pytest.mark.parametrize("samples", [10, 160, 2399])
def test_what_is_reflected_at_the_ends_is_no_voice(tmp_path: Path, samples: int) -> None:
    """The few milliseconds of a click, repeated, have a pitch that nobody spoke at."""
    soundfile.write(tmp_path / "click.wav", voiced(900, 1.0)[100:][:samples], RATE)
    options = ConversionOptions(f0="swift", transpose="auto")
    with Converter(ENGINE) as converter:
        result = converter.convert(tmp_path / "click.wav", tmp_path / "out.wav", options)
    assert not any("was moved by" in note for note in result.notes), result.notes
    assert not result.notes or any("too little voice to tell its pitch" in note for note in result.notes)
