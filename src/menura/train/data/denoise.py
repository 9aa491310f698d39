"""Steady noise taken out of recordings, for training only: a Wiener filter over short-time spectra."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from menura.types import FloatArray

_WINDOW_S = 0.04
_CHUNK_FRAMES = 2000
_AVERAGED_FRAMES = 8
_QUIET_SHARE = 0.1
_BIAS = 1.5
"""The tenth percentile of means of some eight overlapping periodograms lies this much below their mean."""
_MEMORY = 0.95
"""How much of the estimated speech is taken from the frame before: gains that jump from frame to frame tinkle."""
_TINY = 1e-20


def denoised(samples: FloatArray, rate: int, strength: float) -> FloatArray:
    """(samples,) with less of what is there all the time, for a strength of 0 to 1: hiss, hum, fans.

    A band's noise is what it doesn't go below in nine tenths of the recording (minimum statistics, Martin 2001). The
    gain is Wiener's, with Ephraim and Malah's decision-directed ratio (1984), and at least `1 - strength`.
    """
    size = 2 * max(8, int(_WINDOW_S * rate / 2))
    if len(samples) < _AVERAGED_FRAMES * size or strength <= 0:
        return samples
    noise = _noise_power(samples, size)
    out = np.zeros(len(samples) + 2 * size, dtype=np.float32)
    window, speech = _window(size), np.zeros(size // 2 + 1)
    for start, frames in _framed(samples, size):
        spectra = np.fft.rfft(frames * window)
        powers = np.abs(spectra) ** 2
        for i in range(len(spectra)):
            ratio = _MEMORY * speech + (1 - _MEMORY) * np.maximum(powers[i] - noise, 0)
            gain = ratio / (ratio + noise + _TINY)
            speech = gain**2 * powers[i]
            spectra[i] *= np.maximum(gain, 1 - strength)
        for i, frame in enumerate(np.fft.irfft(spectra, size) * window):
            place = (start + i) * (size // 2)
            out[place : place + size] += frame
    return out[size // 2 : size // 2 + len(samples)]


def _window(size: int) -> FloatArray:
    """The root of a Hann window: twice applied at half a window's steps it adds up to one."""
    return np.asarray(np.sin(np.pi * (np.arange(size) + 0.5) / size), dtype=np.float32)


def _framed(samples: FloatArray, size: int) -> Iterator[tuple[int, FloatArray]]:
    """Chunks of frames (frames, size), half overlapping, and the number of each one's first."""
    hop = size // 2
    padded = np.pad(samples, (hop, 2 * size))
    count = (len(samples) + hop) // hop + 1
    views = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    for start in range(0, count, _CHUNK_FRAMES):
        yield start, views[start : min(start + _CHUNK_FRAMES, count)]


def _noise_power(samples: FloatArray, size: int) -> FloatArray:
    """(bands,) power that each band seldom goes below."""
    window, means = _window(size), []
    for _, frames in _framed(samples, size):
        powers = np.abs(np.fft.rfft(frames * window)) ** 2
        whole = len(powers) // _AVERAGED_FRAMES * _AVERAGED_FRAMES
        means.append(powers[:whole].reshape(-1, _AVERAGED_FRAMES, size // 2 + 1).mean(axis=1))
    blocks = np.concatenate(means)
    sounding = blocks[blocks.sum(axis=1) > _TINY]  # digital silence says nothing of the noise elsewhere
    if not len(sounding):
        return np.zeros(size // 2 + 1, dtype=np.float32)
    return np.asarray(_BIAS * np.quantile(sounding, _QUIET_SHARE, axis=0), dtype=np.float32)
