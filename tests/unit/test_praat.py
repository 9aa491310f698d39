"""Praat's F0 by parselmouth: where its frames are, windows, and that it isn't loaded unless it is asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import parselmouth
import pytest
import torch

from menura.errors import AssetMissingError
from menura.f0.praat import PraatEstimator
from menura.f0.registry import F0Estimator, load_estimator, method_path
from support.speech import speech

CPU = torch.device("cpu")
CLIP = Path(__file__).parents[1] / "conformance" / "data" / "clip.npz"


@pytest.fixture
def estimator() -> F0Estimator:
    found = load_estimator("pm", method_path("pm"), CPU)
    assert isinstance(found, PraatEstimator)
    assert isinstance(found, F0Estimator)
    return found


def clip() -> np.ndarray:
    with np.load(CLIP) as arrays:
        return np.asarray(arrays["samples"])


def test_gives_what_praat_gives_on_a_grid_of_its_own(estimator: F0Estimator) -> None:
    samples = clip()
    own = estimator.estimate(torch.from_numpy(samples)[None])[0].numpy()
    pitch = parselmouth.Sound(samples.astype(float), 16_000).to_pitch_ac(
        time_step=0.01, pitch_floor=50, pitch_ceiling=1100, voicing_threshold=0.6
    )
    theirs = pitch.selected_array["frequency"]
    at = np.interp(pitch.xs(), np.arange(len(own)) / 100, own)
    nearest = own[np.rint(100 * pitch.xs()).astype(int)]
    both = (nearest > 0) & (theirs > 0)
    assert both.mean() > 0.4
    assert ((nearest > 0) == (theirs > 0)).mean() > 0.93
    assert np.median(np.abs(12 * np.log2(at[both] / theirs[both]))) < 0.1


@pytest.mark.parametrize("length", [1, 79, 159, 160, 161, 400, 8080, 16_000])
def test_there_is_a_frame_every_10_ms(estimator: F0Estimator, length: int) -> None:
    found = estimator.estimate(torch.zeros(2, length))
    assert found.shape == (2, length // 160 + 1)
    assert not found.any()


def test_a_frame_lies_where_it_says(estimator: F0Estimator) -> None:
    """A tone that rises by 100 Hz a second: F0 says what time it is."""
    times = np.arange(32_000) / 16_000
    phase = 2 * np.pi * (200 * times + 50 * times**2)
    samples = sum(np.sin(n * phase) / n for n in range(1, 6)).astype(np.float32)
    found = estimator.estimate(torch.from_numpy(0.1 * samples)[None])[0, 5:-5].numpy()
    np.testing.assert_allclose(found, 200 + np.arange(201)[5:-5], atol=0.5)


def test_windows_with_context_give_nearly_what_the_whole_gives(estimator: F0Estimator) -> None:
    samples = torch.from_numpy(speech(12.0))[None]
    whole, core, context = estimator.estimate(samples), 300, estimator.context_frames
    parts = []
    for start in range(0, 1200, core):
        first = max(0, start - context)
        part = estimator.estimate(samples[:, first * 160 : (start + core + context) * 160])
        parts.append(part[:, start - first :][:, :core])
    assert float((torch.cat(parts, 1) - whole[:, :1200]).abs().gt(0.5).float().mean()) < 0.02


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(AssetMissingError, match=r"menura\[pm\]"):
        method_path("pm")


def test_it_loads_only_where_it_is_asked_for() -> None:
    code = "import sys; from menura.f0.registry import *; method_path('pm'); import menura.f0.networks; "
    code += "print('parselmouth' in sys.modules); load_estimator('pm', method_path('pm'), None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
