"""Options: defaults, kinds, ranges, and what each says of itself."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from menura.errors import OptionError
from menura.option_spec import GROUPS, OptionSpec, schema, spec_of, specs_of
from menura.options import BatchOptions, CloneOptions, ConversionOptions, EngineOptions, RunOptions, TrainingOptions

CLASSES = (CloneOptions, ConversionOptions, EngineOptions, BatchOptions, TrainingOptions, RunOptions)
EVERY = [pytest.param(cls, spec, id=f"{cls.__name__}-{spec.name}") for cls in CLASSES for spec in specs_of(cls)]


def test_defaults_are_rvcs() -> None:
    options = ConversionOptions()
    assert (options.index_rate, options.protect, options.rms_mix_rate) == (None, 0.33, 1.0)
    assert (options.transpose, options.seed, options.noise_scale) == (None, 0, 1.0)
    assert (options.strategy, options.compat, options.f0) == ("auto", "menura", "auto")
    assert EngineOptions().cudnn


@pytest.mark.parametrize(("cls", "spec"), EVERY)
def test_every_option_explains_itself(cls: type, spec: OptionSpec) -> None:
    assert spec.help.endswith(".")
    assert spec.label
    assert spec.group in GROUPS
    assert spec.kind in (int, float, bool, str, Path, tuple)
    assert (spec.kind in (int, float)) == (spec.range is not None)
    assert spec.optional or spec.checked(spec.default) == spec.default


@pytest.mark.parametrize(("cls", "spec"), [case for case in EVERY if case.values[1].range])
def test_bounds_are_inside_and_beyond_is_not(cls: type, spec: OptionSpec) -> None:
    assert spec.range is not None
    low, high = spec.range
    for inside, value in ((low, low), (high, high), (str(low), low)):
        assert getattr(cls(**{spec.name: inside}), spec.name) == value
    for outside in (low - 1, high + abs(high) + 1, str(low - 1)):
        refused(cls, spec.name, outside)
    for wrong in (math.nan, math.inf, "high\n" if spec.named else "high", True, [1], b"1", 10**400, Path("1")):
        refused(cls, spec.name, wrong)


@pytest.mark.parametrize(("cls", "spec"), EVERY)
def test_wrong_kinds_are_refused(cls: type, spec: OptionSpec) -> None:
    if not spec.optional:
        refused(cls, spec.name, None)
    refused(cls, spec.name, object())
    refused(cls, spec.name, "\0")


def refused(cls: type, name: str, value: object) -> None:
    with pytest.raises(OptionError) as caught:
        cls(**{name: value})
    assert (caught.value.option, caught.value.subject) == (name, None)
    assert len(caught.value.problem) < 200


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"transpose": "4"}, 4.0),
        ({"transpose": "auto"}, "auto"),
        ({"transpose": np.float32(-3.5)}, -3.5),
        ({"speaker_id": "2"}, 2),
        ({"speaker_id": 2.0}, 2),
        ({"speaker_id": "Anna"}, "Anna"),
        ({"seed": np.int64(7)}, 7),
        ({"index": "a.index"}, Path("a.index")),
        ({"f0_file": Path("f.csv")}, Path("f.csv")),
        ({"voice": Path("v.pth")}, "v.pth"),
        ({"f0": "RMVPE"}, "rmvpe"),
        ({"split_silence": True}, True),
    ],
)
def test_values_become_their_options_types(given: dict[str, Any], value: object) -> None:
    (name,) = given
    found = getattr(ConversionOptions(**given), name)
    assert (found, type(found)) == (value, type(value))


def test_minus_zero_is_zero() -> None:
    assert str(ConversionOptions(transpose=-0.0).transpose) == "0.0"


@pytest.mark.parametrize(
    "given",
    [
        {"speaker_id": 0.5},
        {"speaker_id": ""},
        {"speaker_id": "a\n"},
        {"voice": None},
        {"voice": ""},
        {"split_silence": "yes"},
        {"split_silence": 1},
    ],
)
def test_what_is_almost_right_is_refused(given: dict[str, Any]) -> None:
    (name,) = given
    refused(ConversionOptions, name, given[name])


def test_lists_become_tuples() -> None:
    assert BatchOptions(include=["*.wav", Path("b")]).include == ("*.wav", "b")  # type: ignore[arg-type]
    assert BatchOptions(exclude="*.wav").exclude == ("*.wav",)  # type: ignore[arg-type]
    refused(BatchOptions, "include", [1])


@pytest.mark.parametrize("name", ["f0", "strategy", "compat", "format"])
def test_choices_are_enforced(name: str) -> None:
    with pytest.raises(OptionError) as caught:
        ConversionOptions(**{name: "nothing"})  # type: ignore[arg-type]
    for choice in spec_of(ConversionOptions, name).choices:
        assert choice in caught.value.problem


@pytest.mark.parametrize("compat", ["applio", "rvc"])
def test_compatible_modes_are_whole(compat: str) -> None:
    for strategy in ("auto", "whole"):
        assert ConversionOptions(compat=compat, strategy=strategy).strategy == strategy
    for name, value in (("strategy", "stream"), ("split_silence", True)):
        with pytest.raises(OptionError) as caught:
            ConversionOptions(compat=compat, **{name: value})  # type: ignore[arg-type]
        assert caught.value.option == name


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ({"format": "wav", "bitrate": 128}, "bitrate"),
        ({"format": "ogg", "bitrate": 128}, "bitrate"),
        ({"format": "opus", "quality": 5}, "quality"),
        ({"format": "mp3", "bit_depth": 16}, "bit_depth"),
        ({"format": "flac", "bit_depth": 32}, "bit_depth"),
        ({"bit_depth": 20}, "bit_depth"),
        ({"bitrate": 128, "quality": 5}, "quality"),
    ],
)
def test_a_format_has_its_own_settings(given: dict[str, Any], option: str) -> None:
    with pytest.raises(OptionError) as caught:
        ConversionOptions(**given)
    assert caught.value.option == option


def test_settings_are_checked_again_where_the_format_is_known() -> None:
    options = ConversionOptions(bit_depth=24)
    options.check_format("flac")
    with pytest.raises(OptionError):
        options.check_format("mp3")


def test_options_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ConversionOptions().seed = 1  # type: ignore[misc]


def test_schema() -> None:
    made = json.loads(json.dumps(schema(ConversionOptions, BatchOptions)))
    assert not made["additionalProperties"]
    properties = made["properties"]
    assert set(properties) == {f.name for cls in (ConversionOptions, BatchOptions) for f in dataclasses.fields(cls)}
    assert properties["transpose"] == {
        "title": "Transpose",
        "description": spec_of(ConversionOptions, "transpose").help,
        "default": None,
        "group": "pitch",
        "unit": "semitones",
        "anyOf": [
            {"type": "number", "minimum": -48, "maximum": 48},
            {"enum": ["auto", "auto-batch"]},
            {"type": "null"},
        ],
    }  # fmt: skip
    assert properties["f0"]["enum"] == ["auto", "rmvpe", "fcpe", "crepe", "crepe-tiny", "pm", "swift"]
    assert (properties["include"]["type"], properties["include"]["default"]) == ("array", [])
    assert properties["seed"]["advanced"]


@pytest.mark.parametrize("given", ["24k", "24K", "24000", 24_000])
def test_sample_rates_are_taken_in_hertz_and_in_thousands(given: str | int) -> None:
    assert TrainingOptions(sample_rate=given).sample_rate == "24k"  # type: ignore[arg-type]
    assert ConversionOptions(sample_rate=given).sample_rate == 24_000  # type: ignore[arg-type]


@pytest.mark.parametrize("given", ["44.1k", "k", "nank", "24000.5", True])
def test_what_is_no_sample_rate_of_a_voice_is_refused(given: object) -> None:
    with pytest.raises(OptionError) as caught:
        TrainingOptions(sample_rate=given)  # type: ignore[arg-type]
    assert caught.value.option == "sample_rate"
