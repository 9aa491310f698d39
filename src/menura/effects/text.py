"""Effects as text, `reverb room=.6 wet=.4, limiter`, and as JSON, Menura's or Applio's."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from menura.effects.definitions import EFFECTS, PRESETS, Effect, need_ffmpeg
from menura.errors import MenuraError, OptionError

_ADVICE = "`menura effects list` shows all"
_MOST = 64
_MOST_BYTES = 1 << 16
_SETTINGS = ("pitch", "index_rate", "rms_mix_rate", "protect")


def parsed(text: str) -> tuple[Effect, ...]:
    """The effects of a text, in order: an effect or preset, its parameters, a comma, the next. Raises OptionError."""
    found: list[Effect] = []
    for item in filter(None, (item.split() for item in text.split(","))):
        name, *given = item
        if name in PRESETS and not given:
            found += parsed(PRESETS[name])
        else:
            found.append(_made(name, dict(map(_pair, given, [name] * len(given)))))
    if len(found) > _MOST:
        raise _refused(f"more than {_MOST} effects")
    return tuple(found)


def text_of(effects: Iterable[Effect]) -> str:
    """The text that `parsed` takes, without what is the default."""
    return ", ".join(" ".join((effect.name, *_given(effect))) for effect in effects)


def _given(effect: Effect) -> Iterable[str]:
    for field in dataclasses.fields(effect):
        if (value := getattr(effect, field.name)) != field.default:
            yield f"{field.name}={value!r}"


def checked(text: str) -> tuple[Effect, ...]:
    """`parsed`, if they can be applied here. Raises OptionError."""
    effects = parsed(text)
    for effect in effects:
        if effect.needs_ffmpeg:
            need_ffmpeg(effect.name, "effects")
    return effects


def given_text(given: str | None) -> str | None:
    """The text that a command's argument means: itself, or of the .json file that it names. Raises OptionError."""
    if given is None:
        return None
    return text_of(read_effects(Path(given))) if given.lower().endswith(".json") else given


def read_effects(path: Path) -> tuple[Effect, ...]:
    """The effects of a JSON file: a list of objects with `effect` and parameters, or Applio's names in one object.

    Raises OptionError.
    """
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            raise OptionError(path, "is no small file of effects", _ADVICE, "effects")
        document = json.loads(path.read_text(encoding="utf-8"))
        effects = _listed(document) if isinstance(document, list) else _of_applio(document)
    except (OSError, ValueError, RecursionError) as error:
        problem = error.strerror if isinstance(error, OSError) else None
        raise OptionError(path, f"can't be read: {problem or 'it is not JSON'}", option="effects") from error
    except MenuraError as error:
        raise OptionError(path, error.problem, error.advice, "effects") from error
    return effects


def _listed(document: list[Any]) -> tuple[Effect, ...]:
    if len(document) > _MOST or not all(isinstance(item, dict) and "effect" in item for item in document):
        raise _refused("is not a list of objects with an 'effect' each")
    return tuple(_made(item["effect"], {k: v for k, v in item.items() if k != "effect"}) for item in document)


def _of_applio(document: Any) -> tuple[Effect, ...]:
    """An effect is on if its switch is, or if there is no switch but one of its parameters."""
    if not isinstance(document, Mapping):
        raise _refused("is neither a list nor an object")
    found = []
    known = {key for name, kind in EFFECTS.items() for key in (name.replace("-", "_"), *kind.applio)}
    for name, kind in EFFECTS.items():
        given = {ours: document[theirs] for theirs, ours in kind.applio.items() if theirs in document}
        switch = document.get(name.replace("-", "_"), bool(given))
        if not isinstance(switch, bool):
            raise _refused(f"{name} is neither true nor false")
        if switch:
            found.append(_made(name, {key: float(v) if isinstance(v, bool) else v for key, v in given.items()}))
    if not found and any(name in document for name in _SETTINGS):
        said = ", ".join(f"{name} {str(document[name])[:40]}" for name in _SETTINGS if name in document)
        raise _refused(f"holds settings of a conversion and no effects ({said})", "Give them as {transpose} and so on")
    if document and known.isdisjoint(document):
        raise _refused("names no effect", _ADVICE)
    return tuple(found)


def _pair(text: str, effect: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise _refused(f"'{text}' of {effect} has no value", "Write NAME=VALUE, and a comma before the next effect")
    return name, value


def _made(name: Any, given: Mapping[str, Any]) -> Effect:
    if isinstance(name, str) and name in PRESETS:
        raise _refused(f"'{name}' is a preset", "It stands in a text, without parameters")
    if not isinstance(name, str) or name not in EFFECTS:
        close = difflib.get_close_matches(str(name).lower().replace("_", "-"), [*EFFECTS, *PRESETS], n=1)
        raise _refused(f"no effect '{str(name)[:40]}'", f"Did you mean {close[0]}?" if close else _ADVICE)
    known = [field.name for field in dataclasses.fields(EFFECTS[name])]
    for parameter in given:
        if parameter not in known:
            raise _refused(f"{name} has no '{parameter[:40]}'", f"It has {', '.join(known)}")
    try:
        return EFFECTS[name](**given)
    except OptionError as error:
        raise _refused(f"{name} {error.option}: {error.problem}") from None


def _refused(problem: str, advice: str | None = None) -> OptionError:
    return OptionError(None, problem, advice, "effects")
