"""What the synthesizer is given of a timeline: content at 50 vectors a second, repeated where it computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from menura.pipeline.analysis import FeatureTimeline
from menura.pipeline.execute import _content
from support.pretended_gpu import CUDA, PretendedGpu

DIM, RATE = 48, 0.75
CPU = torch.device("cpu")


class HalfIndex:
    """Finds half of what it's asked for."""

    def on_device(self, rate: float) -> None:
        return None

    def retrieve(self, content: np.ndarray) -> np.ndarray:
        return content * np.float32(0.5)


def timeline(protect: float) -> tuple[FeatureTimeline, np.ndarray]:
    random = np.random.default_rng(1)
    made = FeatureTimeline(-32, True, HalfIndex(), RATE, protect)  # type: ignore[arg-type]
    content = random.standard_normal((70, DIM), dtype=np.float32)
    f0_hz = random.uniform(50, 300, 140).astype(np.float32) * (random.random(140) < 0.6)
    made.commit_content(content)
    made.commit_f0(f0_hz.astype(np.float32))
    return made, content


def expected(made: FeatureTimeline, content: np.ndarray, protect: float, start: int, end: int) -> np.ndarray:
    """By RVC's rule, frame by frame, in the order of its operations."""
    found = content * np.float32(0.5) * np.float32(RATE) + content * np.float32(1 - RATE)
    share = np.where(made.f0_hz(start, end) < 1, protect, 1.0).astype(np.float32)[:, None]
    places = np.arange(start + 32, end + 32) // 2
    blend: np.ndarray = found[places] * share + content[places] * (1 - share) if protect < 0.5 else found[places]
    return blend


@pytest.mark.parametrize("protect", [0.33, 0.5])
@pytest.mark.parametrize(("start", "end"), [(-32, 100), (-31, 98), (3, 57), (10, 91)])
def test_each_vector_serves_two_frames(start: int, end: int, protect: float) -> None:
    made, content = timeline(protect)
    features = made.read(start, end)
    assert features.frames == end - start
    assert len(features.content) <= features.frames // 2 + 1
    found = _content([features, features], end - start, CPU)
    assert found.is_contiguous()
    np.testing.assert_array_equal(found.numpy(), np.stack([expected(made, content, protect, start, end)] * 2))


def test_frames_that_do_not_exist_are_zeros() -> None:
    made, content = timeline(0.5)
    found = _content([made.read(0, 40), made.read(0, 50)], 64, CPU).numpy()
    for row, frames in zip(found, (40, 50), strict=True):
        np.testing.assert_array_equal(row[:frames], expected(made, content, 0.5, 0, frames))
        assert not row[frames:].any()


def test_a_gpu_is_sent_half_as_much(gpu: PretendedGpu) -> None:
    made, content = timeline(0.5)
    features = made.read(0, 100)
    gpu.reset()
    found = _content([features], 100, CUDA)
    assert gpu.syncs == []
    assert gpu.copied_bytes["to device"] == 50 * DIM * 4
    np.testing.assert_array_equal(found.cpu()[0].numpy(), expected(made, content, 0.5, 0, 100))
