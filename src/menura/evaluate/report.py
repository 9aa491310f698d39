"""A report on a folder of conversions: one page that needs nothing else, and the same as JSON."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from menura import __version__
from menura.audio.processor import resample
from menura.evaluate.figures import FIGURES, summary_of
from menura.evaluate.rating import Rated, decoded
from menura.system.files import write_whole

_HEARD_S, _WORST_OF_EACH, _MP3_RATE_HZ = 12, 2, 24_000
_QUESTIONS = {
    "words": ("whisper", "moonshine", "phones_changed"), "moved": ("moved",), "naturalness": ("distill_mos", "dnsmos")
}  # fmt: skip
_TEMPLATE = Path(__file__).with_name("report.html")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was judged, and what is known of it."""

    source: Path
    converted: Path
    voice: str | None
    rated: Sequence[Rated]
    alone: Sequence[str]
    """Recordings without a conversion."""
    missing: Sequence[str]
    """What to install or to give for what could not be measured."""

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        places = [figure.name for figure in FIGURES] + [f"source_{figure.name}" for figure in FIGURES if figure.source]
        recordings: list[dict[str, Any]] = [
            {place: row.numbers.get(place) for place in places}
            | {"name": row.pair.name, "text": row.pair.text, "error": row.error}
            for row in self.rated
        ]
        return {
            "menura": __version__,
            "source": str(self.source),
            "converted": str(self.converted),
            "voice": self.voice,
            "summary": summary_of(self.rated),
            "recordings": recordings,
            "without_conversion": list(self.alone),
            "missing": list(self.missing),
        }

    def write(self, path: Path) -> None:
        """The page, and beside it the document under the ending `.json`. Raises ResourceError."""
        document = self.document()
        write_whole(path.with_suffix(".json"), (json.dumps(document, indent=1) + "\n").encode())
        write_whole(path, self.page(document).encode())

    def page(self, document: dict[str, Any]) -> str:
        """As a browser shows it, in English and Chinese; names are escaped, sounds are in it, nothing is fetched."""
        from jinja2 import Environment

        template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        shown = [figure for figure in FIGURES if figure.worse and document["summary"][figure.name] is not None]
        worst = [(row, why, _sound(row.pair.source), _sound(row.pair.converted)) for row, why in self.worst()]
        left_out = [figure for figure in FIGURES if figure.worse and document["summary"][figure.name] is None]
        return template.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
            document=document, figures=shown, left_out=left_out, worst=worst
        )

    def worst(self) -> list[tuple[Rated, list[str]]]:
        """Whom to hear first: what lost most words, is least like the voice, lost most naturalness; and why."""
        reasons: dict[str, list[str]] = {}
        for reason, names in _QUESTIONS.items():
            losses = [(loss, row.pair.name) for row in self.rated if (loss := _loss(row, names)) is not None]
            for loss, name in sorted(losses, reverse=True)[:_WORST_OF_EACH]:
                if loss > 0 or reason == "moved":
                    reasons.setdefault(name, []).append(reason)
        return [(row, reasons[row.pair.name]) for row in self.rated if row.pair.name in reasons]


def _loss(row: Rated, names: Sequence[str]) -> float | None:
    lost = [
        figure.worse * (value - (row.numbers.get(f"source_{figure.name}") or 0.0))
        for figure in FIGURES
        if figure.name in names and (value := row.numbers.get(figure.name)) is not None
    ]
    return float(np.mean(lost)) if lost else None


def _sound(path: Path) -> str:
    """The first seconds as MP3, which every browser plays, in the page itself."""
    samples, rate = decoded(path)
    heard = resample(samples[: _HEARD_S * rate], rate, _MP3_RATE_HZ)
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(np.nan_to_num(heard), -1, 1), _MP3_RATE_HZ, format="MP3")
    return f"data:audio/mpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
