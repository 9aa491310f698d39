"""Noise and echoes that cost words are told, and nothing is said of what is clean, or no speech."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
import soundfile as sf

from menura.audio.clarity import ClarityMeter
from menura.pipeline.recording import ArrayRecording, first_pass
from menura.pipeline.windows import streaming_extent
from menura.server.locales import message
from menura.units import ANALYSIS_RATE_HZ
from support.speech import CLIPS
from support.tiny import FakeCollector

Samples = npt.NDArray[np.float32]
RNG = np.random.default_rng


@cache
def speech(number: int = 1) -> Samples:
    """7.1, 5.3 or 3.3 s at 16 kHz."""
    samples: Samples = sf.read(CLIPS[number], dtype="float32")[0]
    return samples


def told(samples: Samples, block: int = 32_000) -> str:
    meter = ClarityMeter()
    for start in range(0, len(samples), block):
        meter.push(np.asarray(samples[start : start + block], dtype=np.float32))
    return meter.finish()


def noisy(snr_db: float, samples: Samples | None = None) -> Samples:
    clean = speech() if samples is None else samples
    scale = np.sqrt(np.mean(np.square(clean))) * 10 ** (-snr_db / 20)
    return np.asarray(clean + RNG(1).normal(0, scale, len(clean)), dtype=np.float32)


def in_room(seconds: float, below_db: float) -> Samples:
    """With echoes that die away by 60 dB in so many seconds, so far below the direct sound."""
    length = int(seconds * ANALYSIS_RATE_HZ)
    echoes = RNG(2).normal(0, 1, length) * 10 ** (-3 * np.arange(length) / length)
    echoes[:160] = 0
    echoes *= 10 ** (-below_db / 20) / np.sqrt(np.sum(echoes**2))
    echoes[0] = 1
    return np.convolve(speech(), echoes)[: len(speech())].astype(np.float32)


def telephone() -> Samples:
    spectrum = np.fft.rfft(speech())
    hz = np.fft.rfftfreq(len(speech()), 1 / ANALYSIS_RATE_HZ)
    spectrum[(hz < 300) | (hz > 3400)] = 0
    band = np.fft.irfft(spectrum, len(speech()))
    return np.asarray(np.round(band * 2048) / 2048, dtype=np.float32)


@pytest.mark.parametrize("snr_db", [5, 10, 14])
@pytest.mark.parametrize("level", [1e-3, 1.0, 30.0])
def test_noise_is_told_at_any_level(snr_db: int, level: float) -> None:
    note = told(noisy(snr_db) * level)
    assert note.startswith("Noise or other sounds are only about ")
    assert float(note.split("about ")[1].split(" dB")[0]) == pytest.approx(snr_db, abs=1.5)


def test_many_voices_are_told() -> None:
    company = [np.roll(np.resize(speech(n)[::step], len(speech())), 20_000 * n) for n in range(3) for step in (1, -1)]
    others = np.sum([each / np.std(each) for each in company], axis=0)
    note = told(speech() + others * np.std(speech()) / np.std(others) / 10 ** (12 / 20))
    assert 9 <= float(note.split("about ")[1].split(" dB")[0]) <= 15


def test_echoes_are_told() -> None:
    note = told(in_room(0.6, 0))
    assert note.startswith("The room echoes for about ")
    assert float(note.split("about ")[1].split(" s,")[0]) == pytest.approx(0.6, abs=0.2)


def silences() -> Samples:
    nothing = np.zeros(8 * ANALYSIS_RATE_HZ, dtype=np.float32)
    return np.concatenate([nothing, speech(), nothing, speech(2), nothing])


def companions() -> Samples:
    return np.asarray(speech() + 0.05 * np.roll(speech(), 30_000), dtype=np.float32)


@pytest.mark.parametrize(
    "clean",
    [
        speech,
        lambda: speech(0),
        lambda: speech(2),
        lambda: 1e-3 * speech(),
        telephone,
        lambda: noisy(20),
        lambda: in_room(0.3, 6),
        silences,
        companions,
    ],
    ids=[
        "speech",
        "another",
        "short",
        "quiet",
        "telephone",
        "little noise",
        "small room",
        "digital silence",
        "far company",
    ],
)
def test_nothing_is_said_of_what_costs_no_words(clean: Callable[[], Samples]) -> None:
    assert told(clean()) == ""


def seconds(count: float) -> npt.NDArray[np.float64]:
    return np.arange(int(count * ANALYSIS_RATE_HZ)) / ANALYSIS_RATE_HZ


@pytest.mark.parametrize(
    "other",
    [
        np.zeros(0, np.float32),
        np.zeros(1, np.float32),
        np.zeros(200_000, np.float32),
        RNG(3).normal(0, 0.1, 200_000),
        0.3 * np.sin(2 * np.pi * 220 * seconds(12)),
        1e-5 * RNG(3).normal(0, 1, 200_000),
        noisy(5)[: 2 * ANALYSIS_RATE_HZ],
    ],
    ids=["nothing", "a sample", "silence", "noise", "tone", "dither", "two seconds"],
)
def test_nothing_is_said_of_too_little_speech(other: Samples) -> None:
    assert told(other) == ""


def test_blocks_do_not_matter() -> None:
    samples = np.concatenate([noisy(9), noisy(9)])
    assert told(samples) == told(samples, 777) == told(samples, len(samples)) != ""


def test_a_silent_stretch_hides_no_noise() -> None:
    nothing = np.zeros(8 * ANALYSIS_RATE_HZ, dtype=np.float32)
    assert "about 10 dB" in told(np.concatenate([nothing, noisy(10), nothing]))


def test_most_of_a_recording_decides() -> None:
    clean, bad = np.tile(speech(), 6), np.tile(noisy(8), 6)
    assert told(np.concatenate([clean, clean, bad])) == ""
    assert told(np.concatenate([clean, bad, bad])) != ""


@pytest.mark.parametrize("samples", [noisy(8), in_room(0.7, 0)], ids=["noise", "echoes"])
def test_the_first_pass_finds_it_and_the_page_says_it_in_chinese(samples: Samples) -> None:
    assert first_pass(ArrayRecording(speech(), ANALYSIS_RATE_HZ), FakeCollector, streaming_extent).unclear == ""
    note = first_pass(ArrayRecording(samples, ANALYSIS_RATE_HZ), FakeCollector, streaming_extent).unclear
    assert note == told(samples)
    assert message(note, "zh") != note
