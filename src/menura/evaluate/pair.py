"""All measures of one conversion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from menura.audio.decode import open_audio
from menura.audio.resample import resample
from menura.errors import AssetMissingError
from menura.evaluate.measures import (
    PitchScores,
    SeamScores,
    SpeakerScores,
    buzz_db,
    character_error_rate,
    pitch_scores,
    seam_scores,
    speaker_scores,
)
from menura.evaluate.networks import Naturalness, Recogniser, SpeakerEncoder, without_silence
from menura.f0.swift import SwiftEstimator
from menura.pipeline.recording import reflect
from menura.plots import Sound, draw_sounds
from menura.types import FloatArray
from menura.units import ANALYSIS_RATE_HZ, FRAME_SAMPLES

T = TypeVar("T")
_CHUNK_S = 6
"""References are cut into stretches of this length: embeddings of very short sound are noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    source: Path
    converted: Path
    targets: Sequence[Path]
    text: str | None = None
    """The words that are spoken; by default recognized from the source."""
    seams_s: Sequence[float] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What is known of a conversion; None where a network is missing or there is too little sound."""

    character_error_rate: float | None
    source_character_error_rate: float | None
    """The recogniser's own; None where nobody said what was said."""
    speaker: SpeakerScores | None
    pitch: PitchScores | None
    naturalness: dict[str, float] | None
    source_naturalness: dict[str, float] | None
    seams: SeamScores | None
    buzz_db: float | None
    """At the rate of frames; about 0 for real speech."""
    missing: tuple[str, ...]
    """What to install for the measures that could not be taken."""


def evaluate(request: Request, home: Path | None = None) -> Evaluation:
    """Judge a conversion by all measures whose networks are installed.

    Raises:
        DecodeError: a recording can't be read.
    """
    missing: list[str] = []
    recogniser = _available(lambda: Recogniser(home), missing)
    encoder = _available(lambda: SpeakerEncoder.load(home), missing)
    naturalness = _available(lambda: Naturalness(home), missing)
    source, (samples, rate) = _read(request.source), _decoded(request.converted)
    converted = resample(samples, rate, ANALYSIS_RATE_HZ)
    error, own = _character_error_rates(recogniser, source, converted, request.text)
    speaker = None
    if encoder is not None and request.targets:
        targets = [encoder.embed(part) for part in _stretches([_read(path) for path in request.targets])]
        speaker = speaker_scores(encoder.embed(source), encoder.embed(converted), targets)
    return Evaluation(
        character_error_rate=error,
        source_character_error_rate=own,
        speaker=speaker,
        pitch=pitch_scores(_f0(source), _f0(converted)),
        naturalness=naturalness.scores(converted) if naturalness else None,
        source_naturalness=naturalness.scores(source) if naturalness else None,
        seams=seam_scores(samples, rate, request.seams_s) if request.seams_s else None,
        buzz_db=buzz_db(samples, rate),
        missing=tuple(missing),
    )


def _character_error_rates(
    recogniser: Recogniser | None, source: FloatArray, converted: FloatArray, text: str | None
) -> tuple[float | None, float | None]:
    """The conversion's, and the recogniser's own where the text is known."""
    if recogniser is None:
        return None, None
    heard, in_source = recogniser.transcribe(converted), recogniser.transcribe(source)
    own = character_error_rate(text, in_source) if text else None
    return character_error_rate(text or in_source, heard), own


def draw_pair(request: Request) -> bytes:
    """Spectrograms and F0 of the source and of the conversion, as PNG.

    Raises:
        DecodeError: a recording can't be read.
        AssetMissingError: matplotlib is not installed.
    """
    sounds = []
    for title, path in (("source", request.source), ("converted", request.converted)):
        samples, rate = _decoded(path)
        f0_hz = _f0(resample(samples, rate, ANALYSIS_RATE_HZ))
        sounds.append(Sound(title=f"{title}: {path.name}", samples=samples, rate=rate, f0_hz=f0_hz))
    return draw_sounds(sounds, seams_s=request.seams_s)


def _available(load: Callable[[], T], missing: list[str]) -> T | None:
    try:
        return load()
    except AssetMissingError as error:
        missing.append(str(error))
        return None


def _decoded(path: Path) -> tuple[FloatArray, int]:
    reader = open_audio(path)
    rate = reader.info.sample_rate
    return np.concatenate(list(reader.blocks(rate))), rate


def _read(path: Path) -> FloatArray:
    samples, rate = _decoded(path)
    return resample(samples, rate, ANALYSIS_RATE_HZ)


def _stretches(recordings: Sequence[FloatArray]) -> list[FloatArray]:
    pool = np.concatenate([without_silence(samples) for samples in recordings])
    size = _CHUNK_S * ANALYSIS_RATE_HZ
    return [pool[start : start + size] for start in range(0, max(1, len(pool) - size // 2), size)]


def _f0(samples: FloatArray) -> FloatArray:
    estimator = SwiftEstimator()
    context, frames = estimator.context_frames, len(samples) // FRAME_SAMPLES
    padded = reflect(samples, context * FRAME_SAMPLES, context * FRAME_SAMPLES)
    contour: FloatArray = estimator.estimate(torch.from_numpy(padded)[None])[0, context : context + frames].numpy()
    return contour
