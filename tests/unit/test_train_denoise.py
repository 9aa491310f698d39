"""Noise reduction of training data: hiss goes, speech stays."""

from __future__ import annotations

import numpy as np
import pytest

from menura.train.data.slicing import denoised


def test_noise_is_taken_out_and_speech_left() -> None:
    rate, rng = 16_000, np.random.default_rng(0)
    t = np.arange(4 * rate) / rate
    talking = (np.sin(2 * np.pi * 1.5 * t) > 0).astype(np.float32)
    voice = sum(np.sin(2 * np.pi * 150 * k * t) / k for k in range(1, 20)) * 0.1 * talking
    hiss = rng.normal(0, 0.005, len(t))
    noisy = (voice + hiss).astype(np.float32)
    cleaned = denoised(noisy, rate, 0.9)
    assert cleaned.shape == noisy.shape
    assert cleaned.dtype == np.float32
    pauses = np.convolve(talking, np.ones(1600), mode="same") == 0
    assert np.std(cleaned[pauses]) < 0.25 * np.std(noisy[pauses])
    speaking = np.convolve(talking, np.ones(1600), mode="same") > 1599
    assert np.corrcoef(cleaned[speaking], voice[speaking])[0, 1] > 0.995
    assert np.std(cleaned[speaking]) == pytest.approx(np.std(voice[speaking]), rel=0.05)


@pytest.mark.parametrize("samples", [np.zeros(0), np.zeros(10), np.zeros(50_000), np.full(100, 0.3)])
def test_nothing_and_silence_can_be_cleaned(samples) -> None:
    cleaned = denoised(samples.astype(np.float32), 48_000, 1.0)
    assert cleaned.shape == samples.shape
    assert np.isfinite(cleaned).all()


def test_a_strength_of_nothing_changes_nothing() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 20_000).astype(np.float32)
    assert np.array_equal(denoised(noise, 16_000, 0.0), noise)
    weak = denoised(noise, 16_000, 1e-6)
    assert np.abs(weak - noise).max() < 1e-5
