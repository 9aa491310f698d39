"""The starter pack's content encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from menura.content.registry import ContentEncoder
from menura.content.starter import LevelCollector, LevelStatistics, StarterEncoder
from menura.errors import AssetMissingError
from menura.models.mel import mel_filterbank
from menura.models.whisper_encoder import LogMel, WhisperContentEncoder


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    model = WhisperContentEncoder(dim=24, n_heads=2, n_blocks=1, max_vectors=200, n_directions=3)
    model.speaker_directions.copy_(torch.linalg.qr(torch.randn(24, 3)).Q)
    return StarterEncoder(model, torch.device("cpu"))


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def test_is_a_content_encoder(tiny):
    assert isinstance(tiny, ContentEncoder)
    assert tiny.core_frames % 2 == 0
    assert tiny.global_windows


@pytest.mark.parametrize("samples", [320, 640, 16_000, 16_080, 16_319])
def test_frame_count(tiny, samples):
    out = tiny.encode(torch.from_numpy(noise(samples))[None], None)
    assert out.shape == (1, samples // 320, 24)


def test_filterbank_has_equal_areas_and_covers_the_band():
    bank = mel_filterbank(sample_rate=16_000, n_fft=400, n_mels=80)
    assert bank.shape == (80, 201)
    assert (bank >= 0).all()
    assert (bank[:, 1:-1].sum(dim=0) > 0).float().mean() > 0.95
    # The highest triangle: 2 / (its width in Hz) at its top.
    assert bank[-1].max() == pytest.approx(2 / (8000 - 7487), rel=0.2)


def test_speaker_directions_are_removed(tiny):
    out = tiny.encode(torch.from_numpy(noise(16_000))[None], None)[0]
    assert (out @ tiny.model.speaker_directions).abs().max() < 1e-4


def test_given_level_equals_own(tiny):
    samples = torch.from_numpy(noise(16_000))[None]
    largest = float(tiny.model.log_mel(samples).max())
    own = tiny.encode(samples, None)
    given = tiny.encode(samples, [LevelStatistics(log_mel_max=largest)])
    assert torch.equal(own, given)


def test_rows_do_not_touch_each_other(tiny):
    rows = torch.from_numpy(np.stack([noise(16_000, 1), noise(16_000, 2)]))
    levels = [LevelStatistics(log_mel_max=0.5), LevelStatistics(log_mel_max=1.5)]
    together = tiny.encode(rows, levels)
    for i in range(2):
        assert torch.allclose(together[i], tiny.encode(rows[i : i + 1], levels[i : i + 1])[0], atol=1e-5)


@pytest.mark.parametrize("block", [1, 159, 160, 400, 7_000])
def test_survey_does_not_depend_on_blocks(block):
    samples = noise(7_001)
    whole, parts = LevelCollector(LogMel()), LevelCollector(LogMel())
    whole.push(samples)
    for start in range(0, len(samples), block):
        parts.push(samples[start : start + block])
    assert parts.finish().log_mel_max == pytest.approx(whole.finish().log_mel_max, abs=1e-6)


@pytest.mark.parametrize("samples", [0, 1, 399])
def test_survey_of_next_to_nothing(samples):
    collector = LevelCollector(LogMel())
    collector.push(np.zeros(samples, dtype=np.float32))
    assert collector.finish().log_mel_max == -10.0


def test_scaled_level_is_that_of_the_scaled_recording():
    samples = noise(8_000)
    loud, soft = LevelCollector(LogMel()), LevelCollector(LogMel())
    loud.push(samples)
    soft.push(samples * np.float32(0.25))
    assert loud.finish().scaled(0.25).log_mel_max == pytest.approx(soft.finish().log_mel_max, abs=1e-4)


def test_missing_weights_say_so(tmp_path):
    with pytest.raises(AssetMissingError, match="Reinstall"):
        StarterEncoder.load(torch.device("cpu"), tmp_path / "none.safetensors")


def test_shipped_weights():
    encoder = StarterEncoder.load(torch.device("cpu"))
    assert encoder.dim == 384
    directions = encoder.model.speaker_directions
    assert directions.shape == (384, 64)
    assert torch.allclose(directions.T @ directions, torch.eye(64), atol=5e-3)
    assert encoder.encode(torch.from_numpy(noise(32_000))[None], None).isfinite().all()
