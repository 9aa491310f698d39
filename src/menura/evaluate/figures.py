"""The figures of a rating: each defined once, in `figures.json`, for tables, documents and pages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from menura.evaluate.measures import letters
from menura.evaluate.rating import Rated


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure; the source's, if it has one, is `source_...` of the same name."""

    name: str
    title: str
    zh: str
    form: str
    """Of `str.format`."""
    source: bool = False
    worse: int = 0
    """1 where more is worse, -1 where less is; 0 where neither."""
    by_letters: bool = False
    """Whether a mean counts letters instead of recordings."""

    def text(self, value: float | None) -> str:
        """For people."""
        if value is None:
            return "not measured"
        shown = self.form.format(value)
        return (shown if float(shown.rstrip("%")) else shown.lstrip("-+")).replace("%", " %")


FIGURES = tuple(
    Figure(**entry) for entry in json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
)


def summary_of(rated: Sequence[Rated]) -> dict[str, float | None]:
    """Means over recordings, the worst as `worst_...`; error rates over all their letters."""
    summary: dict[str, float | None] = {"recordings": sum(not row.error for row in rated)}
    summary["recordings_with_text"] = sum(bool(row.pair.text and not row.error) for row in rated)
    for figure in FIGURES:
        summary[figure.name] = _mean(rated, figure.name, by_letters=figure.by_letters)
        if figure.source:
            summary[f"source_{figure.name}"] = _mean(rated, f"source_{figure.name}", by_letters=figure.by_letters)
        if figure.worse:
            values = [figure.worse * value for row in rated if (value := row.numbers.get(figure.name)) is not None]
            summary[f"worst_{figure.name}"] = figure.worse * max(values) if values else None
    return summary


def _mean(rated: Sequence[Rated], name: str, *, by_letters: bool) -> float | None:
    known = [(value, row) for row in rated if (value := row.numbers.get(name)) is not None]
    weights = [len(letters(row.said or "")) if by_letters else 1 for _, row in known]
    return float(np.average([value for value, _ in known], weights=weights)) if sum(weights) else None
