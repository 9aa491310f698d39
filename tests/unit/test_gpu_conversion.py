"""The whole way of a recording on a GPU, pretended on the CPU: the same sound, nothing left in its memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from menura import ConversionOptions, Converter, EngineOptions
from menura.errors import OptionError
from support.pretended_gpu import PretendedGpu, pretended_gpu
from support.speech import RATE, speech
from support.tiny_home import make_home

STEP = 1 / 32768
"""Of 16-bit sound."""


def options_of(kind: str, home: Path, patch: pytest.MonkeyPatch) -> ConversionOptions:
    return make_home(home, patch) if kind == "rvc" else ConversionOptions(voice="wren")


def converted(
    device: str, home: Path, options: ConversionOptions, seconds: float = 3.0, precision: str = "fp32"
) -> tuple[np.ndarray, int]:
    """The sound, and the memory that its networks take."""
    with Converter(EngineOptions(device=device, home=home, precision=precision)) as converter:
        assert converter.device.type == device
        samples, _ = converter.convert((speech(seconds), RATE), None, options)
        return samples, converter.stats().resident_bytes


SOUNDS = [(kind, 3.0, device) for kind in ("starter", "rvc") for device in ("cuda", "mps")]


@pytest.mark.parametrize(("kind", "seconds", "device"), [*SOUNDS, ("rvc", 70.0, "cuda")])
def test_the_sound_is_the_cpus(
    kind: str, seconds: float, device: Literal["cuda", "mps"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = options_of(kind, tmp_path, monkeypatch)
    expected, _ = converted("cpu", tmp_path, options, seconds)
    with pretended_gpu(kind=device) as gpu:
        found, _ = converted(device, tmp_path, options, seconds)
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


@pytest.mark.parametrize("kind", ["starter", "rvc"])
def test_half_precision_is_what_gpus_take_by_themselves(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # RMVPE's random weights may find another pitch in half precision.
    options = dataclasses.replace(options_of(kind, tmp_path, monkeypatch), f0="swift")
    with pretended_gpu():
        exact, memory = converted("cuda", tmp_path, options)
        half, half_memory = converted("cuda", tmp_path, options, precision="auto")
        again, _ = converted("cuda", tmp_path, options, precision="fp16")
    np.testing.assert_array_equal(half, again)
    assert half_memory < memory
    assert 1e-5 < np.sqrt(np.square(half - exact).sum() / np.square(exact).sum()) < 10 ** (-50 / 20)
    with pretended_gpu(capability=(6, 1)):
        old, _ = converted("cuda", tmp_path, options, precision="auto")
    np.testing.assert_array_equal(old, exact)


def test_half_precision_is_refused_on_cpus() -> None:
    with pytest.raises(OptionError, match="the device is cpu") as caught:
        Converter(EngineOptions(device="cpu", precision="fp16"))
    assert caught.value.option == "precision"
