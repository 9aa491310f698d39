"""Measures the starter voices on a folder of real recordings, and writes what `publish.py` puts into their cards.

    python measure.py --recordings DIR --references NATURAL --out OUT

or, with --voice (and --index, --index-rate), any voice whose own recordings (.flac) NATURAL holds.

DIR holds recordings and, if words shall count, `manifest.json`: [{"file": ..., "language": "en", "text": ...}, ...].
NATURAL is what `generate.py --natural` made. OUT gets the conversions, `rows.jsonl` and `quality.json`. The networks
that judge: the extra `evaluate`, `pip install --no-deps resemblyzer speechmos`, and Whisper tiny.en's files (see the
README beside this file) in `assets/whisper` of Menura's data folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from cast import NAMES, PAIRS

from menura import ConversionOptions, Converter
from menura.evaluate import Evaluation, evaluate
from menura.train.experiment.settings import write_atomically

DEMO = Path(__file__).parents[2] / "src" / "menura" / "assets" / "demo" / "librivox_0870.flac"
SUFFIXES = (".flac", ".wav")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A recording's conversion and what is known of it."""

    recording: str
    text: str | None
    made: Evaluation


def texts(folder: Path) -> dict[str, str]:
    """What is said, by file, where it is English: the judge of words knows no other language."""
    manifest = folder / "manifest.json"
    entries = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else []
    return {entry["file"]: entry["text"] for entry in entries if entry.get("language") == "en" and entry.get("text")}


def summary(rows: list[Row]) -> dict[str, Any]:
    """Means over recordings; error rates over all their characters."""
    spoken = [row for row in rows if row.text]
    sizes = [sum(map(str.isalnum, row.text or "")) for row in spoken]
    moved = [row.made.speaker.moved for row in rows if row.made.speaker and row.made.speaker.moved is not None]
    pitches = [row.made.pitch for row in rows if row.made.pitch]
    natural = [(row.made.naturalness, row.made.source_naturalness) for row in rows]
    kept: dict[str, Any] = {"recordings": len(rows), "recordings_with_text": len(spoken)}
    if spoken:
        for name in ("character_error_rate", "source_character_error_rate"):
            kept[name] = round(float(np.average([getattr(row.made, name) for row in spoken], weights=sizes)), 3)
    kept |= {"speaker_moved": round(float(np.mean(moved)), 3), "least_speaker_moved": round(min(moved), 3)}
    kept["f0_correlation"] = round(float(np.mean([p.correlation for p in pitches if p.correlation is not None])), 3)
    kept["voicing_agreement"] = round(float(np.mean([p.voiced_agreement for p in pitches])), 3)
    for name, number in (("dnsmos_ovrl", 0), ("source_dnsmos_ovrl", 1)):
        kept[name] = round(float(np.mean([pair[number]["overall"] for pair in natural if pair[number]])), 2)
    return kept


def main() -> None:
    """Converts and judges."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=Path, required=True)
    parser.add_argument("--references", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--voice", help="measure this voice instead; REFERENCES holds recordings of it alone")
    parser.add_argument("--index", type=Path)
    parser.add_argument("--index-rate", type=float, default=ConversionOptions().index_rate)
    options = parser.parse_args()
    said = texts(options.recordings)
    recordings = sorted(path for path in options.recordings.iterdir() if path.suffix in SUFFIXES)
    converter = Converter()
    quality, lines = {}, []
    patterns = {options.voice: "*.flac"} if options.voice else {NAMES[k]: f"*.{k}.flac" for k in PAIRS["shipped"]}
    for voice, pattern in patterns.items():
        name, targets, rows = Path(voice).stem, sorted(options.references.glob(pattern)), []
        asked = ConversionOptions(voice=voice, index=options.index, index_rate=options.index_rate)
        for source in [*recordings, DEMO]:
            converted = options.out / name / f"{source.stem}.wav"
            converted.parent.mkdir(parents=True, exist_ok=True)
            converter.convert(source, converted, asked)
            text = said.get(source.name)
            made = evaluate(source, converted, targets=targets, text=text)
            rows.append(Row(recording=source.name, text=text, made=made))
            if made.missing:
                raise SystemExit("\n".join(made.missing))
            lines.append(json.dumps({"voice": name, **dataclasses.asdict(rows[-1])}))
        quality[name] = summary(rows[:-1]) | {"buzz_db_on_the_demonstration": round(rows[-1].made.buzz_db or 0.0, 1)}
        print(name, json.dumps(quality[name], indent=1), flush=True)
    write_atomically(options.out / "rows.jsonl", ("\n".join(lines) + "\n").encode())
    write_atomically(options.out / "quality.json", (json.dumps(quality, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
