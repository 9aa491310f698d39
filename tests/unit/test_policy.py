"""What is done with a recording of some length on some machine, and why."""

from __future__ import annotations

import pytest

from menura.options import ConversionOptions
from menura.pipeline.strategy import CUDNN_STEPS, Decision, Machine, decide
from menura.pipeline.windows import ATTENTION_REACH_FRAMES, WIDEST_WINDOW_FRAMES
from support.tiny import tiny_config

MINUTE = 6000
HOUR = 360_000
GB = 2**30


def decision(frames: int, *, device: str = "cpu", cudnn: bool = True, free_gb: float = 64, **options: str) -> Decision:
    machine = Machine(device=device, cudnn=cudnn, free_bytes=int(free_gb * GB))
    return decide(ConversionOptions(**options), frames, tiny_config(), machine)  # type: ignore[arg-type]


@pytest.mark.parametrize("frames", [1, 100, MINUTE, HOUR, 100 * HOUR])
@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
@pytest.mark.parametrize("strategy", ["auto", "stream"])
def test_streaming_takes_any_length_anywhere(frames: int, device: str, strategy: str) -> None:
    made = decision(frames, device=device, free_gb=0.01, strategy=strategy)
    assert (made.strategy, made.refusal) == ("stream", None)
    assert made.widest_frames <= min(frames, WIDEST_WINDOW_FRAMES) < CUDNN_STEPS
    assert made.reach_frames == ATTENTION_REACH_FRAMES
    assert "bounded whatever the length" in made.reasons[0]
    assert made.reasons[0].startswith("asked for") == (strategy == "stream")


def test_whole_keeps_to_cudnn_s_limit() -> None:
    assert decision(CUDNN_STEPS, device="cuda", strategy="whole").refusal is None
    refused = decision(CUDNN_STEPS + 1, device="cuda", strategy="whole").refusal
    assert refused is not None
    assert "65535" in refused
    assert "--strategy stream" in refused
    assert "--no-cudnn" in refused
    for where in ({"device": "cuda", "cudnn": False}, {"device": "cpu"}, {"device": "mps"}):
        assert decision(CUDNN_STEPS + 1, strategy="whole", **where).refusal is None  # type: ignore[arg-type]


def test_whole_looks_at_memory_first() -> None:
    made = decision(10 * MINUTE, strategy="whole", free_gb=4)
    assert (made.strategy, made.widest_frames) == ("whole", 10 * MINUTE)
    refused = decision(10 * MINUTE, strategy="whole", free_gb=1).refusal
    assert refused is not None
    assert "1.0 GB are free" in refused
    assert "--strategy stream" in refused


@pytest.mark.parametrize("compat", ["applio", "rvc"])
def test_compatible_modes_are_whole_with_attention_over_all(compat: str) -> None:
    made = decision(MINUTE, compat=compat)
    assert (made.strategy, made.reach_frames, made.refusal) == ("whole", None, None)
    assert f"--compat {compat}" in made.reasons[0]
    refused = decision(4 * MINUTE, compat=compat, free_gb=10).refusal  # the square of the window counts
    assert refused is not None
    assert "leave out --compat" in refused
    assert decision(4 * MINUTE, strategy="whole", free_gb=10).refusal is None
