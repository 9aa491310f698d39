"""Effects on short spectra: formants, and less noise. Training uses their arithmetic too."""

from __future__ import annotations

from collections import deque
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from menura.effects.definitions import CleanUp, Formant
from menura.effects.framed import Framed
from menura.types import Float64Array, FloatArray

Spectra: TypeAlias = npt.NDArray[np.complexfloating[Any, Any]]

_MOST_LOG_GAIN = 2.3
"""20 dB."""
_FORMANT_WINDOW_S, _FORMANT_FRAMES = 0.05, 32
NOISE_WINDOW_S, AVERAGED_FRAMES, NO_POWER = 0.04, 8, 1e-20
_QUIET_SHARE = 0.1
_BIAS = 1.5
"""The tenth percentile of means of some eight overlapping periodograms lies this much below their mean."""
_MEMORY = 0.95
"""How much of the estimated speech is taken from the frame before: gains that jump from frame to frame tinkle."""
_NOISE_FRAMES, _NOISE_CHUNKS = 25 * AVERAGED_FRAMES, 8  # 4 s, of which so many say what the noise is


def moved_formants(spectra: Spectra, factor: float, quefrency_samples: int) -> Spectra:
    """(..., bins) of the same pitch with all formants at `factor` times their frequencies.

    The envelope is the smooth part of each frame's cepstrum (Oppenheim and Schafer's homomorphic analysis), up to that
    quefrency.
    """
    cepstrum = np.fft.irfft(np.log(np.abs(spectra) + 1e-6), axis=-1)
    cepstrum[..., quefrency_samples + 1 : -quefrency_samples] = 0
    envelope = np.fft.rfft(cepstrum, axis=-1).real  # in the logarithm
    bins = np.arange(envelope.shape[-1]) / factor
    low = np.minimum(bins.astype(np.int64), envelope.shape[-1] - 2)
    part = np.minimum(bins - low, 1.0)
    moved = envelope[..., low] * (1 - part) + envelope[..., low + 1] * part
    return np.asarray(spectra * np.exp(np.clip(moved - envelope, -_MOST_LOG_GAIN, _MOST_LOG_GAIN)))


def weaken_noise(spectra: Spectra, noise: FloatArray, speech: Float64Array, least: float) -> Float64Array:
    """Apply Wiener's gain, `least` or more, to (frames, ...) in place, one frame after another.

    `noise` is its power, for all frames (one row) or each; `speech` is what the frame before had. The ratio is
    decision-directed (Ephraim and Malah, 1984). Returns the last frame's speech.
    """
    powers = np.abs(spectra) ** 2
    for i in range(len(spectra)):
        floor = noise[i % len(noise)]
        ratio = _MEMORY * speech + (1 - _MEMORY) * np.maximum(powers[i] - floor, 0)
        gain = ratio / (ratio + floor + NO_POWER)
        speech = gain**2 * powers[i]
        spectra[i] *= np.maximum(gain, least)
    return speech


def noise_power(means: FloatArray) -> FloatArray:
    """(bands,) power that each band seldom goes below, of (means, bands) over AVERAGED_FRAMES (Martin, 2001)."""
    sounding = means[means.sum(axis=1) > NO_POWER]  # digital silence says nothing of the noise elsewhere
    if not len(sounding):
        return np.zeros(means.shape[1], dtype=np.float32)
    return np.asarray(_BIAS * np.quantile(sounding, _QUIET_SHARE, axis=0), dtype=np.float32)


class _Overlapped(Framed):
    """Windows, applied before and after, that add up to one; so many at once, on the stream's own grid."""

    def __init__(self, size: int, hop: int, frames: int) -> None:
        super().__init__(late_samples=size - hop)
        self._window = np.sin(np.pi * (np.arange(size) + 0.5) / size) * np.sqrt(2 * hop / size)
        self._size, self._hop, self.frame_samples = size, hop, frames * hop

    def _begin(self, channels: int) -> None:
        self._before = np.zeros((self._size - self._hop, channels), dtype=np.float32)
        self._sum = np.zeros((self._size - self._hop, channels))

    def _spectra(self, chunk: FloatArray) -> Spectra:
        """(frames, channels, bins) of a chunk, which may end within a hop at the stream's end."""
        joined = np.concatenate([self._before, np.pad(chunk, ((0, -len(chunk) % self._hop), (0, 0)))])
        self._before = joined[len(joined) - len(self._before) :]
        views = np.lib.stride_tricks.sliding_window_view(joined, self._size, axis=0)[:: self._hop]
        return np.asarray(np.fft.rfft(views * self._window))

    def _sound(self, spectra: Spectra) -> FloatArray:
        pieces, hop = np.fft.irfft(spectra, self._size) * self._window, self._hop
        made = len(pieces) * hop
        out = np.concatenate([self._sum, np.zeros((made, pieces.shape[1]))])
        for start in range(0, self._size, hop):
            out[start : start + made] += pieces[:, :, start : start + hop].transpose(0, 2, 1).reshape(made, -1)
        self._sum = out[made:]
        return out[:made].astype(np.float32)


class FormantShift(_Overlapped):
    def __init__(self, effect: Formant, rate_hz: int) -> None:
        size = 1 << max(6, round(np.log2(_FORMANT_WINDOW_S * rate_hz)))
        super().__init__(size, size // 4, _FORMANT_FRAMES)
        self._timbre = effect.timbre if effect.quefrency else 1.0
        self._quefrency_samples = min(max(1, round(effect.quefrency * rate_hz / 1000)), size // 2 - 1)

    def _treated(self, frame: FloatArray) -> FloatArray:
        spectra = self._spectra(frame)
        moved = moved_formants(spectra, self._timbre, self._quefrency_samples)
        # Each window is as loud as before.
        powers = [np.sum(np.abs(some) ** 2, axis=-1, keepdims=True) for some in (spectra, moved)]
        return self._sound(moved * np.sqrt(powers[0] / (powers[1] + NO_POWER)))


class NoiseReduction(_Overlapped):
    """Less of what is there all the time, such as hiss, hum and fans: a Wiener filter, 4 s behind.

    The noise is what a band seldom goes below in the last 28 s and the next 4.
    """

    def __init__(self, effect: CleanUp, rate_hz: int) -> None:
        size = 2 * max(8, int(NOISE_WINDOW_S * rate_hz / 2))
        super().__init__(size, size // 2, _NOISE_FRAMES)
        self._least = 1 - effect.strength
        self._means: deque[FloatArray] = deque(maxlen=_NOISE_CHUNKS)
        self._waiting: Spectra | None = None
        self._noise: FloatArray | None = None
        self._speech: Float64Array = np.zeros(1)
        self._seen = 0

    def _treated(self, frame: FloatArray) -> FloatArray:
        spectra = self._spectra(frame)
        powers = np.abs(spectra) ** 2
        # Windows that reach into the silence before or after the recording say nothing of its noise.
        first = 1 if not self._seen else 0
        last = max(first, min(len(powers), (self._taken - self._seen) // self._hop))
        self._seen += len(frame)
        whole = (last - first) // AVERAGED_FRAMES * AVERAGED_FRAMES
        self._means.append(powers[first : first + whole].reshape(-1, AVERAGED_FRAMES, *powers.shape[1:]).mean(axis=1))
        made, self._waiting = self._cleaned(), spectra
        return made

    def _end(self) -> FloatArray:
        return self._cleaned()

    def _cleaned(self) -> FloatArray:
        """What waits, with the noise going over from the chunk before's to its own."""
        if self._waiting is None:
            return super()._end()
        spectra, means = self._waiting, np.concatenate(self._means)
        noise = np.stack([noise_power(means[:, channel]) for channel in range(self._channels)])
        before = noise if self._noise is None else self._noise
        part = np.linspace(0, 1, len(spectra), dtype=np.float32)[:, None, None]
        self._speech = weaken_noise(spectra, before * (1 - part) + noise * part, self._speech, self._least)
        self._noise = noise
        return self._sound(spectra)
