"""How a recording of some length is cut on some machine, and why."""

from __future__ import annotations

import pytest

from menura.options import ConversionOptions
from menura.pipeline.windows import Decision, Machine, Windowing, decide
from support.tiny import tiny_config

MINUTE = 6000
HOUR = 360_000
GB = 2**30


def decision(frames: int, *, device: str = "cpu", free_gb: float = 64, **options: str) -> Decision:
    machine = Machine(device=device, free_bytes=int(free_gb * GB))
    return decide(ConversionOptions(**options), frames, tiny_config(), machine)  # type: ignore[arg-type]


@pytest.mark.parametrize("frames", [1, 100, MINUTE, HOUR, 100 * HOUR])
@pytest.mark.parametrize("strategy", ["auto", "stream"])
def test_segments_take_any_length_in_bounded_memory(frames: int, strategy: str) -> None:
    made = decision(frames, device="cuda", free_gb=0.01, strategy=strategy)
    assert (made.windowing, made.refusal) == (Windowing(), None)
    assert made.windowing.widest_frames(frames) <= min(frames, 4500)
    assert len(made.reasons) == (1 if frames < 2000 else 2)


@pytest.mark.parametrize("options", [{"strategy": "whole"}, {"compat": "applio"}, {"compat": "rvc"}])
def test_no_length_is_refused_while_memory_suffices(options: dict[str, str]) -> None:
    """cuDNN's recurrent layers take 65,535 steps; RMVPE's, the only one, sees fewer in every mode."""
    assert decision(2 * HOUR, device="cuda", free_gb=1e9, **options).refusal is None


def test_whole_looks_at_memory_first() -> None:
    made = decision(10 * MINUTE, strategy="whole", free_gb=4)
    assert made.windowing.whole
    assert made.windowing.widest_frames(10 * MINUTE) == 10 * MINUTE
    refused = decision(10 * MINUTE, strategy="whole", free_gb=1).refusal
    assert refused is not None
    assert "1.0 GB are free" in refused.problem
    assert "{strategy=auto}" in str(refused.advice)


@pytest.mark.parametrize("compat", ["applio", "rvc"])
def test_compatible_modes_are_whole_with_attention_over_all(compat: str) -> None:
    made = decision(MINUTE, compat=compat)
    windowing = made.windowing
    assert (windowing.whole, windowing.whole_f0, windowing.attention_frames, made.refusal) == (True, True, None, None)
    assert compat in made.reasons[0]
    refused = decision(4 * MINUTE, compat=compat, free_gb=10).refusal  # the square of the window counts
    assert refused is not None
    assert "{compat}" in str(refused.advice)
    assert decision(4 * MINUTE, strategy="whole", free_gb=10).refusal is None
