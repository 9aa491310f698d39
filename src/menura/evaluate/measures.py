"""What can be computed of a conversion without a network, or of what networks said of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from menura.types import FloatArray
from menura.units import ANALYSIS_RATE_HZ

_MOST_LAG_FRAMES, _FEWEST_FRAMES, _GROSS_CENTS, _LEAST_ROOM = 10, 10, 300.0, 0.02
_SEAM_S, _AROUND_S, _GUARD_S, _GRID_S = 0.002, 0.015, 0.04, 0.005
_FEWEST_STRETCHES, _BUZZ_FROM_HZ, _TINY, _SILENT = 3, 2000, 1e-12, 1e-3
_NO_WORDS = re.compile(r"[^\w]+|_")
_KEEP_DB, _FLOOR_DB, _GATE_SAMPLES, _GATE_REACH = 35.0, -60.0, 480, 6
_CHUNK_SAMPLES = 6 * ANALYSIS_RATE_HZ
"""References are cut into stretches of this length: embeddings of very short sound are noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PitchScores:
    """How the conversion's pitch follows the source's, apart from a constant shift."""

    voiced_agreement: float
    """Share of frames of which both say the same: voiced or not."""
    correlation: float | None = None
    """Of log F0 where both are voiced; None, as the next three, where too little is."""
    shift_semitones: float | None = None
    rmse_cents: float | None = None
    gross_error: float | None = None
    """Share of frames more than three semitones off the shift, such as octave jumps."""
    lag_ms: int
    """Delay of the conversion that fits best."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakerScores:
    """Cosines of speaker embeddings."""

    to_target: float
    source_to_target: float
    target_self: float | None
    """How alike the target's own recordings are; None where there is one."""
    moved: float | None
    """0: no more like the target than the source was; 1: as alike as the target is to itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeamScores:
    """Whether seams can be told from other places by the largest step of samples near them."""

    measured: int
    auc: float
    """Chance that a seam's step is larger than another place's: 0.5 is none."""
    worst: float
    """The largest seam's step by the 99th percentile of other places."""


def pitch_scores(source_hz: FloatArray, converted_hz: FloatArray) -> PitchScores | None:
    """Compare two F0 contours (frames of 10 ms, 0 where unvoiced); None where they are too short."""
    pairs = []
    for lag in sorted(range(-_MOST_LAG_FRAMES, _MOST_LAG_FRAMES + 1), key=abs):
        a, b = source_hz[max(0, -lag) :], converted_hz[max(0, lag) :]
        length = min(len(a), len(b))
        if length >= _FEWEST_FRAMES:
            pairs.append((float(np.mean((a[:length] > 0) == (b[:length] > 0))), lag, a[:length], b[:length]))
    if not pairs:
        return None
    agreement, lag, a, b = max(pairs, key=lambda pair: pair[0])  # of equal ones the first, with the least lag
    both = (a > 0) & (b > 0)
    if both.sum() < _FEWEST_FRAMES:
        return PitchScores(voiced_agreement=agreement, lag_ms=10 * lag)
    first, second = 1200 * np.log2(a[both]), 1200 * np.log2(b[both])
    shift = float(np.median(second - first))
    off = second - first - shift
    moves = float(first.std()) > 1 and float(second.std()) > 1
    return PitchScores(
        voiced_agreement=agreement,
        correlation=float(np.corrcoef(first, second)[0, 1]) if moves else None,
        shift_semitones=shift / 100 + 0.0,  # not -0.0
        rmse_cents=float(np.sqrt(np.mean(off**2))),
        gross_error=float(np.mean(np.abs(off) > _GROSS_CENTS)),
        lag_ms=10 * lag,
    )


def letters(text: str) -> str:
    """A text's letters and digits, in lower case: what error rates count."""
    return _NO_WORDS.sub("", text.lower())


def character_error_rate(said: str, heard: str) -> float | None:
    """Edits by letters and digits of what was said; None where nothing was."""
    return share_changed(letters(said), letters(heard))


def share_changed(truth: Sequence[str], found: Sequence[str]) -> float | None:
    """Edits (Levenshtein, 1966) that make the one the other, by the first one's length; None where it is empty."""
    row = list(range(len(found) + 1))
    for number, left in enumerate(truth, start=1):
        diagonal, row[0] = row[0], number
        for place, right in enumerate(found, start=1):
            diagonal, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, diagonal + (left != right))
    return row[-1] / len(truth) if truth else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A voice as a speaker encoder knows it."""

    embedding: FloatArray
    """(dim,), of unit length: the mean of its recordings."""
    self_similarity: float | None
    """How alike its own recordings are; None where there is one stretch only."""

    @classmethod
    def of_embeddings(cls, embeddings: Sequence[FloatArray]) -> Target:
        """Of stretches' embeddings (dim,), each of unit length."""
        stack, own = np.stack(list(embeddings)), None
        if len(stack) > 1:
            rest = [_unit(np.delete(stack, i, axis=0).mean(axis=0)) for i in range(len(stack))]
            own = float(np.mean([row @ other for row, other in zip(stack, rest, strict=True)]))
        return cls(embedding=_unit(stack.mean(axis=0)), self_similarity=own)

    @classmethod
    def of_recordings(cls, embed: Callable[[FloatArray], FloatArray], recordings: Sequence[FloatArray]) -> Target:
        """Of recordings (samples,) at 16 kHz, in stretches of six seconds of sound."""
        pool = np.concatenate([without_silence(samples) for samples in recordings])
        starts = range(0, max(1, len(pool) - _CHUNK_SAMPLES // 2), _CHUNK_SAMPLES)
        return cls.of_embeddings([embed(pool[start : start + _CHUNK_SAMPLES]) for start in starts])


def speaker_scores(source: FloatArray, converted: FloatArray, target: Target) -> SpeakerScores:
    """Compare embeddings of unit length (dim,): the source's, the conversion's, the target's."""
    to_target, base = float(converted @ target.embedding), float(source @ target.embedding)
    own, moved = target.self_similarity, None
    if own is not None and own - base > _LEAST_ROOM:
        moved = (to_target - base) / (own - base)
    return SpeakerScores(to_target=to_target, source_to_target=base, target_self=own, moved=moved)


def without_silence(samples: FloatArray) -> FloatArray:
    """The stretches of (samples,) at 16 kHz within 35 dB of the loudest, and a little around them."""
    blocks = samples[: len(samples) // _GATE_SAMPLES * _GATE_SAMPLES].reshape(-1, _GATE_SAMPLES)
    if len(blocks) < 4:
        return samples
    level = 10 * np.log10(np.mean(np.square(blocks), axis=1) + 1e-10)
    loud = level > max(float(np.percentile(level, 95)) - _KEEP_DB, _FLOOR_DB)
    kept = np.convolve(loud, np.ones(2 * _GATE_REACH + 1), mode="same") > 0
    return blocks[kept].ravel() if kept.any() else samples


def _unit(vector: FloatArray) -> FloatArray:
    scaled: FloatArray = vector / (np.linalg.norm(vector) + 1e-9)
    return scaled


def buzz_db(samples: FloatArray, rate: int) -> float | None:
    """How far lines at multiples of 100 Hz, the rate of frames, stand above what is midway between them, in dB.

    Above 2 kHz, over stretches of a second of (samples,); about 0 for real speech. None for less than two seconds.
    """
    starts = range(0, len(samples) - rate + 1, rate // 2)
    if len(starts) < _FEWEST_STRETCHES:
        return None
    window = np.hanning(rate)
    spectra = [np.square(np.abs(np.fft.rfft(samples[start : start + rate] * window))) for start in starts]
    power = np.convolve(np.mean(spectra, axis=0), np.ones(3), mode="same")  # a line is three bins of 1 Hz wide
    lines = np.arange(_BUZZ_FROM_HZ, rate // 2 - 100, 100)
    ratios = (power[lines] + _TINY) / (power[lines + 50] + _TINY)
    return float(10 * np.log10(np.median(ratios)))


def seam_scores(samples: FloatArray, rate: int, seams_s: Sequence[float]) -> SeamScores | None:
    """Judge the seams of a recording (samples,); None where there is too little sound at or between them."""
    seams, guard = [round(seam * rate) for seam in seams_s], int(_GUARD_S * rate)
    near = np.zeros(len(samples), dtype=bool)
    for seam in seams:
        near[max(0, seam - guard) : seam + guard] = True
    grid = (place for place in range(guard, len(samples) - guard, int(_GRID_S * rate)) if not near[place])
    at, others = (
        [step for place in places if (step := _step(samples, place, rate)) is not None] for places in (seams, grid)
    )
    if not at or len(others) < 50:
        return None
    order = np.searchsorted(np.sort(others), at) / len(others)
    percentile = float(np.percentile(others, 99))
    return SeamScores(measured=len(at), auc=float(order.mean()), worst=max(at) / max(percentile, 1e-9))


def _step(samples: FloatArray, place: int, rate: int) -> float | None:
    """Largest difference of neighbours near a place, over the level around it; None in silence."""
    around, span = int(_AROUND_S * rate), int(_SEAM_S * rate)
    if place < around or place + around > len(samples):
        return None
    level = float(np.sqrt(np.mean(np.square(samples[place - around : place + around], dtype=np.float64))))
    if level < _SILENT:
        return None
    return float(np.abs(np.diff(samples[place - span : place + span + 1])).max()) / level
