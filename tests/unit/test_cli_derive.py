"""Every option on the command line comes from its one definition."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click
import pytest

from menura.cli.convert import convert
from menura.cli.derive import flag_of, options_of, values_of
from menura.cli.main import run
from menura.options import BatchOptions, ConversionOptions, EngineOptions, option_spec


@pytest.mark.parametrize("cls", [ConversionOptions, BatchOptions, EngineOptions])
def test_convert_has_every_option(cls: type) -> None:
    by_name = {parameter.name: parameter for parameter in convert.params}
    for field in dataclasses.fields(cls):
        option, spec = by_name[field.name], option_spec(field)
        assert isinstance(option, click.Option)
        assert option.opts == [spec.flag or flag_of(field.name)]
        if spec.choices:
            assert isinstance(option.type, click.Choice)
            assert tuple(option.type.choices) == spec.choices


def test_the_issue_s_options_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", "--help"]) == 0
    text = capsys.readouterr().out
    wanted = (
        "--output --voice --index --index-rate --speaker-id --transpose --f0 --f0-file --protect --rms-mix-rate --seed "
        "--noise-scale --strategy --compat --format --sample-rate --device --threads --no-cudnn --json --timings"
    )
    for name in wanted.split():
        assert name in text
    flat = " ".join(text.split())
    assert "-48 to 48 semitones" in flat
    assert "0 to 0.5; default: 0.33" in flat
    assert "4000 to 384000 Hz" in flat


def parsed(*arguments: str) -> tuple[ConversionOptions, EngineOptions]:
    @click.command()
    @options_of(ConversionOptions, EngineOptions)
    def command(**given: object) -> tuple[ConversionOptions, EngineOptions]:
        return values_of(ConversionOptions, given), values_of(EngineOptions, given)

    result = command.main(list(arguments), standalone_mode=False)
    assert isinstance(result, tuple)
    return result


def test_nothing_given_is_the_defaults() -> None:
    assert parsed() == (ConversionOptions(), EngineOptions())


def test_values_arrive_typed() -> None:
    given = "--voice x --transpose -3.5 --seed 7 --f0 swift --index i.index --sample-rate 48000 --no-cudnn --threads 2"
    options, engine = parsed(*given.split())
    expected = ConversionOptions(
        voice="x", transpose=-3.5, seed=7, f0="swift", index=Path("i.index"), sample_rate=48000
    )
    assert options == expected
    assert engine == EngineOptions(cudnn=False, threads=2)


def test_switches_and_lists() -> None:
    @click.command()
    @options_of(BatchOptions)
    def command(**given: object) -> BatchOptions:
        return values_of(BatchOptions, given)

    assert command.main([], standalone_mode=False) == BatchOptions()
    assert command.main(["--recursive"], standalone_mode=False) == BatchOptions()
    given = ["--no-recursive", "--include", "*.wav", "--include", "b/*", "--force", "--report", "r.json"]
    expected = BatchOptions(recursive=False, include=("*.wav", "b/*"), force=True, report=Path("r.json"))
    assert command.main(given, standalone_mode=False) == expected


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--index-rate", "1.5"], "--index-rate: 1.5 is outside 0 to 1."),
        (["--transpose", "nan"], "--transpose: nan is outside -48 to 48 semitones."),
        (["--threads", "0"], "--threads: 0 is outside 1 to 1024."),
        (["--seed", "-1"], "--seed: -1 is outside"),
        (["--transpose", "much"], "'much' is not a valid float"),
        (["--strategy", "fast"], "'fast' is not one of"),
        (["--sample-rate", "1"], "--sample-rate: 1 is outside 4000 to 384000 Hz."),
        (["--compat", "rvc", "--strategy", "stream"], "--strategy: a compatible mode works on whole recordings"),
    ],
)
def test_wrong_values_are_wrong_usage(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", "a.wav", *arguments]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
