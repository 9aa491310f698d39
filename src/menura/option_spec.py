"""What an option is, and how a value given for it is checked. Every interface derives from it. Loads no torch."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import reprlib
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from menura.errors import OptionError

_TITLES = ("Voice", "Pitch", "Sound", "Output", "Files", "Report", "Data", "Network", "Learning", "Machine")
GROUPS = {title.lower(): title for title in _TITLES} | {"report": "Reports"}
"""Keys and titles, in the order of presentation."""

_UNBOUNDED = 2**31 - 1
_LONGEST_NAME = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionSpec:
    """All that an interface needs to know of an option."""

    group: str
    help: str
    label: str = ""
    advanced: bool = False
    unit: str = ""
    range: tuple[float, float] | None = None
    """Smallest and largest value."""
    choices: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    """Words allowed beside numbers, e.g. auto."""
    named: bool = False
    """Whether a name may stand in a number's place."""
    unset: str = ""
    """What None means."""
    metavar: str = ""
    flag: str | None = None
    """Command-line name where it isn't the field's own: --no-cudnn."""
    bare: str | None = None
    """What the option means on the command line without a value."""
    # Taken from the dataclass's field:
    name: str = ""
    kind: type = str
    """int, float, bool, str, Path or tuple (of str)."""
    optional: bool = False
    """Whether None is a value."""
    default: Any = None

    @property
    def range_text(self) -> str:
        """'0 to 0.5', '1 or more', with the unit; empty where there is no range."""
        if self.range is None:
            return "" if self.choices else self.unit
        low, high = self.range
        return f"{low:g} {f'to {high:g}' if high < _UNBOUNDED else 'or more'} {self.unit}".rstrip()

    @property
    def default_text(self) -> str:
        """The default, or what happens without one."""
        if self.default in (None, (), ""):
            return self.unset
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    def checked(self, value: Any) -> Any:
        """The value in the option's own type. Raises OptionError: of another kind, out of range, or no choice."""
        if (value is None and self.optional) or (isinstance(value, str) and value in self.words):
            return value
        try:
            value = _KINDS[self.kind].convert(_hertz(value) if self.unit == "Hz" else value)
        except (TypeError, ValueError, OverflowError):
            if self.named and isinstance(value, str) and value.isprintable() and 0 < len(value) <= _LONGEST_NAME:
                return value
            raise self._refused(value, f"is not {self._expected()}") from None
        if self.choices:
            for choice in self.choices:
                if choice.lower() == value.lower() or (self.unit == "Hz" and _hertz(choice) == value):
                    return choice
            raise self._refused(value, f"is not {self._expected()}")
        if self.range is not None and not self.range[0] <= value <= self.range[1]:
            over = value > self.range[1] >= _UNBOUNDED
            raise self._refused(value, f"is more than {self.range[1]}" if over else f"is outside {self.range_text}")
        return value

    def _expected(self) -> str:
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        kind = _KINDS[self.kind].text + (f" of {self.unit}" if self.unit else "")
        kind += " or a name" * self.named
        return ", ".join((kind, *self.words[:-1], f"or {self.words[-1]}")) if self.words else kind

    def _refused(self, value: Any, why: str) -> OptionError:
        shown = f"{value:g}" if isinstance(value, float) else reprlib.repr(value)
        return OptionError(None, f"{shown} {why}", option=self.name)


def option(group: str, default: Any, help: str, **spec: Any) -> Any:
    """A dataclass field that is an option; `spec` are OptionSpec's fields."""
    return field(default=default, metadata={"spec": OptionSpec(group=group, help=help, **spec)})


def specs_of(cls: type) -> tuple[OptionSpec, ...]:
    """The options of a dataclass made with `option`."""
    return _specs_of(cls)


@functools.cache
def _specs_of(cls: Any) -> tuple[OptionSpec, ...]:
    hints = typing.get_type_hints(cls)
    return tuple(_completed(f, hints[f.name]) for f in dataclasses.fields(cls))


def _completed(f: dataclasses.Field[Any], hint: Any) -> OptionSpec:
    spec: OptionSpec = f.metadata["spec"]
    members = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    kinds = [typing.get_origin(member) or member for member in members]
    return dataclasses.replace(
        spec,
        name=f.name,
        label=spec.label or f.name.replace("_", " ").capitalize(),
        kind=next(kind for kind in kinds if kind not in (types.NoneType, Literal)),
        optional=types.NoneType in kinds,
        default=f.default,
    )


def spec_of(cls: type, name: str) -> OptionSpec:
    """One of them."""
    return next(spec for spec in specs_of(cls) if spec.name == name)


def check(options: Any) -> None:
    """Check all values of a dataclass made with `option`, and bring them to their types. Raises OptionError."""
    for spec in specs_of(type(options)):
        object.__setattr__(options, spec.name, spec.checked(getattr(options, spec.name)))


def schema(*classes: type) -> dict[str, Any]:
    """A JSON Schema (2020-12) of options; unit, group and advanced stand beside the standard keywords."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "additionalProperties": False,
        "properties": {spec.name: _property(spec) for cls in classes for spec in specs_of(cls)},
    }


def _property(spec: OptionSpec) -> dict[str, Any]:
    value: dict[str, Any] = {"enum": list(spec.choices)} if spec.choices else {"type": _KINDS[spec.kind].json}
    if spec.kind is tuple:
        value["items"] = {"type": "string"}
    if spec.range is not None:
        value |= {"minimum": spec.range[0], "maximum": spec.range[1]}
    others = (
        [{"enum": list(spec.words)}] * bool(spec.words)
        + [{"type": "string"}] * spec.named
        + [{"type": "null"}] * spec.optional
    )
    default = list(spec.default) if spec.kind is tuple else spec.default
    about = {"title": spec.label, "description": spec.help, "default": default, "group": spec.group}
    about |= {"unit": spec.unit} if spec.unit else {}
    about |= {"advanced": True} if spec.advanced else {}
    return about | ({"anyOf": [value, *others]} if others else value)


def _integer(value: Any) -> int:
    if isinstance(value, _NO_NUMBERS) or (int(value) != value and not isinstance(value, str)):
        raise ValueError
    return int(value)


def _number(value: Any) -> float:
    number = float(value) + 0.0  # -0.0 becomes 0.0
    if isinstance(value, _NO_NUMBERS) or not math.isfinite(number):
        raise ValueError
    return number


_NO_NUMBERS = (bool, bytes, bytearray)  # which int() and float() take


def _hertz(value: Any) -> Any:
    """Sample rates as text in Hz: of 24000, 24k, 44.1k."""
    if isinstance(value, str) and value[-1:] in ("k", "K"):
        return f"{1000 * float(value[:-1]):g}"
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _text(value: Any) -> str:
    text = os.fspath(value)
    if not isinstance(text, str) or not text or "\0" in text:
        raise ValueError
    return text


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(_text, (value,) if isinstance(value, (str, os.PathLike)) else value))


class _Kind(NamedTuple):
    convert: Callable[[Any], Any]
    text: str
    json: str


_KINDS = {
    int: _Kind(_integer, "a whole number", "integer"),
    float: _Kind(_number, "a number", "number"),
    bool: _Kind(_switch, "true or false", "boolean"),
    str: _Kind(_text, "text", "string"),
    Path: _Kind(lambda value: Path(_text(value)), "a path", "string"),
    tuple: _Kind(_texts, "a list of texts", "array"),
}
