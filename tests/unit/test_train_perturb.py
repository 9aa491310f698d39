"""Speech as another speaker's: what moves, what stays, what is repeatable."""

from __future__ import annotations

import numpy as np
import pytest

from menura.f0.swift import SwiftEstimator
from menura.pipeline.analysis import analyse_clips
from menura.train.data.features import at_original_times
from menura.train.data.perturb import perturb, with_formants
from support.training import CPU, FakeEncoder

RATE = 16_000


def vowel(seconds: float = 2.0, f0_hz: float = 130.0, formants_hz: tuple[float, ...] = (700, 1220, 2600)) -> np.ndarray:
    """Pulses through three resonances."""
    time = np.arange(int(seconds * RATE))
    sound = np.zeros(len(time))
    for number in range(1, int(RATE / 2 / f0_hz)):
        hz = number * f0_hz
        gain = sum(1 / (1 + ((hz - formant) / 80) ** 2) for formant in formants_hz) + 0.01
        sound += gain * np.cos(2 * np.pi * hz * time / RATE)
    return (0.1 * sound / np.abs(sound).max()).astype(np.float32)


def peak_hz(samples: np.ndarray, low: float, high: float) -> float:
    """Where the smoothed spectrum is largest."""
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    hz = np.fft.rfftfreq(len(samples), 1 / RATE)
    width = int(150 * len(samples) / RATE)
    smooth = np.convolve(power, np.hanning(width), mode="same")
    inside = (hz > low) & (hz < high)
    return float(hz[inside][np.argmax(smooth[inside])])


@pytest.mark.parametrize("factor", [0.87, 1.15])
def test_formants_move_and_pitch_stays(factor: float) -> None:
    sound = vowel()
    made = with_formants(sound, factor)
    assert made.shape == sound.shape
    assert peak_hz(made, 2000, 3400) == pytest.approx(factor * peak_hz(sound, 2000, 3400), rel=0.04)
    before, after = analyse_clips([sound, made], FakeEncoder(), SwiftEstimator.load(CPU), CPU)
    assert before.f0_hz is not None
    assert after.f0_hz is not None
    assert np.median(after.f0_hz[20:160]) == pytest.approx(np.median(before.f0_hz[20:160]), rel=0.01)
    assert np.sqrt(np.mean(made**2)) == pytest.approx(np.sqrt(np.mean(sound**2)), rel=1e-3)


def test_formants_left_where_they_are_change_nothing() -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 20_001).astype(np.float32)
    assert np.abs(with_formants(sound, 1.0) - sound).max() < 1e-5


@pytest.mark.parametrize("size", [0, 1, 255, 256, 1025])
def test_short_and_silent_sound(size: int) -> None:
    for samples in (np.zeros(size, dtype=np.float32), np.full(size, 0.5, dtype=np.float32)):
        made = with_formants(samples, 1.1)
        assert made.shape == (size,)
        assert np.isfinite(made).all()


def test_a_perturbation_is_decided_by_its_generator() -> None:
    sound = vowel()
    first, again, other = (perturb(sound, RATE, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first[0], again[0])
    assert first[1] == again[1] != other[1]
    assert len(other[0]) == pytest.approx(len(sound) / other[1], abs=2)


def test_echoes_and_filters_move_nothing_in_time() -> None:
    silence, burst = np.zeros(RATE, dtype=np.float32), vowel(0.2)
    sound = np.concatenate([silence, burst, silence])
    for seed in range(8):
        made, speed = perturb(sound, RATE, np.random.default_rng(seed))
        energy = np.convolve(made**2, np.ones(160), mode="same")
        onset_s = int(np.argmax(energy > 0.3 * energy.max())) / RATE
        assert onset_s * speed == pytest.approx(1.0, abs=0.04)


def test_content_keeps_the_original_time_axis() -> None:
    other, speed = perturb(vowel(), RATE, np.random.default_rng(3))
    (analysis,) = analyse_clips([other], FakeEncoder(), None, CPU)
    content = at_original_times(analysis.content, speed, 100)
    assert content.shape[0] == 100
    assert np.isfinite(content).all()
