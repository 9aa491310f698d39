"""Waveforms for pictures: the smallest and largest sample of equal spans."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from menura.pipeline.recording import Reader
from menura.types import FloatArray

_SPAN_SAMPLES = 1024
_BLOCK_SPANS = 64
_SILENT_DB = -120.0


@dataclass(frozen=True, slots=True)
class Waveform:
    """(bins,) each."""

    audio_s: float
    low: FloatArray
    high: FloatArray
    rms_db: float
    """Of all samples, below full scale; -120 for silence."""


def waveform(reader: Reader, bins: int) -> Waveform:
    """Read a recording once; four hours take 6 MB. Raises DecodeError."""
    length = reader.info.length_samples
    span = _SPAN_SAMPLES if length is None else min(max(length // bins, 1), _SPAN_SAMPLES)
    lows, highs, read_samples, energy = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)], 0, 0.0
    for block in reader.blocks(span * _BLOCK_SPANS):
        starts = np.arange(0, len(block), span)
        lows.append(np.minimum.reduceat(block, starts))
        highs.append(np.maximum.reduceat(block, starts))
        read_samples += len(block)
        energy += float(np.dot(block, block))
    low, high = np.concatenate(lows), np.concatenate(highs)
    if not len(low):
        return Waveform(0.0, np.zeros(bins, np.float32), np.zeros(bins, np.float32), _SILENT_DB)
    starts = np.linspace(0, len(low), bins, endpoint=False).astype(np.int64)
    audio_s = read_samples / reader.info.sample_rate
    rms_db = max(10 * math.log10(max(energy / read_samples, 1e-30)), _SILENT_DB)
    return Waveform(audio_s, np.minimum.reduceat(low, starts), np.maximum.reduceat(high, starts), rms_db)
