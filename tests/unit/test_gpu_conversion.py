"""The whole way of a recording on a GPU, pretended on the CPU: the same sound, nothing left in its memory."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from menura import ConversionOptions, Converter, EngineOptions
from support.pretended_gpu import PretendedGpu, pretended_gpu
from support.speech import RATE, speech
from support.tiny_home import make_home

STEP = 1 / 32768
"""Of 16-bit sound."""


def options_of(kind: str, home: Path, patch: pytest.MonkeyPatch) -> ConversionOptions:
    return make_home(home, patch) if kind == "rvc" else ConversionOptions(voice="wren")


def converted(device: str, home: Path, options: ConversionOptions, seconds: float) -> np.ndarray:
    with Converter(EngineOptions(device=device, home=home)) as converter:
        assert converter.device.type == device
        samples, _ = converter.convert((speech(seconds), RATE), None, options)
    return samples


SOUNDS = [(kind, 3.0, device) for kind in ("starter", "rvc") for device in ("cuda", "mps")]


@pytest.mark.parametrize(("kind", "seconds", "device"), [*SOUNDS, ("rvc", 70.0, "cuda")])
def test_the_sound_is_the_cpus(
    kind: str, seconds: float, device: Literal["cuda", "mps"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = options_of(kind, tmp_path, monkeypatch)
    expected = converted("cpu", tmp_path, options, seconds)
    with pretended_gpu(kind=device) as gpu:
        found = converted(device, tmp_path, options, seconds)
        assert gpu.live_bytes == 0
    assert np.abs(expected).max() > 100 * STEP
    np.testing.assert_allclose(found, expected, rtol=0, atol=STEP)


@pytest.mark.parametrize(("kind", "seconds", "passes"), [("starter", 3.0, 3), ("rvc", 3.0, 3), ("rvc", 90.0, 10)])
def test_only_the_answers_of_a_pass_are_waited_for(
    kind: str, seconds: float, passes: int, gpu: PretendedGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows and segments at the two ends, and those between: they have as many shapes however long it is."""
    options = options_of(kind, tmp_path, monkeypatch)
    with Converter(EngineOptions(home=tmp_path)) as converter:
        converter.preload(options)
        gpu.reset()
        converter.convert((speech(seconds), RATE), None, options)
    assert [sync.kind for sync in gpu.syncs] == ["wait"] * passes
    assert all(sync.place.startswith("pipeline/execute.py") and sync.place.endswith("collect") for sync in gpu.syncs)
