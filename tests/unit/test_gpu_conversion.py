"""The whole way of a recording on a GPU, pretended on the CPU: the same sound, nothing left in its memory."""

from __future__ import annotations

from pathlib import Path

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


def converted(device: str, home: Path, options: ConversionOptions) -> np.ndarray:
    with Converter(EngineOptions(device=device, home=home)) as converter:
        assert converter.device.type == device
        samples, _ = converter.convert((speech(3.0), RATE), None, options)
    return samples


@pytest.mark.parametrize("kind", ["starter", "rvc"])
def test_the_sound_is_the_cpus(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = options_of(kind, tmp_path, monkeypatch)
    expected = converted("cpu", tmp_path, options)
    with pretended_gpu() as gpu:
        found = converted("cuda", tmp_path, options)
        assert gpu.live_bytes == 0
    assert np.abs(expected).max() > 100 * STEP
    np.testing.assert_allclose(found, expected, rtol=0, atol=STEP)


@pytest.mark.parametrize("kind", ["starter", "rvc"])
def test_only_the_answers_of_a_pass_are_waited_for(
    kind: str, gpu: PretendedGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = options_of(kind, tmp_path, monkeypatch)
    with Converter(EngineOptions(home=tmp_path)) as converter:
        converter.preload(options)
        gpu.reset()
        converter.convert((speech(3.0), RATE), None, options)
    assert gpu.syncs
    assert not [sync for sync in gpu.syncs if sync.kind != "wait" or not sync.place.startswith("pipeline/execute.py")]
