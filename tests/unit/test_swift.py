from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import swift_f0
import torch
from safetensors.torch import load_file

from menura.f0 import swift
from menura.f0.registry import SWIFT_WEIGHTS, F0Estimator
from menura.f0.swift import SwiftEstimator, resampled_contour
from menura.kernels.starter import NativeSwift
from menura.models.swift import HOP_SAMPLES, SwiftF0
from recipes.swift.convert import converted
from support.kernels import assert_close, built, paths

CLIP = Path(__file__).parents[1] / "conformance" / "data" / "clip.npz"


@pytest.fixture(scope="module")
def estimator() -> SwiftEstimator:
    return SwiftEstimator.load(torch.device("cpu"))


def speech() -> torch.Tensor:
    with np.load(CLIP) as arrays:
        return torch.from_numpy(arrays["samples"])[None]


def sine(hz: float, seconds: float = 1.0) -> torch.Tensor:
    return 0.3 * torch.sin(2 * torch.pi * hz * torch.arange(int(seconds * 16_000)) / 16_000)[None]


def test_the_weights_are_the_packages() -> None:
    made = converted(Path(swift_f0.__file__).with_name("model.onnx").read_bytes())
    own = load_file(str(SWIFT_WEIGHTS))
    assert made.keys() == own.keys()
    for name, tensor in own.items():
        torch.testing.assert_close(made[name], tensor, rtol=0, atol=0)


def noise(samples: int) -> torch.Tensor:
    return 0.1 * torch.randn(1, samples, generator=torch.Generator().manual_seed(samples))


@pytest.mark.parametrize(
    ("samples", "voiced"),
    [(speech(), (0.3, 0.95)), (speech() * 0.003, (0.0, 0.9)), (speech() + noise(speech().shape[1]), (0.05, 0.9))]
    + [(sine(hz) + 0.03 * noise(16_000), (0.9, 1.0)) for hz in (110.0, 300.0, 1390.0)]
    + [(noise(length), (0.0, 1.0)) for length in (1, 255, 256, 300, 40_000)],
    ids=lambda value: f"{value.shape[1]}" if isinstance(value, torch.Tensor) else "",
)
def test_gives_what_the_package_gives_in_onnx_runtime(samples: torch.Tensor, voiced: tuple[float, float]) -> None:
    """Not of a pure tone, whose empty bands hold the rounding of one Fourier transform or the other."""
    own = SwiftF0.from_tensors(load_file(str(SWIFT_WEIGHTS)), swift._LOW_HZ, swift._HIGH_HZ)
    with torch.inference_mode():
        pitch_hz, heard = own(samples)
    other = swift_f0.SwiftF0(threads=1).detect(samples[0].numpy(), 16_000, swift._LOW_HZ, swift._HIGH_HZ)
    assert pitch_hz.shape == heard.shape == (1, max(1, samples.shape[1] // HOP_SAMPLES))
    np.testing.assert_array_equal(heard[0].numpy(), other.confidence >= 0.5)
    cents = 1200 * np.log2(pitch_hz[0].numpy().astype(np.float64) / other.pitch_hz)
    assert np.abs(cents).max() < 0.005
    assert voiced[0] <= float(heard.float().mean()) <= voiced[1]


@pytest.mark.parametrize("path", paths())
def test_the_kernels_give_what_torch_gives(path: str) -> None:
    """The compiled ones as the estimator has them, of lengths about a plane's pitch."""
    own = SwiftF0.from_tensors(load_file(str(SWIFT_WEIGHTS)), swift._LOW_HZ, swift._HIGH_HZ)
    native = NativeSwift(own, built(path))
    for frames in (1, 31, 32, 33, 150):
        spectra = torch.cat([speech(), speech().flip(1)])[:, : frames * HOP_SAMPLES]
        with torch.inference_mode():
            spectra = own._spectra(spectra, frames)
            for made, wanted in zip(native.heard(spectra), own.heard(spectra), strict=True):
                assert_close(made, wanted.double())


def test_long_windows_are_estimated_in_pieces_that_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    estimator, samples = SwiftEstimator.load(torch.device("cpu")), speech()
    whole = estimator.estimate(samples)
    monkeypatch.setattr(swift, "_PIECE_FRAMES", 30)
    pieces = estimator.estimate(samples)
    torch.testing.assert_close(pieces, whole, rtol=1e-5, atol=0)


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


def contour(pitch_hz: list[float], voiced: list[bool], frames: int) -> np.ndarray:
    found: np.ndarray = resampled_contour(torch.tensor([pitch_hz]), torch.tensor([voiced]), frames)[0].numpy()
    return found


def test_between_voiced_estimates_pitch_is_interpolated_in_semitones() -> None:
    f0_hz = contour([100.0, 200.0, 100.0], [True, True, True], 4)
    # 10 ms frames lie at 0, 5/8, 10/8, 15/8 of the estimates' grid.
    np.testing.assert_allclose(f0_hz, 100 * 2 ** np.array([0, 5 / 8, 6 / 8, 1 / 8]), rtol=1e-6)


def test_voicing_is_the_nearest_estimates() -> None:
    f0_hz = contour([100.0, 200.0, 300.0], [True, False, True], 8)
    # 5/8 and 10/8 are nearest to the unvoiced one, 15/8 to the last; beyond that it holds.
    np.testing.assert_allclose(f0_hz, [100, 0, 0, 300, 300, 300, 300, 300], rtol=1e-6)


def test_of_two_equally_near_estimates_the_earlier_counts() -> None:
    assert contour([100.0] * 4, [True, True, True, False], 5)[4] > 0  # at 20/8 = 2.5
    assert contour([100.0] * 4, [True, False, False, True], 5)[4] == 0
