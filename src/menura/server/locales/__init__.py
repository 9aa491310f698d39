"""Texts in English and Chinese. The English ones stand in the code and the templates; a catalogue maps them."""

from __future__ import annotations

import functools
import json
from importlib.resources import files
from typing import Literal, TypeAlias, TypeVar, cast

Language: TypeAlias = Literal["en", "zh"]
LANGUAGES: dict[Language, str] = {"en": "English", "zh": "简体中文"}
T = TypeVar("T")

_TEXTS = ("title", "description", "unit")
"""Keys of a schema whose values are texts."""


@functools.cache
def catalogue(language: Language) -> dict[str, str]:
    """English texts and their translations; empty for English."""
    if language == "en":
        return {}
    text = (files(__name__) / f"{language}.json").read_text(encoding="utf-8")
    return cast("dict[str, str]", json.loads(text))


def translated(value: T, language: Language) -> T:
    """A text, or a schema with its texts, in a language; what the catalogue lacks stays English."""
    if isinstance(value, str):
        return cast("T", catalogue(language).get(value, value))
    if isinstance(value, dict):
        return cast("T", {k: _part(k, v, language) for k, v in value.items()})
    return value


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
