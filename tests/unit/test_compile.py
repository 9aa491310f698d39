"""Compiled decoders (`--compile`), with a stand-in for torch's compiler: what is compiled, and what it gets to see."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from menura import ConversionOptions, Converter, EngineOptions, OptionError
from menura.models.refinegan import RefineGan
from menura.models.source_filter import SourceFilter
from menura.models.vocoders import HifiGan
from support.speech import RATE, speech
from support.tiny_home import make_home


class Compiler:
    """In the place of torch.compile: it notes what it's given, and with which shapes that is then called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.compiled: list[Any] = []
        self.shapes: list[tuple[torch.Size, ...]] = []
        monkeypatch.setattr(torch, "compile", self)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        self.compiled.append(function)

        def called(*given: Any) -> Any:
            self.shapes.append(tuple(value.shape for value in given if isinstance(value, torch.Tensor)))
            return function(*given)

        return called


def converted(options: ConversionOptions, home: Path, seconds: float, *, compile: bool) -> np.ndarray:
    with Converter(EngineOptions(device="cuda", home=home, compile=compile)) as converter:
        samples, _ = converter.convert((speech(seconds), RATE), None, options)
    return samples


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("kind", "function"), [("rvc", HifiGan._tail), ("starter", SourceFilter.filters)])
def test_what_makes_a_tile_is_compiled(
    kind: str, function: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = make_home(tmp_path, monkeypatch) if kind == "rvc" else ConversionOptions(voice="wren")
    expected = converted(options, tmp_path, 5.0, compile=False)
    compiler = Compiler(monkeypatch)
    found = converted(options, tmp_path, 5.0, compile=True)
    assert [compiled.__func__ for compiled in compiler.compiled] == [function]
    assert compiler.shapes
    np.testing.assert_array_equal(found, expected)


@pytest.mark.usefixtures("gpu")
def test_tiles_have_few_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever seams fall: those of the first segment, of those between, of the last, and at their edges."""
    options = make_home(tmp_path, monkeypatch)
    compiler = Compiler(monkeypatch)
    converted(options, tmp_path, 190.0, compile=True)
    assert len(compiler.shapes) > 30
    assert len({shapes[0][1:] for shapes in compiler.shapes}) <= 6


@pytest.mark.parametrize("vocoder", [HifiGan, RefineGan, SourceFilter])
def test_each_vocoder_says_what_to_compile(vocoder: type) -> None:
    assert callable(getattr(vocoder, vocoder.tile_method))  # type: ignore[attr-defined]


def test_a_cpu_has_nothing_to_compile(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="device is cpu") as refused:
        Converter(EngineOptions(device="cpu", home=tmp_path, compile=True))
    assert refused.value.option == "compile"
