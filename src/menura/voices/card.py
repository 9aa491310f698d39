"""`card.json` beside a voice: its name, origin and pitch, and what its maker says besides. Loads no torch.

Cards come from strangers: they are read within bounds, and their texts are one line each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from menura.system.files import read_json
from menura.system.text import printable

CARD_NAME = "card.json"
MAX_CARD_BYTES = 1 << 18
_MAX_TEXT = 1000
_MAX_ENTRIES = 64
_MAX_DEPTH = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceCard:
    """What a card says; empty where there is none that can be read."""

    name: str = ""
    source: str = ""
    f0_median_hz: float | None = None
    """The voice's own pitch."""
    fields: Mapping[str, object] = field(default_factory=dict)
    """All of it."""


def read_card(path: Path) -> VoiceCard:
    """Read a card's file."""
    try:
        fields = _cleaned(read_json(path, MAX_CARD_BYTES))
    except (OSError, ValueError):
        return VoiceCard()
    if not isinstance(fields, dict):
        return VoiceCard()
    name, source, median = (fields.get(key) for key in ("name", "source", "f0_median_hz"))
    return VoiceCard(
        name=name if isinstance(name, str) else "",
        source=source if isinstance(source, str) else "",
        f0_median_hz=float(median) if isinstance(median, (int, float)) and 20 <= median <= 2000 else None,
        fields=fields,
    )


def _cleaned(value: object, depth: int = 0) -> object:
    if isinstance(value, str):
        return printable(value, _MAX_TEXT)
    if depth == _MAX_DEPTH and isinstance(value, (list, dict)):
        return "…"
    if isinstance(value, list):
        return [_cleaned(item, depth + 1) for item in value[:_MAX_ENTRIES]]
    if isinstance(value, dict):
        return {printable(key, 80): _cleaned(item, depth + 1) for key, item in list(value.items())[:_MAX_ENTRIES]}
    return value
