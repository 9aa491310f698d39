"""Judges conversions by networks that have nothing to do with Menura's own: words, phones, naturalness.

    python second_opinions.py --recordings DIR --converted MEASURED/wren MEASURED/heron

DIR is as `measure.py` takes it, MEASURED what it wrote. Words by Moonshine tiny-en, where `manifest.json` says what is
said; phones by hama, beside those that it hears in the source; naturalness by Distill-MOS. All are PyPI wheels with
weights: `pip install --no-deps moonshine-voice==0.0.49 hama distillmos xls-r-sqa`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile as sf
import torch
from measure import SUFFIXES, texts

from menura.audio.processor import resample
from menura.evaluate import character_error_rate
from menura.units import ANALYSIS_RATE_HZ

Samples = npt.NDArray[np.float32]


def words_judge() -> Callable[[Samples], str]:
    """What Moonshine hears in (samples,) at 16 kHz."""
    from moonshine_voice.moonshine_api import ModelArch
    from moonshine_voice.transcriber import Transcriber

    found = importlib.util.find_spec("moonshine_voice")
    assert found is not None
    assert found.submodule_search_locations
    folder = Path(found.submodule_search_locations[0]) / "assets" / "tiny-en"
    transcriber = Transcriber(str(folder), ModelArch.TINY, options={"vad_threshold": 0.0})

    def heard(samples: Samples) -> str:
        quarter = np.zeros(ANALYSIS_RATE_HZ // 4, np.float32)
        padded = np.concatenate([quarter, samples * (0.7 / max(1e-6, float(np.abs(samples).max()))), quarter])
        lines = transcriber.transcribe_without_streaming(padded.tolist(), ANALYSIS_RATE_HZ).lines
        return " ".join(line.text.strip() for line in lines)

    return heard


def phones_judge() -> Callable[[Samples], list[str]]:
    """The phones that hama hears in (samples,) at 16 kHz."""
    from hama.asr import ASRModel

    model = ASRModel()
    return lambda samples: list(model.transcribe_waveform(samples, ANALYSIS_RATE_HZ).phonemes)


def naturalness_judge() -> Callable[[Samples], float]:
    """Distill-MOS, 1 to 5, of (samples,) at 16 kHz."""
    sys.modules.setdefault("torchaudio", types.ModuleType("torchaudio"))  # it is imported for reading files only
    from distillmos.sqa import ConvTransformerSQAModel

    model = ConvTransformerSQAModel().eval()

    @torch.no_grad()
    def rated(samples: Samples) -> float:
        return float(model(torch.from_numpy(samples)[None]))

    return rated


def changed(first: list[str], second: list[str]) -> float:
    """Edits (Levenshtein) between lists of phones, by the first one's length."""
    letters = {phone: chr(ord("A") + number) for number, phone in enumerate(sorted({*first, *second}))}
    spelled = ["".join(letters[phone] for phone in phones) for phones in (first, second)]
    row = list(range(len(second) + 1))
    for number, left in enumerate(spelled[0], start=1):
        diagonal, row[0] = row[0], number
        for place, right in enumerate(spelled[1], start=1):
            diagonal, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, diagonal + (left != right))
    return row[-1] / max(1, len(first))


def loaded(path: Path) -> Samples:
    """(samples,) at 16 kHz."""
    samples, rate = sf.read(path, dtype="float32", always_2d=True)
    return resample(samples.mean(axis=1), rate, ANALYSIS_RATE_HZ)


def main() -> None:
    """Prints a JSON line a conversion, then one a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=Path, required=True)
    parser.add_argument("--converted", type=Path, nargs="+", required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    said = texts(options.recordings)
    words, phones, natural = words_judge(), phones_judge(), naturalness_judge()
    sources = {}
    for path in sorted(path for path in options.recordings.iterdir() if path.suffix in SUFFIXES):
        samples = loaded(path)
        own = character_error_rate(said[path.name], words(samples)) if path.name in said else None
        sources[path] = (own, phones(samples), natural(samples))
    for folder in options.converted:
        rows, sizes = [], []
        for path, (own, heard, rating) in sources.items():
            samples = loaded(folder / f"{path.stem}.wav")
            text = said.get(path.name)
            error = character_error_rate(text, words(samples)) if text else None
            row = {"errors": error, "source_errors": own, "rating": natural(samples), "source_rating": rating}
            rows.append(row | {"phones_changed": changed(heard, phones(samples)) if text else None})
            sizes.append(sum(map(str.isalnum, text or "")))
            print(json.dumps({"voice": folder.name, "recording": path.name, **rows[-1]}), flush=True)
        means: dict[str, float] = {}
        for name in ("errors", "source_errors", "phones_changed", "rating", "source_rating"):
            values = np.array([np.nan if row[name] is None else row[name] for row in rows], dtype=float)
            weights = np.where(np.isnan(values), 0, 1.0 if name.endswith("rating") else sizes)
            means[name] = round(float(np.average(np.nan_to_num(values), weights=weights)), 4)
        print(json.dumps({"voice": folder.name, "recordings": len(rows), **means}), flush=True)


if __name__ == "__main__":
    main()
