"""All measures of one conversion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

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
from menura.units import ANALYSIS_RATE_HZ, FRAME_SAMPLES

if TYPE_CHECKING:
    from menura.types import FloatArray

T = TypeVar("T")
_CHUNK_S = 6
"""References are cut into stretches of this length: embeddings of very short sound are noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to judge."""

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


class Judge:
    """Networks that judge, loaded once; those that are not installed are left out."""

    def __init__(self, home: Path | None = None) -> None:
        """Load what is there."""
        missing: list[str] = []
        self._words = _available(lambda: Recogniser(home), missing)
        self._speakers = _available(lambda: SpeakerEncoder.load(home), missing)
        self._natural = _available(lambda: Naturalness(home), missing)
        self.missing = tuple(missing)
        """What to install for the measures that can't be taken."""
        self._targets: tuple[tuple[Path, ...], list[FloatArray]] = ((), [])
        """The last ones' embeddings: many conversions into one voice are judged in turn."""

    def evaluate(self, request: Request) -> Evaluation:
        """Judge a conversion.

        Raises:
            DecodeError: a recording can't be read.
        """
        source, converted = _read(request.source), _read(request.converted)
        error, own = self._character_error_rates(source, converted, request.text)
        samples, rate = _decoded(request.converted)
        return Evaluation(
            character_error_rate=error,
            source_character_error_rate=own,
            speaker=self._speaker(source, converted, request.targets),
            pitch=pitch_scores(_f0(source), _f0(converted)),
            naturalness=self._natural.scores(converted) if self._natural else None,
            source_naturalness=self._natural.scores(source) if self._natural else None,
            seams=seam_scores(samples, rate, request.seams_s) if request.seams_s else None,
            buzz_db=buzz_db(samples, rate),
            missing=self.missing,
        )

    def _character_error_rates(
        self, source: FloatArray, converted: FloatArray, text: str | None
    ) -> tuple[float | None, float | None]:
        """The conversion's, and the recogniser's own where the text is known."""
        if self._words is None:
            return None, None
        heard, in_source = self._words.transcribe(converted), self._words.transcribe(source)
        own = character_error_rate(text, in_source) if text else None
        return character_error_rate(text or in_source, heard), own

    def _speaker(self, source: FloatArray, converted: FloatArray, targets: Sequence[Path]) -> SpeakerScores | None:
        encoder = self._speakers
        if encoder is None or not targets:
            return None
        if self._targets[0] != tuple(targets):
            embeddings = [encoder.embed(part) for part in _stretches([_read(path) for path in targets])]
            self._targets = (tuple(targets), embeddings)
        return speaker_scores(encoder.embed(source), encoder.embed(converted), self._targets[1])


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
    context = -(-estimator.context_frames // 8) * 8
    padded = reflect(samples, context * FRAME_SAMPLES, context * FRAME_SAMPLES)
    frames = len(samples) // FRAME_SAMPLES
    contour: FloatArray = estimator.estimate(torch.from_numpy(padded)[None])[0, context : context + frames].numpy()
    return contour
