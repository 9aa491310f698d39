"""Features of several slices at once: what shares a pass, and that sharing changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from menura.content.starter import StarterEncoder
from menura.f0.swift import SwiftEstimator
from menura.train.data.features import ClipSource, Extractor
from support.training import CPU, FakeEncoder

DEMO = Path(__file__).parents[2] / "src" / "menura" / "assets" / "demo" / "librivox_0870.flac"


class CountingEncoder(FakeEncoder):
    """Keeps how many windows each pass had."""

    def __init__(self) -> None:
        super().__init__()
        self.passes: list[int] = []

    def encode(self, samples, statistics):
        assert statistics is not None
        assert len(statistics) == len(samples)
        self.passes.append(len(samples))
        return super().encode(samples, statistics)


class FakeEstimator:
    name, core_frames, context_frames = "fake", 800, 24

    def __init__(self) -> None:
        self.passes: list[int] = []

    def estimate(self, samples):
        self.passes.append(len(samples))
        return samples.unfold(1, 1, 160)[:, :, 0]


def test_equally_long_slices_share_a_pass_and_change_nothing() -> None:
    rng = np.random.default_rng(1)
    lengths = (24_000, 31_111, 24_000, 40 * 24_000)
    clips = [
        ClipSource(speaker="anna", samples=rng.normal(0, 0.1, n).astype(np.float32), rate=24_000, seed=n)
        for n in lengths
    ]
    encoder = CountingEncoder()
    extractor = Extractor(encoder=encoder, estimator=FakeEstimator(), sample_rate=24_000, perturbed_variants=0)
    made = extractor.extract_all(clips)
    together, encoder.passes = encoder.passes, []
    alone = [extractor.extract_all([clip])[0] for clip in clips]
    assert sum(together) == sum(encoder.passes)
    assert len(together) <= len(encoder.passes) - 1  # the two of a second
    for one, other in zip(made, alone, strict=True):
        assert torch.equal(one.content["own"], other.content["own"])
        assert torch.equal(one.f0_hz, other.f0_hz)
        assert torch.equal(one.audio, other.audio)


def test_slices_of_about_equal_length_share_a_pass() -> None:
    """As the pipeline's own windows do: recordings are reflected up to a multiple of 0.2 s."""
    rng = np.random.default_rng(2)
    lengths = [int(24_000 * (3.21 + 0.015 * n)) for n in range(8)]
    clips = [ClipSource(speaker="anna", samples=rng.normal(0, 0.1, n).astype(np.float32), rate=24_000) for n in lengths]
    encoder, estimator = CountingEncoder(), FakeEstimator()
    extractor = Extractor(encoder=encoder, estimator=estimator, sample_rate=24_000, perturbed_variants=0)
    made = extractor.extract_all(clips)
    assert (encoder.passes, estimator.passes) == ([8], [8])
    assert [features.frames for features in made] == [n // 480 * 2 for n in lengths]
    for features, clip in zip(made, clips, strict=True):
        alone = extractor.extract_all([clip])[0]
        assert torch.equal(features.f0_hz, alone.f0_hz)
        assert torch.equal(features.content["own"], alone.content["own"])


def test_the_networks_get_their_input_on_their_device() -> None:
    """Results are stored from the processor's memory whatever they were computed on."""
    elsewhere = torch.device("meta")

    class Encoder(FakeEncoder):
        def encode(self, samples, statistics):
            assert samples.device == elsewhere
            return torch.ones(len(samples), samples.shape[1] // 320, self.dim)

    class Estimator(FakeEstimator):
        def estimate(self, samples):
            assert samples.device == elsewhere
            return torch.ones(len(samples), samples.shape[1] // 160 + 1)

    extractor = Extractor(encoder=Encoder(), estimator=Estimator(), sample_rate=24_000, device=elsewhere)
    samples = np.random.default_rng(3).normal(0, 0.1, 48_000).astype(np.float32)
    (made,) = extractor.extract_all([ClipSource(speaker="anna", samples=samples, rate=24_000)])
    assert sorted(made.content) == ["own", "perturbed"]


@pytest.mark.slow
def test_real_networks_give_the_same_together() -> None:
    clip, rate = soundfile.read(DEMO, dtype="float32")
    pieces = [clip[start : start + 2 * rate] for start in (0, rate, 3 * rate)]
    clips = [ClipSource(speaker="anna", samples=piece, rate=rate, seed=n) for n, piece in enumerate(pieces)]
    extractor = Extractor(
        encoder=StarterEncoder.load(CPU), estimator=SwiftEstimator.load(CPU), sample_rate=24_000, perturbed_variants=1
    )
    for together, source in zip(extractor.extract_all(clips), clips, strict=True):
        (alone,) = extractor.extract_all([source])
        for kind, rows in alone.content.items():
            assert float((together.content[kind] - rows).abs().max()) <= 2e-3 * float(rows.abs().max())  # float16
        assert torch.equal(together.f0_hz > 0, alone.f0_hz > 0)
        assert float((together.f0_hz - alone.f0_hz).abs().max()) < 0.01
