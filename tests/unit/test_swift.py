from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from menura.f0.registry import F0Estimator
from menura.f0.swift import SwiftEstimator, resampled_contour

CLIP = Path(__file__).parents[1] / "conformance" / "data" / "clip.npz"


@pytest.fixture(scope="module")
def estimator() -> SwiftEstimator:
    return SwiftEstimator(threads=1)


def speech() -> torch.Tensor:
    with np.load(CLIP) as arrays:
        return torch.from_numpy(arrays["samples"])[None]


def sine(hz: float, seconds: float = 1.0) -> torch.Tensor:
    return 0.3 * torch.sin(2 * torch.pi * hz * torch.arange(int(seconds * 16_000)) / 16_000)[None]


def test_is_an_f0_estimator(estimator: SwiftEstimator) -> None:
    assert isinstance(estimator, F0Estimator)


@pytest.mark.parametrize("hz", [110.0, 440.0, 1046.5])
def test_tones_are_heard_within_a_fifth_of_a_semitone(estimator: SwiftEstimator, hz: float) -> None:
    f0_hz = estimator.estimate(sine(hz))[0, 10:90]
    assert (12 * torch.log2(f0_hz / hz)).abs().max() < 0.2


def test_fixed_windows_with_context_give_what_the_whole_gives(estimator: SwiftEstimator) -> None:
    """On the grid of 8 frames that F0Estimator asks for, with its own context."""
    samples = speech()
    frames = 240
    whole = estimator.estimate(samples)[0, :frames]
    assert 0.3 < float((whole > 0).float().mean()) < 0.95
    parts = []
    for start in range(0, frames, 80):
        begin = max(0, start - estimator.context_frames)
        end = min(frames, start + 80 + estimator.context_frames)
        part = estimator.estimate(samples[:, 160 * begin : 160 * end + 80])[0]
        parts.append(part[start - begin : start - begin + 80])
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=0)


def test_rows_do_not_see_each_other(estimator: SwiftEstimator) -> None:
    samples = torch.cat([speech(), torch.flip(speech(), (1,))])
    torch.testing.assert_close(estimator.estimate(samples)[1:], estimator.estimate(samples[1:]))


@pytest.mark.parametrize("length", [1, 255, 256, 1000, 16_000])
def test_silence_is_unvoiced_at_any_length(estimator: SwiftEstimator, length: int) -> None:
    f0_hz = estimator.estimate(torch.zeros(2, length))
    assert f0_hz.shape == (2, length // 160 + 1)
    assert not f0_hz.any()


def test_between_voiced_estimates_pitch_is_interpolated_in_semitones() -> None:
    f0_hz = resampled_contour(np.array([100.0, 200.0, 100.0]), np.array([0.9, 0.9, 0.9]), 4)
    # 10 ms frames lie at 0, 5/8, 10/8, 15/8 of the estimates' grid.
    np.testing.assert_allclose(f0_hz, 100 * 2 ** np.array([0, 5 / 8, 6 / 8, 1 / 8]), rtol=1e-6)


def test_voicing_is_the_nearest_estimates() -> None:
    pitch, confidence = np.array([100.0, 200.0, 300.0]), np.array([0.9, 0.49, 0.5])
    f0_hz = resampled_contour(pitch, confidence, 8)
    # 5/8 and 10/8 are nearest to the unvoiced one, 15/8 to the last; beyond that it holds.
    np.testing.assert_allclose(f0_hz, [100, 0, 0, 300, 300, 300, 300, 300], rtol=1e-6)


def test_of_two_equally_near_estimates_the_earlier_counts() -> None:
    confidence = np.array([0.9, 0.9, 0.9, 0.0])
    f0_hz = resampled_contour(np.full(4, 100.0), confidence, 5)
    assert f0_hz[4] > 0  # at 20/8 = 2.5
    assert resampled_contour(np.full(4, 100.0), confidence[::-1].copy(), 5)[4] > 0
