"""F0 that is refined: high notes, single frames, autotune, a shift towards a pitch; the same in any pieces."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from menura.errors import OptionError
from menura.f0.contour import autotuned
from menura.f0.refined import RefinedEstimator, half_speed, repaired, smoothed
from menura.f0.registry import F0Estimator, Refinement, load_estimator, method_path
from menura.f0.swift import SwiftEstimator
from menura.loading import resolve
from menura.loading.loader import Loader
from menura.options import KEYS, SCALES, ConversionOptions
from menura.pipeline.plan import analysis_of, planned, survey
from menura.pipeline.progress import StageClock
from menura.pipeline.recording import ArrayRecording
from support.pretended_gpu import PretendedGpu
from support.tiny import tiny_models, tiny_request

CPU = torch.device("cpu")


def contour(*hz: float) -> Tensor:
    return torch.tensor([hz])


def tone(hz: float, seconds: float = 1.0, harmonics: int = 8) -> Tensor:
    times = torch.arange(int(seconds * 16_000)) / 16_000
    partials = [torch.sin(2 * torch.pi * n * hz * times) / n for n in range(1, harmonics + 1) if n * hz < 7900]
    return 0.1 * torch.stack(partials).sum(0)[None] + 1e-4 * torch.randn(1, len(times))


def test_half_speed_is_an_octave_down() -> None:
    slow = half_speed(tone(1000.0, harmonics=1))
    assert slow.shape == (1, 32_000)
    spectrum = torch.fft.rfft(slow[0] * torch.hann_window(32_000)).abs()
    assert int(spectrum.argmax()) == 1000  # bins of 0.5 Hz
    assert float(spectrum[2000:].max() / spectrum.max()) < 1e-3


@pytest.mark.parametrize(
    ("f0_hz", "guide_hz", "true_pitch", "fold"),
    [
        (400, 405, 400, 400),  # they agree: the estimate stays
        (550, 1110, 1100, 550),  # an octave too low
        (700, 1390, 700, 700),  # above the ceiling
        (220, 445, 220, 220),  # the guide isn't sure of low notes
        (390, 1170, 1170, 585),  # a twelfth too low
        (0, 1000, 1000, 500),  # lost
        (0, 300, 0, 0),
        (300, 0, 300, 300),
        (1300, 1310, 650, 650),  # above the ceiling, though found
        (0, 0, 0, 0),
    ],
)
def test_octaves(f0_hz: float, guide_hz: float, true_pitch: float, fold: float) -> None:
    for expected, mode in ((true_pitch, False), (fold, True)):
        found = repaired(contour(f0_hz), contour(guide_hz), fold=mode, ceiling_hz=1250.0)
        assert found.tolist() == [[expected]]


@pytest.mark.parametrize("method", ["swift", "fcpe"])
def test_high_notes_of_real_estimators(method: str) -> None:
    estimator = load_estimator(method, method_path(method), CPU)
    for hz in (300.0, 700.0, 1700.0):
        for repair, expected in (("true_pitch", hz), ("fold", hz / 2 if hz > 1400 else hz)):
            refined = RefinedEstimator(estimator, Refinement(repair=repair, ceiling_hz=2000.0))
            assert isinstance(refined, F0Estimator)
            found = refined.estimate(tone(hz))[0, 20:-20]
            assert float((found / expected).log2().abs().median()) < 0.01, (hz, repair, found)


def test_single_frames_are_smoothed_away_and_voicing_stays() -> None:
    assert smoothed(contour(0, 100, 100, 200, 100, 0, 0, 50, 0), 1).tolist() == [[0, 100, 100, 100, 100, 0, 0, 50, 0]]
    assert smoothed(contour(1, 2, 3, 4, 5), 2).tolist() == [[2, 2, 3, 3, 4]]


@given(st.lists(st.sampled_from([0.0, 100.0, 110.0, 440.0]), min_size=1, max_size=40), st.integers(1, 7))
def test_smoothing_is_a_median(hz: list[float], radius: int) -> None:
    found = smoothed(contour(*hz), radius)[0].tolist()
    for n, value in enumerate(found):
        near = sorted(v for v in hz[max(0, n - radius) : n + radius + 1] if v)
        assert value == (near[(len(near) - 1) // 2] if hz[n] else 0)


def test_windows_give_what_the_whole_gives() -> None:
    samples = torch.cat([tone(hz, 1.6) for hz in (200.0, 880.0, 1300.0, 0.0, 500.0, 150.0)], dim=1)
    refinement = Refinement(repair="true_pitch", ceiling_hz=1800.0, smoothing_frames=5)
    refined = RefinedEstimator(SwiftEstimator.load(CPU), refinement)
    whole, core = refined.estimate(samples)[:, :960], 160
    for start in range(0, 960, core):
        first = max(0, start - refined.context_frames)
        part = refined.estimate(samples[:, first * 160 : (start + core + refined.context_frames) * 160])
        expected = whole[:, start : start + core]
        torch.testing.assert_close(part[:, start - first :][:, :core], expected, atol=1e-2, rtol=0)


def test_autotune_moves_to_the_nearest_note() -> None:
    f0_hz = np.array([0, 440, 452, 470, 220 * 2 ** (1 / 24)], dtype=np.float32)
    tuned = autotuned(f0_hz, 1.0, "C", "chromatic")
    np.testing.assert_allclose(tuned[:4], [0, 440, 440, 466.1638], rtol=1e-5)
    assert tuned.dtype == np.float32
    half = autotuned(f0_hz, 0.5, "C", "chromatic")
    np.testing.assert_allclose(half[1:4], np.sqrt(f0_hz[1:4] * tuned[1:4]), rtol=1e-5)
    np.testing.assert_allclose(autotuned(f0_hz[1:2], 1.0, "C", "minor"), [440 * 2 ** (-1 / 12)], rtol=1e-5)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("scale", SCALES)
def test_all_notes_of_a_scale_and_no_others(key: str, scale: str) -> None:
    hz = np.geomspace(50, 1200, 5000).astype(np.float32)
    semitones = 12 * np.log2(autotuned(hz, 1.0, key, scale).astype(float) / 440) + 9 - KEYS.index(key)
    assert np.abs(semitones - np.rint(semitones)).max() < 1e-3
    assert set(np.rint(semitones).astype(int) % 12) == set(SCALES[scale])
    assert np.all(np.diff(semitones) > -1e-3)
    widest = max(b - a for a, b in pairwise((*SCALES[scale], 12)))
    moved = 12 * np.abs(np.log2(autotuned(hz, 1.0, key, scale) / hz))
    assert moved.max() <= widest / 2 + 1e-3


def test_the_pitch_asked_for_is_aimed_at_and_autotune_comes_last() -> None:
    request = tiny_request(proposed_pitch=220.0, autotune=1.0, autotune_key="C", autotune_scale="major")
    assert request.aim is not None
    assert (request.transpose, request.aim.median_hz) == ("auto", 220.0)
    recording, models = ArrayRecording(np.zeros((16_000, 1), np.float32), 16_000), tiny_models()
    plan = planned("x", request, models, *survey(recording, request, models))
    analysis = analysis_of(plan, request, models, iter(()), StageClock())
    shift = analysis.pitch.settled(np.full(30, 110, dtype=np.float32))
    assert shift.semitones == 12
    np.testing.assert_allclose(shift.finish(np.array([0, 112], dtype=np.float32)), [0, 220], rtol=1e-6)


def test_a_shift_is_either_given_or_aimed_at(tmp_path: Path) -> None:
    assert resolve(ConversionOptions(proposed_pitch=155), tmp_path).transpose == "auto"
    with pytest.raises(OptionError) as caught:
        resolve(ConversionOptions(proposed_pitch=155, transpose=2), tmp_path)
    assert caught.value.option == "proposed_pitch"
    refined = resolve(ConversionOptions(f0_repair="fold", f0_smoothing=3), tmp_path)
    assert Refinement.of(refined.options) == Refinement(repair="fold", ceiling_hz=1250.0, smoothing_frames=3)
    assert Refinement.of(ConversionOptions(f0_ceiling=1500)) == Refinement()


def test_requests_of_one_refinement_share_their_estimator(tmp_path: Path) -> None:
    loader = Loader(home=tmp_path, device=CPU)
    plain, fold, same, other = (
        loader.load(resolve(ConversionOptions(f0="swift", f0_repair=repair, f0_smoothing=n), tmp_path)).f0
        for repair, n in (("off", 0), ("fold", 2), ("fold", 2), ("fold", 3))
    )
    assert isinstance(plain, SwiftEstimator)
    assert isinstance(fold, RefinedEstimator)
    assert fold is same is not other
    assert loader.pool.loads()["f0:swift.safetensors"] == 1


def test_on_a_gpu(gpu: PretendedGpu) -> None:
    samples = torch.cat([tone(1700.0), tone(600.0)])
    refinement = Refinement(repair="fold", ceiling_hz=1250.0, smoothing_frames=3)
    expected = RefinedEstimator(SwiftEstimator.load(CPU), refinement).estimate(samples)
    there, samples = RefinedEstimator(SwiftEstimator.load(gpu.device), refinement), samples.to(gpu.device)
    gpu.reset()
    found = there.estimate(samples)
    assert gpu.kind == "mps" or not gpu.syncs
    torch.testing.assert_close(found.cpu(), expected, atol=1e-2, rtol=0)


def test_what_praat_hears_in_noise_is_no_guide(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="pm takes noise"):
        resolve(ConversionOptions(f0="pm", f0_repair="fold"), tmp_path)
