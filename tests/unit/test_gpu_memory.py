"""A GPU's memory, pretended on the CPU, runs out: once, at any allocation, and for good."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from menura import ConversionOptions, Converter, EngineOptions
from menura.errors import ResourceError
from support.pretended_gpu import PretendedGpu
from support.speech import RATE, speech
from support.tiny_home import make_home

STEP = 1 / 32768
"""Of 16-bit sound."""


def converted(
    options: ConversionOptions, home: Path, loaded: Callable[[], None], begun: Callable[[], None]
) -> np.ndarray:
    """The sound; `begun` is called before networks are loaded, `loaded` after it."""
    with Converter(EngineOptions(device="cuda", home=home, precision="fp32")) as converter:
        begun()
        converter.preload(options)
        loaded()
        samples, _ = converter.convert((speech(3.0), RATE), None, options)
    return samples


def nothing() -> None:
    """Done at a point where nothing is to be done."""


def test_once_at_any_allocation(gpu: PretendedGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = make_home(tmp_path, monkeypatch)
    expected = converted(options, tmp_path, nothing, gpu.reset)
    places = np.linspace(1, gpu.allocations, 6).astype(int)
    for place in places:

        def fail(place: int = int(place)) -> None:
            gpu.reset()
            gpu.fails_at = place

        found = converted(options, tmp_path, nothing, fail)
        np.testing.assert_allclose(found, expected, rtol=0, atol=STEP, err_msg=f"allocation {place}")
        assert gpu.allocations > place
        assert gpu.live_bytes == 0


def test_for_good(gpu: PretendedGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = make_home(tmp_path, monkeypatch)
    at_rest: list[int] = []
    expected = converted(options, tmp_path, lambda: at_rest.append(gpu.live_bytes) or gpu.reset(), nothing)
    needed, ends = gpu.peak_bytes - at_rest[0], []
    for share in (1.0, 0.2, 0.001):

        def limit(share: float = share) -> None:
            gpu.limit_bytes = gpu.live_bytes + int(share * needed)

        try:
            found = converted(options, tmp_path, limit, nothing)
        except ResourceError as error:
            ends.append(error.problem)
        else:
            ends.append("")
            np.testing.assert_allclose(found, expected, rtol=0, atol=STEP, err_msg=f"{share} of what is needed")
        gpu.limit_bytes = None
        gc.collect()  # the error's frames
        assert gpu.live_bytes == 0
    assert not ends[0]
    assert "not enough memory on cuda" in ends[-1]
