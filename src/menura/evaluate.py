"""Measures of a conversion: pitch, words, likeness, naturalness, seams.

No network that judges is shipped: each is looked for, and its absence says what to install.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from menura.audio.decode import open_audio
from menura.audio.processor import resample
from menura.checkpoints.pickles import load_tensors
from menura.errors import AssetMissingError, CheckpointError
from menura.f0.swift import SwiftEstimator
from menura.models.mel import magnitude_spectrogram, mel_filterbank, reflect_pad
from menura.pipeline.recording import reflect
from menura.plots import Sound, draw_sounds
from menura.system.device import silence_onnxruntime
from menura.types import FloatArray
from menura.units import ANALYSIS_RATE_HZ, FRAME_SAMPLES
from menura.voices.assets import find_asset

T = TypeVar("T")
_MOST_LAG_FRAMES, _FEWEST_FRAMES, _GROSS_CENTS, _LEAST_ROOM = 10, 10, 300.0, 0.02
_SEAM_S, _AROUND_S, _GUARD_S, _GRID_S = 0.002, 0.015, 0.04, 0.005
_FEWEST_STRETCHES, _BUZZ_FROM_HZ, _TINY, _SILENT = 3, 2000, 1e-12, 1e-3
_NO_WORDS = re.compile(r"[^\w]+|_")

_MELS, _FFT, _HOP, _WIDTH, _LAYERS = 40, 400, 160, 256, 3
_PART_FRAMES, _STEP_FRAMES, _LEVEL_DB = 160, 77, -30.0
_KEEP_DB, _FLOOR_DB, _GATE_SAMPLES, _GATE_REACH = 35.0, -60.0, 480, 6
_CHUNK_SAMPLES = 6 * ANALYSIS_RATE_HZ
"""References are cut into stretches of this length: embeddings of very short sound are noise."""
_DNSMOS_SAMPLES = 144_160
_DNSMOS_CURVES = {"signal": (-0.08397278, 1.22083953, 0.0052439), "background": (-0.13166888, 1.60915514, -0.39604546),
                  "overall": (-0.06766283, 1.11546468, 0.04602535)}  # fmt: skip
"""From the network's outputs to opinion scores (Reddy et al., 2022)."""


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
    missing: tuple[str, ...]
    """What to install for the measures that could not be taken."""


def evaluate(
    source_path: Path,
    converted_path: Path,
    home: Path | None = None,
    *,
    targets: Sequence[Path],
    text: str | None = None,
    seams_s: Sequence[float] = (),
) -> Evaluation:
    """Judge a conversion by all measures whose networks are installed; `text` is by default what the source says.

    Raises:
        DecodeError: a recording can't be read.
    """
    missing: list[str] = []
    transcribe = _available(recogniser, home, missing)
    encoder = _available(SpeakerEncoder.load, home, missing)
    scores = _available(naturalness_judge, home, missing)
    source, (samples, rate) = _read(source_path), _decoded(converted_path)
    converted = resample(samples, rate, ANALYSIS_RATE_HZ)
    error = own = speaker = None
    if transcribe is not None:
        heard, in_source = transcribe(converted), transcribe(source)
        own = character_error_rate(text, in_source) if text else None
        error = character_error_rate(text or in_source, heard)
    if encoder is not None and targets:
        pool = np.concatenate([without_silence(_read(path)) for path in targets])
        starts = range(0, max(1, len(pool) - _CHUNK_SAMPLES // 2), _CHUNK_SAMPLES)
        own_parts = [encoder.embed(pool[start : start + _CHUNK_SAMPLES]) for start in starts]
        speaker = speaker_scores(encoder.embed(source), encoder.embed(converted), own_parts)
    return Evaluation(
        character_error_rate=error,
        source_character_error_rate=own,
        speaker=speaker,
        pitch=pitch_scores(_f0(source), _f0(converted)),
        naturalness=scores(converted) if scores else None,
        source_naturalness=scores(source) if scores else None,
        seams=seam_scores(samples, rate, seams_s) if seams_s else None,
        buzz_db=buzz_db(samples, rate),
        missing=tuple(missing),
    )


def draw_pair(source: Path, converted: Path, seams_s: Sequence[float]) -> bytes:
    """Spectrograms and F0 of the source and of the conversion, as PNG.

    Raises:
        DecodeError: a recording can't be read.
        AssetMissingError: matplotlib is not installed.
    """
    sounds = []
    for title, path in (("source", source), ("converted", converted)):
        samples, rate = _decoded(path)
        f0_hz = _f0(resample(samples, rate, ANALYSIS_RATE_HZ))
        sounds.append(Sound(title=f"{title}: {path.name}", samples=samples, rate=rate, f0_hz=f0_hz))
    return draw_sounds(sounds, seams_s=seams_s)


def _available(load: Callable[[Path | None], T], home: Path | None, missing: list[str]) -> T | None:
    try:
        return load(home)
    except AssetMissingError as error:
        missing.append(str(error))
        return None


def _decoded(path: Path) -> tuple[FloatArray, int]:
    reader = open_audio(path)
    rate = reader.info.sample_rate
    return np.concatenate(list(reader.blocks(rate))), rate


def _read(path: Path) -> FloatArray:
    return resample(*_decoded(path), ANALYSIS_RATE_HZ)


def _f0(samples: FloatArray) -> FloatArray:
    estimator = SwiftEstimator.load(torch.device("cpu"))
    context, frames = estimator.context_frames, len(samples) // FRAME_SAMPLES
    padded = reflect(samples, context * FRAME_SAMPLES, context * FRAME_SAMPLES)
    contour: FloatArray = estimator.estimate(torch.from_numpy(padded)[None])[0, context : context + frames].numpy()
    return contour


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
        shift_semitones=shift / 100,
        rmse_cents=float(np.sqrt(np.mean(off**2))),
        gross_error=float(np.mean(np.abs(off) > _GROSS_CENTS)),
        lag_ms=10 * lag,
    )


def character_error_rate(said: str, heard: str) -> float | None:
    """Edits (Levenshtein, 1966) by letters and digits of what was said; None where nothing was."""
    truth, found = (_NO_WORDS.sub("", text.lower()) for text in (said, heard))
    row = list(range(len(found) + 1))
    for number, left in enumerate(truth, start=1):
        diagonal, row[0] = row[0], number
        for place, right in enumerate(found, start=1):
            diagonal, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, diagonal + (left != right))
    return row[-1] / len(truth) if truth else None


def speaker_scores(source: FloatArray, converted: FloatArray, targets: Sequence[FloatArray]) -> SpeakerScores:
    """Compare embeddings of unit length (dim,): the source's, the conversion's, those of the target's recordings."""
    stack = np.stack(list(targets))
    centre, own, moved = _unit(stack.mean(axis=0)), None, None
    if len(stack) > 1:
        rest = [_unit(np.delete(stack, i, axis=0).mean(axis=0)) for i in range(len(stack))]
        own = float(np.mean([row @ other for row, other in zip(stack, rest, strict=True)]))
    to_target, base = float(converted @ centre), float(source @ centre)
    if own is not None and own - base > _LEAST_ROOM:
        moved = (to_target - base) / (own - base)
    return SpeakerScores(to_target=to_target, source_to_target=base, target_self=own, moved=moved)


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


class SpeakerEncoder(nn.Module):
    """GE2E (Wan et al., 2018): three LSTM layers over mel spectra, in Resemblyzer's layout."""

    bank: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(_MELS, _WIDTH, _LAYERS, batch_first=True)
        self.linear = nn.Linear(_WIDTH, _WIDTH)
        bank = mel_filterbank(sample_rate=ANALYSIS_RATE_HZ, n_fft=_FFT, n_mels=_MELS)
        self.register_buffer("bank", bank, persistent=False)

    @classmethod
    def load(cls, home: Path | None) -> SpeakerEncoder:
        """Read the weights. Raises AssetMissingError, or CheckpointError where the file is another network's."""
        path = find_asset("speaker-encoder", home)
        content: Any = load_tensors(path)
        encoder = cls()
        try:
            encoder.load_state_dict({name: content["model_state"][name] for name in encoder.state_dict()})
        except (KeyError, RuntimeError, TypeError, AttributeError) as error:
            raise CheckpointError(path, "isn't Resemblyzer's speaker encoder", "Fetch it again") from error
        return encoder.eval()

    @torch.no_grad()
    def embed(self, samples: FloatArray) -> FloatArray:
        """The speaker's embedding (256,), of unit length, of a recording (samples,) at 16 kHz."""
        voice = without_silence(samples)
        voice = np.pad(voice, (0, max(0, ANALYSIS_RATE_HZ // 2 - len(voice))))
        level = float(np.sqrt(np.mean(np.square(voice))))
        scaled = torch.from_numpy(voice * (10 ** (_LEVEL_DB / 20) / max(level, 1e-6))).float()[None]
        spectrum = magnitude_spectrogram(reflect_pad(scaled, _FFT // 2, _FFT // 2), n_fft=_FFT, hop_length=_HOP)
        mel = (self.bank @ spectrum[0].square()).T
        mel = nn.functional.pad(mel, (0, 0, 0, max(0, _PART_FRAMES - len(mel))))
        _, (hidden, _) = self.lstm(mel.unfold(0, _PART_FRAMES, _STEP_FRAMES).transpose(1, 2))
        each = nn.functional.normalize(torch.relu(self.linear(hidden[-1])), dim=1)
        mean: FloatArray = nn.functional.normalize(each.mean(dim=0), dim=0).numpy()
        return mean


def without_silence(samples: FloatArray) -> FloatArray:
    """The stretches of (samples,) at 16 kHz within 35 dB of the loudest, and a little around them."""
    blocks = samples[: len(samples) // _GATE_SAMPLES * _GATE_SAMPLES].reshape(-1, _GATE_SAMPLES)
    if len(blocks) < 4:
        return samples
    level = 10 * np.log10(np.mean(np.square(blocks), axis=1) + 1e-10)
    loud = level > max(float(np.percentile(level, 95)) - _KEEP_DB, _FLOOR_DB)
    kept = np.convolve(loud, np.ones(2 * _GATE_REACH + 1), mode="same") > 0
    return blocks[kept].ravel() if kept.any() else samples


def naturalness_judge(home: Path | None) -> Callable[[FloatArray], dict[str, float] | None]:
    """DNSMOS, which predicts opinion scores. Raises AssetMissingError."""
    silence_onnxruntime()
    import onnxruntime

    session = onnxruntime.InferenceSession(str(find_asset("dnsmos", home)), providers=["CPUExecutionProvider"])

    def scores(samples: FloatArray) -> dict[str, float] | None:
        """Of a recording (samples,) at 16 kHz: signal, background and overall, 1 to 5; None for silence."""
        peak = float(np.abs(samples).max(initial=0.0))
        if peak == 0:
            return None
        audio = samples * min(1.0, 0.99 / peak)
        audio = np.tile(audio, -(-_DNSMOS_SAMPLES // len(audio)))[: max(len(audio), _DNSMOS_SAMPLES)]
        starts = range(0, len(audio) - _DNSMOS_SAMPLES + 1, ANALYSIS_RATE_HZ)
        parts = [audio[None, at : at + _DNSMOS_SAMPLES].astype(np.float32) for at in starts]
        rows = np.array([session.run(None, {"input_1": part})[0][0] for part in parts])
        means = (float(np.polyval(curve, rows[:, i]).mean()) for i, curve in enumerate(_DNSMOS_CURVES.values()))
        return dict(zip(_DNSMOS_CURVES, means, strict=True))

    return scores


def recogniser(home: Path | None) -> Callable[[FloatArray], str]:
    """Whisper, run by faster-whisper: what is said in a recording (samples,) at 16 kHz. Raises AssetMissingError."""
    try:
        from faster_whisper import WhisperModel
    except ImportError:
        advice = "pip install 'menura[evaluate]'"
        raise AssetMissingError(None, "faster-whisper is not installed", advice) from None
    model: Any = WhisperModel(str(find_asset("whisper", home)), device="cpu", compute_type="float32")

    def transcribe(samples: FloatArray) -> str:
        samples = np.pad(samples, ANALYSIS_RATE_HZ // 4)  # words at the very edge are often lost
        segments, _ = model.transcribe(samples, beam_size=5, temperature=0.0, condition_on_previous_text=False)
        return " ".join(segment.text.strip() for segment in segments)

    return transcribe
