"""F0 of recordings for pictures, by the estimator that every installation has."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from menura.audio.decode import open_audio
from menura.f0.contour import median_voiced_hz
from menura.f0.swift import SwiftEstimator
from menura.pipeline.analysis import Track
from menura.pipeline.recording import AnalysisFeed
from menura.types import FloatArray
from menura.units import ANALYSIS_RATE_HZ, FRAME_RATE_HZ, FRAME_SAMPLES, ceil_div, rescaled_length

_MOST_POINTS = 1200
_MOST_WINDOWS = 150
"""Ten minutes of sound; of longer recordings windows are taken at equal distances."""


@dataclass(frozen=True, slots=True)
class Curve:
    """F0 at equal distances, 0 where there is none."""

    step_s: float
    hz: list[float]


def pitch_curve(path: Path) -> Curve:
    """Read a recording once and estimate some of its F0; a day takes 40 MB. Raises DecodeError."""
    reader, estimator = open_audio(path), _estimator()
    length = rescaled_length(reader.length_samples(), reader.info.sample_rate, ANALYSIS_RATE_HZ)
    frames, core, context = ceil_div(length, FRAME_SAMPLES), estimator.core_frames, estimator.context_frames
    every = core * max(1, ceil_div(frames, core * _MOST_WINDOWS))
    blocks, samples, f0_hz = AnalysisFeed(reader).blocks(), Track(0), np.zeros(frames, np.float32)
    for start in range(0, frames, every):
        first, end = max(0, start - context), start + core + context
        while samples.end < end * FRAME_SAMPLES and (block := next(blocks, None)) is not None:
            samples.append(block)
            samples.forget(first * FRAME_SAMPLES)
        if samples.end <= start * FRAME_SAMPLES:  # shorter than its header says
            break
        window = samples.read(first * FRAME_SAMPLES, min(end * FRAME_SAMPLES, samples.end))
        found = _estimate(estimator, window)[start - first :][: min(core, frames - start)]
        f0_hz[start : start + len(found)] = found
    step = max(1, ceil_div(frames, _MOST_POINTS))
    medians = (median_voiced_hz(f0_hz[at : at + step]) for at in range(0, frames, step))
    return Curve(step / FRAME_RATE_HZ, [round(median or 0.0, 1) for median in medians])


def _estimate(estimator: SwiftEstimator, samples: FloatArray) -> FloatArray:
    padded = np.pad(samples, (0, max(0, ANALYSIS_RATE_HZ - len(samples))))
    return np.asarray(estimator.estimate(torch.from_numpy(padded)[None])[0].numpy())


@functools.cache
def _estimator() -> SwiftEstimator:
    return SwiftEstimator.load(torch.device("cpu"))
