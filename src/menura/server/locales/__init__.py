"""Texts in English and Chinese. The English ones stand in the code and the templates; a catalogue maps them."""

from __future__ import annotations

import functools
import json
import re
from importlib.resources import files
from typing import Literal, TypeAlias, TypeVar, cast

Language: TypeAlias = Literal["en", "zh"]
LANGUAGES: dict[Language, str] = {"en": "English", "zh": "简体中文"}
T = TypeVar("T")

_VARIABLE = re.compile(r"'[^']*'|[+-]?\b\d+(?:\.\d+)?(?:e\+\d+)?")

_TEXTS = ("title", "description", "unit")
"""Keys of a schema whose values are texts."""


def catalogue(language: Language) -> dict[str, str]:
    """English texts of the page and their translations; empty for English."""
    return _catalogue(f"{language}.json") if language != "en" else {}


def messages(language: Language) -> dict[str, str]:
    """What the engine says of recordings and options, with # for each number and quotation."""
    return _catalogue(f"said.{language}.json") if language != "en" else {}


@functools.cache
def _catalogue(name: str) -> dict[str, str]:
    return cast("dict[str, str]", json.loads((files(__name__) / name).read_text(encoding="utf-8")))


def message(text: str, language: Language) -> str:
    """A message in a language; what isn't known stays English. The page's scripts do the same."""
    parts = iter(_VARIABLE.findall(text))
    known = messages(language).get(_VARIABLE.sub("#", text))
    return text if known is None else re.sub("#", lambda _: next(parts), known)


def sentence(text: str, language: Language) -> str:
    """A message with its full stop."""
    said = message(text, language)
    return said + ("." if said == text else "。")


def translated(value: T, language: Language) -> T:
    """A text, or a schema with its texts, in a language; what the catalogue lacks stays English."""
    if isinstance(value, str):
        return cast("T", catalogue(language).get(value, value))
    return cast("T", {k: _part(k, v, language) for k, v in value.items()}) if isinstance(value, dict) else value


def _part(key: str, value: object, language: Language) -> object:
    return translated(value, language) if isinstance(value, dict) or key in _TEXTS else value


def preferred(accept: str, chosen: str | None = None) -> Language:
    """The language for a request: the one chosen, else the first of Accept-Language that there is."""
    if chosen in LANGUAGES:
        return chosen
    weights = []
    for part in accept.split(",")[:20]:
        tag, _, parameter = part.strip().partition(";")
        try:
            weight = float(parameter.strip().removeprefix("q=") or 1)
        except ValueError:
            weight = 0.0
        weights.append((-weight, tag.lower()))
    for weight, tag in sorted(weights, key=lambda pair: pair[0]):
        for language in LANGUAGES:
            if weight < 0 and (tag == language or tag.startswith(f"{language}-")):
                return language
    return "en"
