"""Every option on the command line comes from its one definition."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from menura.cli.convert import convert
from menura.cli.derive import GroupedCommand, GroupedOption, flag_of, home_option, options_of, values_of
from menura.cli.main import run
from menura.option_spec import specs_of
from menura.options import BatchOptions, ConversionOptions, EngineOptions


@pytest.mark.parametrize("cls", [ConversionOptions, BatchOptions, EngineOptions])
def test_convert_has_every_option(cls: type) -> None:
    by_name = {parameter.name: parameter for parameter in convert.params}
    for spec in specs_of(cls):
        option = by_name[spec.name]
        assert isinstance(option, GroupedOption)
        assert option.opts == [spec.flag or flag_of(spec.name)]
        assert (option.group, option.advanced) == (spec.group, spec.advanced)


def test_help_shows_everyday_options_by_group_and_then_the_advanced_ones() -> None:
    assert isinstance(convert, GroupedCommand)
    sections = convert.sections(click.Context(convert))
    assert list(sections) == ["Voice", "Pitch", "Sound", "Output", "Files", "Reports", "Machine", "Advanced", "Other"]
    place = {names.split()[0].rstrip(","): title for title, records in sections.items() for names, _ in records}
    assert [place[name] for name in ("--voice", "--transpose", "-o", "--force")] == [
        "Voice",
        "Pitch",
        "Output",
        "Files",
    ]
    assert place["--noise-scale"] == place["--timings"] == "Advanced"
    helps = {names.split()[0]: help for records in sections.values() for names, help in records}
    assert "-48 to 48 semitones" in helps["--transpose"]
    assert "0 to 0.5; default: 0.33" in helps["--protect"]
    assert "0 or more; default: 0" in helps["--seed"]
    every = {names for records in sections.values() for names, _ in records}
    assert "--strategy auto|stream|whole" in every
    assert all(names.startswith("-") for names in every)


def test_few_options_have_no_sections() -> None:
    @click.command(cls=GroupedCommand)
    @click.option("--json")
    @home_option
    def command(**given: object) -> None: ...

    assert isinstance(command, GroupedCommand)
    assert list(command.sections(click.Context(command))) == ["Options"]


def test_values_are_completed() -> None:
    by_name = {parameter.name: parameter for parameter in convert.params}

    def completed(name: str, start: str) -> list[tuple[str, str]]:
        items = by_name[name].shell_complete(click.Context(convert), start)
        return [(item.value, item.type) for item in items]

    assert completed("strategy", "s") == [("stream", "plain")]
    assert completed("transpose", "a") == [("auto", "plain"), ("auto-batch", "plain")]
    assert completed("voice", "wr") == [("wren", "plain")]
    assert completed("index", "vo") == [("vo", "file")]


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
    "arguments",
    [
        ["--index-rate", "1.5"],
        ["--transpose", "nan"],
        ["--transpose", "much"],
        ["--threads", "0"],
        ["--seed", "-1"],
        ["--strategy", "fast"],
        ["--sample-rate", "1"],
        ["--strategy", "stream", "--compat", "rvc"],
        ["--ray", "x"],
    ],
)
def test_wrong_values_are_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", "a.wav", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"menura: {arguments[0]}: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
