"""Recordings cleaned, cut into slices, and judged. Arrays in, arrays out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from menura.effects.spectra import AVERAGED_FRAMES, NOISE_WINDOW_S, noise_power, weaken_noise

if TYPE_CHECKING:
    import numpy.typing as npt

    from menura.types import FloatArray

NEAR_SILENT = "near silent"
_SHORTEST_S = 0.6
"""Shorter slices are left out: a training crop needs a third of a second, and its context."""
_TARGET_DB = -23.0
_PEAK = 0.97
_SEARCH_SHARE = 0.4
"""A slice that must end somewhere ends at the quietest place of its last 40 %."""
_WINDOW_S = 0.05
_FRAME_S = 0.02
_PAUSE_S = 0.5
_KEPT_PAUSE_S = 0.25
_BLOCK_S = 0.4
_SILENT_DB = -50.0
_FULL_SCALE = 0.999
_CLIPPED_RUN = 3
_CLIPPED_SHARE = 5e-4
_CUTOFF_HZ, _ORDER = 48.0, 5
_FILTER_CHUNK_S, _FILTER_CONTEXT_S = 30.0, 0.5
_TINY = 1e-12
_NOISE_CHUNK_FRAMES = 2000


def high_passed(samples: FloatArray, rate: int) -> FloatArray:
    """Without what is below 48 Hz (RVC's order 5 Butterworth, run both ways: no phase is moved)."""
    chunk, context = int(_FILTER_CHUNK_S * rate), int(_FILTER_CONTEXT_S * rate)  # dozens of times its memory
    out = np.empty_like(samples)
    padded = np.pad(samples, context, mode="reflect" if len(samples) > context else "constant")
    for start in range(0, len(samples), chunk):
        piece = padded[start : start + chunk + 2 * context]
        hz = np.fft.rfftfreq(len(piece), 1 / rate)
        response = np.zeros_like(hz)
        response[1:] = 1 / (1 + (_CUTOFF_HZ / hz[1:]) ** (2 * _ORDER))
        filtered = np.fft.irfft(np.fft.rfft(piece.astype(np.float64)) * response, len(piece))
        end = min(start + chunk, len(samples))
        out[start:end] = filtered[context : context + end - start]
    return out


def denoised(samples: FloatArray, rate: int, strength: float) -> FloatArray:
    """Less of what is there all the time, such as hiss, hum and fans: a Wiener filter of a strength of 0 to 1.

    A band's noise is what it doesn't go below in nine tenths of the recording (minimum statistics, Martin 2001). The
    gain is Wiener's, with Ephraim and Malah's decision-directed ratio (1984), and at least `1 - strength`.
    """
    size = 2 * max(8, int(NOISE_WINDOW_S * rate / 2))
    if len(samples) < AVERAGED_FRAMES * size or strength <= 0:
        return samples
    # The root of a Hann window: twice applied at half a window's steps it adds up to one.
    window = np.sin(np.pi * (np.arange(size) + 0.5) / size).astype(np.float32)
    noise, speech = _noise_power(samples, window), np.zeros(size // 2 + 1)
    out = np.zeros(len(samples) + 2 * size, dtype=np.float32)
    for start, frames in _framed(samples, window):
        spectra = np.fft.rfft(frames)
        speech = weaken_noise(spectra, noise[None], speech, 1 - strength)
        for i, frame in enumerate(np.fft.irfft(spectra, size) * window):
            place = (start + i) * (size // 2)
            out[place : place + size] += frame
    return out[size // 2 : size // 2 + len(samples)]


def _framed(samples: FloatArray, window: FloatArray) -> Iterator[tuple[int, FloatArray]]:
    """Chunks of windowed frames (frames, size), half overlapping, and the number of each one's first."""
    size, hop = len(window), len(window) // 2
    padded = np.pad(samples, (hop, 2 * size))
    views = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop][: (len(samples) + hop) // hop + 1]
    for start in range(0, len(views), _NOISE_CHUNK_FRAMES):
        yield start, views[start : start + _NOISE_CHUNK_FRAMES] * window


def _noise_power(samples: FloatArray, window: FloatArray) -> FloatArray:
    """(bands,) power that each band seldom goes below."""
    means, bands = [], len(window) // 2 + 1
    for _, frames in _framed(samples, window):
        powers = np.abs(np.fft.rfft(frames)) ** 2
        whole = len(powers) // AVERAGED_FRAMES * AVERAGED_FRAMES
        means.append(powers[:whole].reshape(-1, AVERAGED_FRAMES, bands).mean(axis=1))
    return noise_power(np.concatenate(means))


def loudness_db(samples: FloatArray, rate: int) -> float:
    """Mean power of the blocks that aren't pauses, in dB of full scale (gated as in ITU-R BS.1770, unweighted)."""
    size = max(1, min(len(samples), int(_BLOCK_S * rate)))
    blocks = samples[: len(samples) // size * size].reshape(-1, size)
    powers = np.mean(np.square(blocks, dtype=np.float64), axis=1)
    loud = powers[powers > 1e-6]
    if not loud.size:
        return float(10 * np.log10(powers.mean() + _TINY)) if powers.size else -120.0
    return float(10 * np.log10(loud[loud > loud.mean() / 10].mean()))


def normalised(samples: FloatArray, rate: int) -> FloatArray:
    """At -23 dB, or as near as its peak allows."""
    gain = 10 ** ((_TARGET_DB - loudness_db(samples, rate)) / 20)
    if peak := float(np.abs(samples).max(initial=0.0)):
        gain = min(gain, _PEAK / peak)
    return (samples * gain).astype(np.float32)


def spans_by_silence(samples: FloatArray, rate: int, longest_s: float) -> list[slice]:
    """Stretches between pauses; long ones are cut at their quietest places. Long pauses are left out."""
    return [
        slice(stretch.start + begin, stretch.start + end)
        for stretch in _without_pauses(samples, rate)
        for begin, end in itertools.pairwise(cut_points(samples[stretch], rate, longest_s))
    ]


def _without_pauses(samples: FloatArray, rate: int) -> Iterator[slice]:
    size = max(1, int(_FRAME_S * rate))
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    levels = 10 * np.log10(np.mean(np.square(frames, dtype=np.float64), axis=1) + _TINY)
    quiet = levels < np.clip(loudness_db(samples, rate) - 30, -60, -38)
    kept, start = int(_KEPT_PAUSE_S / _FRAME_S), 0
    for begin, end in _runs(quiet).tolist():
        if end - begin < _PAUSE_S / _FRAME_S:
            continue
        if begin + kept > start and begin > 0:
            yield slice(start * size, (begin + kept) * size)
        start = end - kept
    if start * size < len(samples) and not (len(quiet) and quiet[start:].all()):
        yield slice(start * size, len(samples))


def cut_points(samples: FloatArray, rate: int, longest_s: float) -> list[int]:
    """Borders of slices from 0 to the end in samples, each at the quietest place of the last part allowed."""
    longest, window = int(longest_s * rate), max(1, int(_WINDOW_S * rate))
    search = max(window, int(longest * _SEARCH_SHARE))
    points = [0]
    while len(samples) - points[-1] > longest:
        low = points[-1] + longest - search
        energy = np.convolve(samples[low : points[-1] + longest] ** 2, np.ones(window), mode="valid")
        points.append(low + int(np.argmin(energy)) + window // 2)
    return [*points, len(samples)]


def spans_of_chunks(length: int, rate: int, chunk_s: float, overlap_s: float) -> list[slice]:
    """Stretches of equal length that overlap; the last one is what is left."""
    size, step = int(chunk_s * rate), int((chunk_s - overlap_s) * rate)
    starts = range(0, max(1, length - int(overlap_s * rate)), step)
    return [slice(start, min(start + size, length)) for start in starts]


def fault_of(samples: FloatArray, rate: int) -> str | None:
    """Why a slice is not to be learnt from: "too short", "near silent", "clipped"; None if it is."""
    if len(samples) < _SHORTEST_S * rate:
        return "too short"
    tenth = max(1, rate // 10)
    blocks = samples[: len(samples) // tenth * tenth].reshape(-1, tenth)
    if 10 * np.log10(np.mean(np.square(blocks), axis=1).max() + _TINY) < _SILENT_DB:
        return NEAR_SILENT
    return "clipped" if clipped_share(samples) > _CLIPPED_SHARE else None


def clipped_share(samples: FloatArray) -> float:
    """Share of samples in runs at full scale: single peaks there are no clipping."""
    lengths = np.diff(_runs(np.abs(samples) >= _FULL_SCALE))
    return float(lengths[lengths >= _CLIPPED_RUN].sum()) / max(1, len(samples))


def _runs(holds: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """(runs, 2) where each stretch of True begins and ends."""
    return np.flatnonzero(np.diff(holds, prepend=False, append=False)).reshape(-1, 2)
