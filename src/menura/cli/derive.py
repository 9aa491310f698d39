"""Command-line options derived from the dataclasses of menura.options, and help that shows them by group."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial, reduce
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from menura.option_spec import GROUPS, OptionSpec, spec_of, specs_of
from menura.options import EngineOptions
from menura.voices.assets import home_folder
from menura.voices.library import list_voices

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])
_METAVARS = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "FILE", tuple: "TEXT"}


class OptionValue(click.ParamType[Any]):
    """A value as an OptionSpec checks it."""

    name = "value"

    def __init__(self, spec: OptionSpec) -> None:
        self._spec = spec

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if self._spec.kind is tuple else self._spec.checked(value)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        spec = self._spec
        return "|".join(spec.choices or (spec.metavar or _METAVARS[spec.kind], *spec.words))

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        if self._spec.kind is Path:
            return [CompletionItem(incomplete, type="file")]
        words = (*self._spec.choices, *self._spec.words)
        if self._spec.metavar == "VOICE":
            words = tuple(entry.name for entry in list_voices(home_folder()))
        return [CompletionItem(word) for word in words if word.startswith(incomplete)]


class GroupedOption(click.Option):
    """An option that stands in a group of the help."""

    def __init__(self, *args: Any, group: str = "report", advanced: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group, self.advanced = group, advanced


grouped_option = partial(click.option, cls=GroupedOption)
"""Decorates a command with an option of its own; `group` and `advanced` say where in the help it stands."""


class GroupedCommand(click.Command):
    """A command whose help shows the everyday options by group, then the advanced ones."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, records in self.sections(ctx).items():
            with formatter.section(title):
                formatter.write_dl(records)

    def sections(self, ctx: click.Context) -> dict[str, list[tuple[str, str]]]:
        """Every option as (names, help), by the titles of their sections."""
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in (*GROUPS.values(), "Advanced", "Other")}
        for option in self.get_params(ctx):
            title = "Other"
            if isinstance(option, GroupedOption):
                title = "Advanced" if option.advanced else GROUPS[option.group]
            if isinstance(option, click.Option) and (record := option.get_help_record(ctx)):
                sections[title].append(record)
        found = {title: records for title, records in sections.items() if records}
        if found.keys() <= {"Advanced", "Other"}:  # too few for sections
            return {"Options": sections["Advanced"] + sections["Other"]}
        return found


class Group(click.Group):
    """A group of such commands, each listed with the first sentence of its help."""

    command_class = GroupedCommand

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.commands[name].get_short_help_str(200)) for name in sorted(self.commands)])


def option_of(cls: type, name: str) -> Callable[[Command], Command]:
    """Decorate a command with the option for one field of a dataclass."""
    return _option(spec_of(cls, name))


def options_of(*classes: type, without: Collection[str] = ()) -> Callable[[Command], Command]:
    """Decorate a command with an option for every field of these dataclasses, but for some."""
    specs = [spec for cls in classes for spec in specs_of(cls) if spec.name not in without]
    return lambda command: reduce(lambda made, spec: _option(spec)(made), reversed(specs), command)


def values_of(cls: type[T], given: Mapping[str, Any]) -> T:
    """Build a dataclass from a command's parameters, and defaults. Raises OptionError."""
    specs = [spec for spec in specs_of(cls) if spec.name in given]
    return cls(**{spec.name: not given[spec.name] if spec.flag else given[spec.name] for spec in specs})


def flag_of(name: str) -> str:
    """A field's name on the command line."""
    return "-o" if name == "output" else "--" + name.replace("_", "-")


def flag_with(name: str, value: str | None) -> str:
    """An option in a message, as the command line takes it: --strategy, --strategy stream, --no-cudnn."""
    if value in ("true", "false"):
        return flag_of(name if value == "true" else f"no-{name}")
    return flag_of(name) if value is None else f"{flag_of(name)} {value}"


def _option(spec: OptionSpec) -> Callable[[Command], Command]:
    flag = flag_of(spec.name)
    facts: dict[str, Any] = {"group": spec.group, "advanced": spec.advanced}
    if spec.kind is bool:
        facts |= {"is_flag": True, "default": spec.flag is None and spec.default}
        if spec.flag:  # a switch that turns off what is on by default
            flag, help = spec.flag, f"Don't {spec.help[0].lower()}{spec.help[1:]}"
        else:
            flag, help = f"{flag}/--no-{flag[2:]}" if spec.default else flag, spec.help
        return grouped_option(flag, spec.name, help=help, **facts)
    if spec.bare is not None:
        facts |= {"is_flag": False, "flag_value": spec.bare, "metavar": f"[{spec.metavar or 'NUMBER'}]"}
    facts |= {"multiple": True} if spec.kind is tuple else {"default": spec.default}
    shown = "; ".join(filter(None, (spec.range_text, spec.default_text and f"default: {spec.default_text}")))
    help = f"{spec.help}  [{shown}]" if shown else spec.help
    return grouped_option(flag, spec.name, type=OptionValue(spec), help=help, **facts)


home_option = option_of(EngineOptions, "home")
