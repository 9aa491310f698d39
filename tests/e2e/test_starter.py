"""The starter pack on real speech: what the first minute with Menura must give."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import pytest

from menura import ConversionOptions, Converter, EngineOptions
from menura.f0.swift import SwiftEstimator
from menura.pipeline.windows import Windowing
from menura.voices.blend import Part, blend_voices
from menura.voices.library import find_voice
from support.speech import RATE, speech

if TYPE_CHECKING:
    from pathlib import Path

    from menura.types import FloatArray


@pytest.fixture(scope="module")
def converter(tmp_path_factory: pytest.TempPathFactory) -> Converter:
    return Converter(EngineOptions(home=tmp_path_factory.mktemp("home")))


def relative_db(a: FloatArray, b: FloatArray) -> float:
    return float(10 * np.log10(np.mean((a - b) ** 2) / np.mean(b**2)))


def test_stream_is_whole(converter: Converter, monkeypatch: pytest.MonkeyPatch) -> None:
    """On real speech, whatever the segments' length; docs/architecture.md has the figures of two minutes."""
    samples = speech(32)
    whole, rate = converter.convert((samples, RATE), None, ConversionOptions(strategy="whole"))
    assert len(whole) == 32 * rate
    for segment_frames, bound_db in ((1000, -40), (2000, -50)):
        short = functools.partial(Windowing, segment_frames=segment_frames)
        monkeypatch.setattr("menura.pipeline.windows.Windowing", short)
        stream, _ = converter.convert((samples, RATE), None, ConversionOptions())
        assert len(whole) == len(stream)
        assert relative_db(stream, whole) < bound_db


def test_pitch_follows_the_source(converter: Converter) -> None:
    samples = speech(7)
    for semitones in (0.0, 5.0):
        sound, rate = converter.convert((samples, RATE), None, ConversionOptions(transpose=semitones, sample_rate=RATE))
        assert rate == RATE
        source, converted = f0_of(samples), f0_of(sound)
        both = (source > 0) & (converted > 0)
        assert both.mean() > 0.3
        cents = 1200 * np.log2(converted[both] / source[both])
        assert abs(np.median(cents) - 100 * semitones) < 30
        assert np.mean(np.abs(cents - 100 * semitones) < 50) > 0.8


def f0_of(samples: FloatArray) -> FloatArray:
    import torch

    track: FloatArray = SwiftEstimator.load(torch.device("cpu")).estimate(torch.from_numpy(samples)[None])[0].numpy()
    return track


@pytest.mark.parametrize(("voice", "lowest_hz"), [("wren", 130.0), ("heron", 70.0)])
def test_glides_over_two_octaves_stay_in_tune(
    converter: Converter, tmp_path: Path, voice: str, lowest_hz: float
) -> None:
    """Up and down again while something is said, as a singer would."""
    samples = speech(7)
    seconds = np.arange(701) / 100
    wanted = lowest_hz * 2 ** (2 * (1 - np.abs(1 - 2 * seconds / 7)))
    contour = tmp_path / "glide.csv"
    contour.write_text("".join(f"{at:.2f},{hz:.3f}\n" for at, hz in zip(seconds, wanted, strict=True)))
    options = ConversionOptions(voice=voice, f0_file=contour, sample_rate=RATE)
    sung = f0_of(converter.convert((samples, RATE), None, options)[0])
    voiced = sung > 0
    cents = 1200 * np.log2(sung[voiced] / wanted[: len(sung)][voiced])
    assert voiced.mean() > 0.5
    assert abs(np.median(cents)) < 10
    assert np.mean(np.abs(cents) < 50) > 0.95


def test_it_is_not_the_source_and_not_silence(converter: Converter) -> None:
    samples = speech(7)
    sound, _ = converter.convert((samples, RATE), None, ConversionOptions(sample_rate=RATE))
    assert 0.25 < np.sqrt(np.mean(sound**2)) / np.sqrt(np.mean(samples**2)) < 4
    assert np.abs(np.corrcoef(sound, samples)[0, 1]) < 0.9


def test_a_blend_lies_between_its_parents(tmp_path: Path) -> None:
    parts = [Part(voice=find_voice(voice, tmp_path), share=share) for voice, share in (("wren", 0.7), ("heron", 0.3))]
    blend_voices(parts, "finch", tmp_path)
    converter = Converter(EngineOptions(home=tmp_path))
    log_mel = {}
    for voice in ("wren", "heron", "finch"):
        sound, _ = converter.convert((speech(4), RATE), None, ConversionOptions(voice=voice, transpose=0))
        log_mel[voice] = spectrum(sound)

    def distance(one: str, other: str) -> float:
        return float(np.abs(log_mel[one] - log_mel[other]).mean())

    assert distance("wren", "finch") < distance("heron", "finch") < distance("wren", "heron")
    assert distance("wren", "finch") + distance("heron", "finch") < 1.3 * distance("wren", "heron")


def spectrum(sound: FloatArray) -> FloatArray:
    """(frames, bins) logarithms of magnitudes."""
    windows = np.lib.stride_tricks.sliding_window_view(sound, 1024)[::256] * np.hanning(1024)
    return np.log(np.maximum(np.abs(np.fft.rfft(windows)), 1e-4)).astype(np.float32)


def test_consonants_stay_without_variation(converter: Converter) -> None:
    """The noise of the starter voices' excitation is sound, not variation: `noise_scale` 0 must not silence it."""
    samples = speech(5)
    varied, still = (
        converter.convert((samples, RATE), None, ConversionOptions(sample_rate=RATE, noise_scale=scale))[0]
        for scale in (1.0, 0.0)
    )
    high = [np.abs(np.fft.rfft(sound))[int(5000 * len(sound) / RATE) :] for sound in (varied, still)]
    assert np.sum(high[1] ** 2) > 0.7 * np.sum(high[0] ** 2)


def test_each_network_is_loaded_once(converter: Converter, tmp_path: Path) -> None:
    import soundfile as sf

    items = []
    for number in range(3):
        sf.write(tmp_path / f"{number}.wav", speech(1 + number), RATE)
        items.append((tmp_path / f"{number}.wav", tmp_path / "out" / f"{number}.wav"))
    report = converter.convert_files(items)
    assert report.exit_code == 0
    assert report.model_loads
    assert set(report.model_loads.values()) == {1}, report.model_loads
