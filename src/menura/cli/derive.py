"""Command-line options derived from the dataclasses of menura.options: one definition serves every interface."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from menura.errors import OptionError
from menura.options import EngineOptions, OptionSpec, option_spec

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])

_UNBOUNDED = 2**53
_TYPES: Mapping[type, click.ParamType[Any]] = {
    int: click.INT,
    float: click.FLOAT,
    str: click.STRING,
    Path: click.Path(path_type=Path),
}


class _NumberOr(click.ParamType[Any]):
    """A number, or one of a few words."""

    name = "number"

    def __init__(self, words: tuple[str, ...]) -> None:
        self._words = words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        """The word, or the number."""
        return value if value in self._words else click.FLOAT.convert(value, param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """What the help shows for a value."""
        return "|".join(("FLOAT", *self._words))


def home_option(command: Command) -> Command:
    """Decorate a command that needs only the data folder with its option."""
    return option_of(EngineOptions, "home")(command)


def option_of(cls: type, name: str) -> Callable[[Command], Command]:
    """Decorate a command with the option for one field of a dataclass."""
    field = next(field for field in dataclasses.fields(cls) if field.name == name)
    return _option(field, typing.get_type_hints(cls)[name])


def options_of(*classes: type) -> Callable[[Command], Command]:
    """Decorate a command with an option for every field of these dataclasses."""

    def decorate(command: Command) -> Command:
        for cls in reversed(classes):
            hints = typing.get_type_hints(cls)
            for field in reversed(dataclasses.fields(cls)):
                command = _option(field, hints[field.name])(command)
        return command

    return decorate


def values_of(cls: type[T], given: Mapping[str, Any]) -> T:
    """Build a dataclass from a command's parameters.

    Raises:
        click.UsageError: a value is out of range; named as on the command line.
    """
    values = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]  # any dataclass
        value = given[field.name]
        values[field.name] = value if option_spec(field).flag is None else not value
    try:
        return cls(**values)
    except OptionError as error:
        raise click.UsageError(error.details.text(flag_with), click.get_current_context(silent=True)) from error


def flag_of(name: str) -> str:
    """A field's name on the command line."""
    return "--" + name.replace("_", "-")


def flag_with(name: str, value: str | None) -> str:
    """An option in a message, as the command line takes it: --strategy, --strategy stream, --no-cudnn."""
    if value in ("true", "false"):
        return flag_of(name if value == "true" else f"no-{name}")
    return flag_of(name) if value is None else f"{flag_of(name)} {value}"


def _option(field: dataclasses.Field[Any], hint: Any) -> Callable[[Command], Command]:
    spec = option_spec(field)
    if spec.flag is not None:  # a switch that turns off what is on by default
        return click.option(spec.flag, field.name, is_flag=True, default=False, help=f"Don't {_lowered(spec.help)}")
    if hint is bool:
        flag = flag_of(field.name)
        both = f"{flag}/--no-{flag[2:]}" if field.default else flag
        return click.option(both, field.name, is_flag=True, default=field.default, help=_help(spec, None))
    if typing.get_origin(hint) is tuple:
        return click.option(flag_of(field.name), field.name, multiple=True, metavar="GLOB", help=_help(spec, None))
    if spec.bare is not None:
        return click.option(
            flag_of(field.name), field.name, is_flag=False, flag_value=spec.bare, metavar="[ADDRESS]", help=spec.help
        )
    return click.option(
        flag_of(field.name), field.name, type=_kind(spec, hint), default=field.default, help=_help(spec, field.default)
    )


def _kind(spec: OptionSpec, hint: Any) -> click.ParamType[Any]:
    if spec.words:
        return _NumberOr(spec.words)
    return click.Choice(spec.choices) if spec.choices else _TYPES[_plain(hint)]


def _plain(hint: Any) -> type:
    """The type without its None."""
    if isinstance(hint, types.UnionType):
        hint = next(member for member in typing.get_args(hint) if member is not type(None))
    assert isinstance(hint, type)
    return hint


def _help(spec: OptionSpec, default: object) -> str:
    facts = []
    if spec.minimum is not None and spec.maximum is not None:
        bounded = spec.maximum < _UNBOUNDED
        facts.append(f"{spec.minimum:g} to {spec.maximum:g}" if bounded else f"{spec.minimum:g} or more")
    if spec.unit:
        facts.append((facts.pop() + " " if facts else "") + spec.unit)
    if default is not None:
        facts.append(f"default: {default:g}" if isinstance(default, float) else f"default: {default}")
    return f"{spec.help}  [{'; '.join(facts)}]" if facts else spec.help


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]
