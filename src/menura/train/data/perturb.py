"""Speech as if by another speaker in another room, with the same words: what the content encoder is to see through.

A voice that is trained on content of its own speech alone passes on whoever speaks in conversion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from menura.audio.processor import resample
from menura.effects.spectra import moved_formants
from menura.units import ANALYSIS_RATE_HZ

if TYPE_CHECKING:
    from menura.types import FloatArray

_SPEED = (0.82, 1.22)
_FORMANTS = (0.86, 1.16)
_WINDOW, _HOP = 1024, 256
_ENVELOPE_QUEFRENCY = 28
"""Cepstral coefficients that make the envelope: 1.75 ms, shorter than a period of up to 500 Hz."""
_ECHOING = 0.4
"""How often there are echoes."""


def perturb(samples: FloatArray, rate: int, rng: np.random.Generator) -> tuple[FloatArray, float]:
    """Another speaker and room at random.

    Returns:
        (samples,) at 16 kHz, and how much faster it is: time t lies at t / speed.
    """
    speed = _between(rng, *_SPEED)
    other = resample(samples, round(rate * speed), ANALYSIS_RATE_HZ)
    other = with_formants(other, _between(rng, *_FORMANTS))
    if rng.random() < _ECHOING:
        other = _echoing(other, rng)
    return _coloured(other, rng), speed


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """Evenly in the logarithm."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def with_formants(samples: FloatArray, factor: float) -> FloatArray:
    """(samples,) of the same pitch and loudness with all formants at `factor` times their frequencies."""
    window = np.sqrt(np.hanning(_WINDOW + 1)[:-1])
    size = len(samples)
    columns = -(-size // _HOP) + _WINDOW // _HOP
    padded = np.zeros((columns - 1) * _HOP + _WINDOW)
    padded[_WINDOW - _HOP : _WINDOW - _HOP + size] = samples
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP] * window
    spectra = np.fft.rfft(frames, axis=1)
    shaped = moved_formants(spectra, factor, _ENVELOPE_QUEFRENCY)
    pieces = np.fft.irfft(shaped, _WINDOW, axis=1) * window / (_WINDOW / _HOP / 2)
    out = np.zeros_like(padded)
    for start in range(0, _WINDOW, _HOP):  # frames whose starts differ by a window don't overlap
        group = pieces[start // _HOP :: _WINDOW // _HOP].reshape(-1)
        out[start : start + len(group)] += group
    made = out[_WINDOW - _HOP : _WINDOW - _HOP + size]
    loudness = np.sqrt(np.mean(np.square(samples)) / max(float(np.mean(np.square(made))), 1e-12)) if size else 1.0
    return np.asarray(made * loudness, dtype=np.float32)


def _echoing(samples: FloatArray, rng: np.random.Generator) -> FloatArray:
    """With the echoes of a room: noise that dies away, 6 to 18 dB below the direct sound."""
    length = int(rng.uniform(0.1, 0.5) * ANALYSIS_RATE_HZ)
    decay = 10 ** (-3 * np.arange(1, length + 1) / length)  # 60 dB
    echoes = rng.normal(0, 1, length) * decay
    echoes *= 10 ** (-rng.uniform(6, 18) / 20) / np.sqrt(np.sum(echoes**2))
    points = 1 << (len(samples) + length).bit_length()
    response = np.concatenate([[1.0], echoes])
    wet = np.fft.irfft(np.fft.rfft(samples, points) * np.fft.rfft(response, points), points)
    return np.asarray(wet[: len(samples)], dtype=np.float32)


def _coloured(samples: FloatArray, rng: np.random.Generator) -> FloatArray:
    """A random smooth filter (±8 dB), at times a low-pass, and noise 20 to 50 dB below the speech."""
    size = len(samples)
    spectrum = np.fft.rfft(samples)
    hz = np.fft.rfftfreq(size, 1 / ANALYSIS_RATE_HZ)
    knots = np.array([0, 150, 400, 1000, 2500, 5000, 8000])
    gain_db = np.interp(hz, knots, np.cumsum(rng.normal(0, 2.5, len(knots))).clip(-8, 8))
    if rng.random() < 0.5:
        gain_db = gain_db - np.clip((hz - rng.uniform(3400, 7800)) / 20, 0, 60)
    filtered = np.fft.irfft(spectrum * 10 ** (gain_db / 20), size)
    level = np.sqrt(np.mean(filtered**2)) * 10 ** (-rng.uniform(20, 50) / 20)
    return np.asarray(filtered + rng.normal(0, 1, size) * level, dtype=np.float32)
