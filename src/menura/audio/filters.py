"""RVC's input filter as a stream: zero-phase Butterworth high-pass, 5th order, 48 Hz, at 16 kHz.

RVC runs `scipy.signal.filtfilt` over the whole recording, backwards too; the backward pass' memory of what comes later
fades with the filter's slowest pole (e-fold 172 samples), so half a second of look-ahead leaves less than 1e-19 of it.
The filter is computed here, by partial fractions: importing scipy.signal takes longer than importing torch.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from menura.audio.processor import Processor
from menura.types import Float64Array, FloatArray
from menura.units import ANALYSIS_RATE_HZ

_STACK_SAMPLES = 800
"""What goes into one matrix product: so small a one stays on its thread. NumPy's BLAS would spread larger ones over
threads of its own, which wait busily for each other: thirty times as long beside torch's on all cores."""

States: TypeAlias = npt.NDArray[np.complex128]


class Recursion:
    """A sum of one-pole sections: y[n] = gain x[n] + Re sum_i weight_i s_i[n] and s_i[n + 1] = pole_i s_i[n] + x[n].

    The complex states don't mix, so a block of outputs is a fixed matrix times its inputs plus what the states at its
    beginning become.
    """

    def __init__(self, gain: float, poles: States, weights: States, block_samples: int) -> None:
        powers = poles[:, None] ** np.arange(block_samples)
        response = np.concatenate([[gain], (weights @ powers).real[:-1]])
        lag = np.arange(block_samples)[None, :] - np.arange(block_samples)[:, None]
        self._direct = np.where(lag >= 0, response[np.maximum(lag, 0)], 0.0)
        """(in, out): what each sample of a block gives to each output of it."""
        self._entering = powers[:, ::-1].T.copy()  # (in, states): what each sample adds to the states after its block
        self._leaving = weights[:, None] * powers  # (states, out): what the states before a block give to its outputs
        self._decay, self._block_samples = poles**block_samples, block_samples

    def run(self, samples: Float64Array, states: States) -> tuple[Float64Array, States]:
        """Filter (samples,); the states after it are right if that is a whole number of blocks."""
        order, block = len(self._decay), self._block_samples
        padding = -samples.size % _STACK_SAMPLES
        stacks = np.pad(samples, (0, padding)).reshape(-1, _STACK_SAMPLES // block, block)
        scan = np.concatenate([states[None, :], (stacks @ self._entering).reshape(-1, order)])
        decay, reach = self._decay, 1
        while reach < len(scan):  # s[k] = sum over j of poles^(k - j) scan[j], doubling how far each has looked back
            scan[reach:] = scan[reach:] + decay * scan[:-reach]
            decay, reach = decay * decay, 2 * reach
        before = scan[:-1].reshape(-1, _STACK_SAMPLES // block, order)
        filtered: Float64Array = stacks @ self._direct + (before @ self._leaving).real
        return filtered.ravel()[: samples.size], scan[-(-samples.size // block)]


_CUTOFF_HZ = 48.0
_ORDER = 5
_PADDING_SAMPLES = 3 * (_ORDER + 1)  # samples of odd extension that scipy's filtfilt puts at either end (18)
_CHUNK_SAMPLES = ANALYSIS_RATE_HZ // 2
"""Samples filtered forward at once: fixed, so that the result can't depend on how blocks arrive."""
_CORE_CHUNKS = 8  # chunks that one backward run finishes; one more is its look-ahead

# The bilinear transform; the five zeros are all at 1.
_CIRCLE = -np.exp(1j * np.pi * np.arange(1 - _ORDER, _ORDER, 2) / (2 * _ORDER))
_ANALOG = 4 * math.tan(math.pi * _CUTOFF_HZ / ANALYSIS_RATE_HZ) / _CIRCLE
_POLES = (4 + _ANALOG) / (4 - _ANALOG)
_GAIN = float(np.prod(4 / (4 - _ANALOG)).real)
_WEIGHTS = _GAIN * (_POLES - 1) ** _ORDER / (_POLES[:, None] - _POLES[None, :] + np.eye(_ORDER)).prod(axis=1)
_REST = 1 / (1 - _POLES)  # states after an endless constant 1
_HIGH_PASS = Recursion(_GAIN, _POLES, _WEIGHTS, block_samples=160)


class StreamHighPass(Processor):
    """One mono stream at 16 kHz, equal to `scipy.signal.filtfilt` of the whole signal, odd extensions included.

    Signals of 18 samples and fewer, which scipy refuses, are extended by what they have. Float64 inside; memory is
    bounded by 4.5 s of signal and the largest block.
    """

    def __init__(self) -> None:
        self._states: States | None = None
        """None until the first samples, and with them the extension before them, are there."""
        self._pending: Float64Array = np.zeros(0)
        self._tail: FloatArray = np.zeros(0, dtype=np.float32)  # the last samples taken, for the extension after them
        self._forward: list[Float64Array] = []
        self._skip = 0  # samples of the extension before the signal that are still to be left out

    def _push(self, samples: FloatArray) -> FloatArray:
        self._pending = np.concatenate([self._pending, samples])
        self._tail = np.concatenate([self._tail, samples[-_PADDING_SAMPLES - 1 :]])[-_PADDING_SAMPLES - 1 :]
        if self._states is None and len(self._pending) > _PADDING_SAMPLES:
            self._states = self._begin(_PADDING_SAMPLES)
        if self._states is not None:
            whole = len(self._pending) // _CHUNK_SAMPLES * _CHUNK_SAMPLES
            for chunk in self._pending[:whole].reshape(-1, _CHUNK_SAMPLES):
                filtered, self._states = _HIGH_PASS.run(chunk, self._states)
                self._forward.append(filtered)
            self._pending = self._pending[whole:].copy()
        ready = [np.zeros(0, dtype=np.float32)]
        while len(self._forward) > _CORE_CHUNKS:
            ready.append(self._backward(self._forward[: _CORE_CHUNKS + 1], _CORE_CHUNKS * _CHUNK_SAMPLES))
            del self._forward[:_CORE_CHUNKS]
        return np.concatenate(ready)

    def _flush(self) -> FloatArray:
        if not len(self._tail):
            return np.zeros(0, dtype=np.float32)
        extension = min(_PADDING_SAMPLES, len(self._tail) - 1)
        states = self._begin(extension) if self._states is None else self._states
        last = self._tail.astype(np.float64)
        rest = np.concatenate([self._pending, 2 * last[-1] - last[-2 : -2 - extension : -1]])
        return self._backward([*self._forward, _HIGH_PASS.run(rest, states)[0]], -extension or None)

    def _begin(self, extension: int) -> States:
        before = 2 * self._pending[0] - self._pending[extension:0:-1]
        self._pending, self._skip = np.concatenate([before, self._pending]), extension
        states: States = _REST * self._pending[0]
        return states

    def _backward(self, forward: list[Float64Array], stop: int | None) -> FloatArray:
        joined = np.concatenate(forward)
        filtered = _HIGH_PASS.run(joined[::-1], _REST * joined[-1])[0][::-1]
        samples, self._skip = filtered[self._skip : stop].astype(np.float32), 0
        return samples
