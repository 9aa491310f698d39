"""Options: defaults, ranges, and that each is told of itself."""

from __future__ import annotations

import dataclasses
import math

import pytest

from menura.errors import OptionError
from menura.options import (
    BatchOptions,
    ConversionOptions,
    EngineOptions,
    RunOptions,
    TrainingOptions,
    option_spec,
)

CLASSES = (ConversionOptions, EngineOptions, TrainingOptions, RunOptions)


def test_defaults_are_rvcs() -> None:
    options = ConversionOptions()
    assert (options.index_rate, options.protect, options.rms_mix_rate) == (0.75, 0.33, 1.0)
    assert (options.transpose, options.seed, options.noise_scale) == (None, 0, 1.0)
    assert (options.strategy, options.compat, options.f0) == ("auto", "menura", "auto")
    assert EngineOptions().cudnn


@pytest.mark.parametrize(
    "field", [f for cls in (*CLASSES, BatchOptions) for f in dataclasses.fields(cls)], ids=lambda f: f.name
)
def test_every_option_explains_itself(field: dataclasses.Field[object]) -> None:
    spec = option_spec(field)
    assert spec.help.endswith(".")
    assert (spec.minimum is None) == (spec.maximum is None)


@pytest.mark.parametrize("cls", CLASSES)
def test_bounds_are_inside_and_beyond_is_not(cls: type) -> None:
    checked = 0
    for field in dataclasses.fields(cls):
        spec = option_spec(field)
        if spec.minimum is None or spec.maximum is None:
            continue
        checked += 1
        for inside in (spec.minimum, spec.maximum):
            assert getattr(cls(**{field.name: inside}), field.name) == inside
        for outside in (spec.minimum - 1, spec.maximum * 2 + 1, math.nan, math.inf, "1"):
            with pytest.raises(OptionError, match=f"^{field.name}: .* is outside .* to "):
                cls(**{field.name: outside})
    assert checked


@pytest.mark.parametrize("name", ["f0", "strategy", "compat", "format"])
def test_choices_are_enforced(name: str) -> None:
    with pytest.raises(OptionError, match=f"^{name}: 'nothing' is not one of "):
        ConversionOptions(**{name: "nothing"})  # type: ignore[arg-type]


@pytest.mark.parametrize("compat", ["applio", "rvc"])
def test_compatible_modes_are_whole(compat: str) -> None:
    for strategy in ("auto", "whole"):
        assert ConversionOptions(compat=compat, strategy=strategy).strategy == strategy
    with pytest.raises(OptionError, match=r"^strategy: a compatible mode"):
        ConversionOptions(compat=compat, strategy="stream")


def test_options_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ConversionOptions().seed = 1  # type: ignore[misc]
