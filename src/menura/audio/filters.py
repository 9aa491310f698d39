"""RVC's input filter as a stream: zero-phase Butterworth high-pass, 5th order, 48 Hz, at 16 kHz.

RVC runs `scipy.signal.filtfilt` over the whole recording. The forward pass streams by nature. The backward pass starts
at the recording's end; its memory of what comes later fades with the filter's slowest pole (e-fold 172 samples at
16 kHz), so half a second of look-ahead leaves less than 1e-19 of it, and the result equals the whole-file one to
rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import signal

from menura.units import ANALYSIS_RATE_HZ

if TYPE_CHECKING:
    import numpy.typing as npt

    from menura.types import FloatArray

    Float64Array = npt.NDArray[np.float64]

CUTOFF_HZ = 48.0
ORDER = 5
_PADDING_SAMPLES = 3 * (ORDER + 1)
"""Samples of odd extension that scipy's filtfilt puts at either end (18)."""
_LOOKAHEAD_SAMPLES = ANALYSIS_RATE_HZ // 2
_CORE_SAMPLES = 4 * ANALYSIS_RATE_HZ
"""Samples that one backward run finishes: fixed, so that the result can't depend on how blocks arrive."""


class StreamHighPass:
    """Filters one mono stream at 16 kHz: `push` blocks, then `flush` once.

    As many samples come out as went in, none shifted, equal to `scipy.signal.filtfilt` of the whole signal (its odd
    extensions at both ends included). Signals of 18 samples and fewer, which scipy refuses, are extended by what they
    have. Float64 inside; memory is bounded by 4.5 s of signal and the largest block.
    """

    def __init__(self) -> None:
        self._b, self._a = signal.butter(ORDER, CUTOFF_HZ, "high", fs=ANALYSIS_RATE_HZ)
        self._rest_state: Float64Array = signal.lfilter_zi(self._b, self._a)
        """State of the filter after an endless constant 1."""
        self._state: Float64Array | None = None
        self._start = np.zeros(0)
        """The first samples, until there are enough for the extension before them."""
        self._tail = np.zeros(0)
        """The last samples taken, for the extension after them."""
        self._forward: list[Float64Array] = []
        self._held_samples = 0
        self._flushed = False

    def push(self, samples: FloatArray) -> FloatArray:
        """Take (samples,) float32 at 16 kHz; return what is ready, perhaps nothing."""
        self._check_open()
        taken = np.asarray(samples, dtype=np.float64)
        if self._state is None:
            taken = np.concatenate([self._start, taken])
            if taken.size <= _PADDING_SAMPLES:
                self._start = taken
                return np.zeros(0, dtype=np.float32)
            self._begin(taken)
        self._take(taken)
        return self._ready()

    def flush(self) -> FloatArray:
        """Return the rest. The stream is over afterwards."""
        self._check_open()
        self._flushed = True
        if self._state is None:
            return _filter_short(self._b, self._a, self._start)
        extension = 2 * self._tail[-1] - self._tail[-2::-1]
        self._take(extension)
        forward = np.concatenate(self._forward)
        return self._backward(forward)[: -extension.size].astype(np.float32)

    def _check_open(self) -> None:
        if self._flushed:
            raise ValueError("The stream was flushed; make a new StreamHighPass for another one.")

    def _begin(self, first: Float64Array) -> None:
        extension = 2 * first[0] - first[_PADDING_SAMPLES:0:-1]
        _, self._state = signal.lfilter(self._b, self._a, extension, zi=self._rest_state * extension[0])

    def _take(self, samples: Float64Array) -> None:
        if not samples.size:
            return
        filtered, self._state = signal.lfilter(self._b, self._a, samples, zi=self._state)
        self._forward.append(filtered)
        self._held_samples += samples.size
        self._tail = np.concatenate([self._tail, samples[-_PADDING_SAMPLES - 1 :]])[-_PADDING_SAMPLES - 1 :]

    def _ready(self) -> FloatArray:
        if self._held_samples < _CORE_SAMPLES + _LOOKAHEAD_SAMPLES:
            return np.zeros(0, dtype=np.float32)
        forward = np.concatenate(self._forward)
        ready: list[FloatArray] = []
        start = 0
        while forward.size - start >= _CORE_SAMPLES + _LOOKAHEAD_SAMPLES:
            run = self._backward(forward[start : start + _CORE_SAMPLES + _LOOKAHEAD_SAMPLES])
            ready.append(run[:_CORE_SAMPLES].astype(np.float32))
            start += _CORE_SAMPLES
        self._forward = [forward[start:].copy()]
        self._held_samples = forward.size - start
        return np.concatenate(ready)

    def _backward(self, forward: Float64Array) -> Float64Array:
        filtered, _ = signal.lfilter(self._b, self._a, forward[::-1], zi=self._rest_state * forward[-1])
        result: Float64Array = filtered[::-1]
        return result


def _filter_short(b: Float64Array, a: Float64Array, samples: Float64Array) -> FloatArray:
    if not samples.size:
        return np.zeros(0, dtype=np.float32)
    filtered: FloatArray = signal.filtfilt(b, a, samples, padlen=samples.size - 1).astype(np.float32)
    return filtered


def high_pass(samples: FloatArray) -> FloatArray:
    """Filter a whole mono signal (samples,) at 16 kHz."""
    stream = StreamHighPass()
    return np.concatenate([stream.push(samples), stream.flush()])
