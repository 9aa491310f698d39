"""Rates conversions, one or those of a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from menura.audio.decode import open_audio
from menura.audio.places import Selection, audio_files
from menura.audio.processor import resample
from menura.errors import MenuraError, OptionError
from menura.evaluate.judges import EMBEDDING_DIM, Judges
from menura.evaluate.measures import (
    Target,
    buzz_db,
    character_error_rate,
    pitch_scores,
    seam_scores,
    share_changed,
    speaker_scores,
)
from menura.f0.swift import SwiftEstimator
from menura.pipeline.recording import reflect
from menura.plots import Sound, draw_sounds
from menura.system.files import read_json
from menura.types import FloatArray
from menura.units import ANALYSIS_RATE_HZ, FRAME_SAMPLES
from menura.voices.library import VoiceEntry

SPEAKER_NAME = "speaker.json"
"""Beside a voice: the embedding of what it was learnt from, and how alike that is to itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A recording and its conversion."""

    name: str
    """Without ending; in a folder with the folders below it."""
    source: Path
    converted: Path
    text: str | None = None
    """What is said."""
    english: bool = True
    """Whether words and phones count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rated:
    """A pair, and what is known of it or why nothing is."""

    pair: Pair
    numbers: Mapping[str, float | None] = field(default_factory=dict)
    """By the names of figures; None where a network is missing or there is too little sound."""
    said: str | None = None
    """What error rates count: the given text, or what a recogniser heard in the source."""
    error: str | None = None


def rate(pair: Pair, judges: Judges, *, target: Target | None = None, seams_s: Sequence[float] = ()) -> Rated:
    """Judge a conversion by all that can be had; words by default against what each recogniser hears in the source.

    Raises:
        DecodeError: a recording can't be read.
    """
    if not pair.english:
        judges = judges.without_words()
    (raw, raw_rate), (made, rate) = decoded(pair.source), decoded(pair.converted)
    source, converted = resample(raw, raw_rate, ANALYSIS_RATE_HZ), resample(made, rate, ANALYSIS_RATE_HZ)
    numbers, texts = {"buzz_db": buzz_db(made, rate), "source_buzz_db": buzz_db(raw, raw_rate)}, []
    for name, judge in (("whisper", judges.whisper), ("moonshine", judges.moonshine)):
        heard = judge(source) if judge else None
        texts.append(pair.text or heard)
        if judge and heard is not None:
            numbers[f"source_{name}"] = character_error_rate(pair.text, heard) if pair.text else None
            numbers[name] = character_error_rate(pair.text or heard, judge(converted))
    if judges.phones:
        numbers["phones_changed"] = share_changed(judges.phones(source), judges.phones(converted))
    if judges.speaker and target:
        speaker = speaker_scores(judges.speaker(source), judges.speaker(converted), target)
        numbers |= {"moved": speaker.moved, "cosine": speaker.to_target, "self_similarity": speaker.target_self}
        numbers["source_cosine"] = speaker.source_to_target
    if pitch := pitch_scores(f0_hz(source), f0_hz(converted)):
        numbers |= {"f0_correlation": pitch.correlation, "f0_gross_errors": pitch.gross_error}
        numbers |= {"f0_shift": pitch.shift_semitones, "voicing": pitch.voiced_agreement}
    if seams_s and (seams := seam_scores(made, rate, seams_s)):
        numbers |= {"joins": seams.auc, "joins_worst": seams.worst}
    numbers |= _naturalness(judges, converted, "") | _naturalness(judges, source, "source_")
    return Rated(pair=pair, numbers=numbers, said=next(filter(None, texts), None))


def _naturalness(judges: Judges, samples: FloatArray, prefix: str) -> dict[str, float | None]:
    opinion = (judges.dnsmos(samples) if judges.dnsmos else None) or {}
    numbers: dict[str, float | None] = {f"{prefix}dnsmos_{name}": value for name, value in opinion.items()}
    numbers[f"{prefix}dnsmos"] = numbers.pop(f"{prefix}dnsmos_overall", None)
    if judges.distill_mos and samples.any():
        numbers[f"{prefix}distill_mos"] = judges.distill_mos(samples)
    return numbers


def rate_or_tell(pair: Pair, judges: Judges, target: Target | None) -> Rated:
    """As `rate`; of a pair that can't be read, or that a network fails on, the error."""
    try:
        return rate(pair, judges, target=target)
    except (MenuraError, RuntimeError, ValueError, OSError) as error:
        return Rated(pair=pair, error=str(error))


def pairs_in(source: Path, converted: Path, texts: Mapping[str, str] | None = None) -> tuple[list[Pair], list[str]]:
    """Match two folders' recordings by name, as `menura convert` names them; and the names of those left over.

    With `texts`, by file name, words count where there is one.

    Raises:
        OptionError: no recording has a conversion.
    """
    made = {relative.with_suffix("").as_posix(): path for relative, path in _recordings(converted, source)}
    sources = _recordings(source, converted)
    stems = Counter(relative.with_suffix("") for relative, _ in sources)
    pairs, alone = [], []
    for relative, path in sources:
        stem = relative.with_suffix("").as_posix()
        second = f"{stem}-{relative.suffix[1:].lower()}"  # of a.wav and a.mp3 the latter becomes a-mp3
        key = second if stems[relative.with_suffix("")] > 1 and second in made else stem
        text = texts.get(relative.as_posix()) if texts else None
        if key in made:
            english = texts is None or text is not None
            pairs.append(Pair(name=key, source=path, converted=made[key], text=text, english=english))
        else:
            alone.append(relative.as_posix())
    if not pairs:
        problem = f"no recording of {source} has a conversion of its name"
        raise OptionError(str(converted), problem, "Convert the folder: menura convert FOLDER -o CONVERTED")
    return pairs, alone


def _recordings(folder: Path, other: Path) -> list[tuple[Path, Path]]:
    """Those in a folder and below it, (relative, path), less those of the other folder where that lies in it."""
    entries = audio_files([folder], Selection(recursive=True))
    found = [(entry.relative, Path(str(entry.path))) for entry in entries if entry.error is None]
    if folder.resolve() not in other.resolve().parents:
        return found
    return [pair for pair in found if other.resolve() not in pair[1].resolve().parents]


def read_texts(path: Path) -> dict[str, str]:
    """What is said, by file name: a JSON list of {"file": ..., "text": ...}; if "language" isn't "en" it doesn't count.

    Raises:
        OptionError: it is something else.
    """
    try:
        entries: Any = read_json(path)
        english = [entry for entry in entries if entry.get("language", "en") == "en"]
        return {str(entry["file"]): str(entry["text"]) for entry in english if entry.get("text")}
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        advice = 'Write a JSON list: [{"file": "a.wav", "text": "what is said"}, ...]'
        raise OptionError(str(path), f"holds no texts ({error})", advice, "texts") from None


def target_of(recordings: Sequence[Path], judges: Judges) -> Target | None:
    """The speaker of files or folders; None without an encoder. Raises DecodeError where one can't be read."""
    if judges.speaker is None or not recordings:
        return None
    paths = [Path(str(entry.path)) for entry in audio_files(recordings)]
    sounds = [resample(*decoded(path), ANALYSIS_RATE_HZ) for path in paths]
    return Target.of_recordings(judges.speaker, sounds)


def target_of_voice(voice: VoiceEntry) -> Target:
    """What a voice was learnt from, as its `speaker.json` says.

    Raises:
        OptionError: it has none that can be read.
    """
    try:
        document: Any = read_json(voice.path.with_name(SPEAKER_NAME))
        embedding = np.array(document["embedding"], dtype=np.float32).reshape(EMBEDDING_DIM)
        return Target(embedding=embedding, self_similarity=float(document["self_similarity"]))
    except (OSError, ValueError, TypeError, KeyError) as error:
        problem = f"has no {SPEAKER_NAME} that says what it should sound like ({error})"
        raise OptionError(voice.name, problem, "Give recordings of it: {target=FILE}", "voice") from None


def draw_pair(source: Path, converted: Path, seams_s: Sequence[float]) -> bytes:
    """Spectrograms and F0 of the source and of the conversion, as PNG.

    Raises:
        DecodeError: a recording can't be read.
        AssetMissingError: matplotlib is not installed.
    """
    sounds = []
    for title, path in (("source", source), ("converted", converted)):
        samples, rate = decoded(path)
        contour = f0_hz(resample(samples, rate, ANALYSIS_RATE_HZ))
        sounds.append(Sound(title=f"{title}: {path.name}", samples=samples, rate=rate, f0_hz=contour))
    return draw_sounds(sounds, seams_s=seams_s)


def decoded(path: Path) -> tuple[FloatArray, int]:
    """A recording (samples,), mixed down, and its rate. Raises DecodeError."""
    reader = open_audio(path)
    rate = reader.info.sample_rate
    return np.concatenate(list(reader.blocks(rate))), rate


def f0_hz(samples: FloatArray) -> FloatArray:
    """SwiftF0's contour (frames,) at 100 Hz of (samples,) at 16 kHz; 0 where unvoiced."""
    estimator = SwiftEstimator.load(torch.device("cpu"))
    context, frames = estimator.context_frames, len(samples) // FRAME_SAMPLES
    padded = reflect(samples, context * FRAME_SAMPLES, context * FRAME_SAMPLES)
    contour: FloatArray = estimator.estimate(torch.from_numpy(padded)[None])[0, context : context + frames].numpy()
    return contour
