"""RVC's input filter as a stream: zero-phase Butterworth high-pass, 5th order, 48 Hz, at 16 kHz.

RVC runs `scipy.signal.filtfilt` over the whole recording. The forward pass streams by nature. The backward pass starts
at the recording's end; its memory of what comes later fades with the filter's slowest pole (e-fold 172 samples at
16 kHz), so half a second of look-ahead leaves less than 1e-19 of it, and the result equals the whole-file one to
rounding. The filter is computed here: importing scipy.signal takes longer than importing torch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from menura.audio.processor import Processor
from menura.units import ANALYSIS_RATE_HZ

if TYPE_CHECKING:
    import numpy.typing as npt

    from menura.types import FloatArray

    Float64Array = npt.NDArray[np.float64]
    Complex128Array = npt.NDArray[np.complex128]

CUTOFF_HZ = 48.0
ORDER = 5
_PADDING_SAMPLES = 3 * (ORDER + 1)
"""Samples of odd extension that scipy's filtfilt puts at either end (18)."""
_CHUNK_SAMPLES = ANALYSIS_RATE_HZ // 2
"""Samples filtered forward at once: fixed, so that the result can't depend on how blocks arrive."""
_CORE_CHUNKS = 8
"""Chunks that one backward run finishes; one more is its look-ahead."""
_BLOCK_SAMPLES = 160
_STACK_BLOCKS = 5
"""Blocks that go into one matrix product: so small a one stays on its thread. NumPy's BLAS would spread larger ones
over threads of its own, which wait busily for each other: thirty times as long beside torch's on all cores."""


class _Recursion:
    """The filter as a sum of one-pole sections (partial fractions), run in blocks by matrix products.

    y[n] = gain x[n] + Re sum_i weight_i s_i[n] and s_i[n + 1] = pole_i s_i[n] + x[n]: five complex states that don't
    mix, so a block of outputs is a fixed matrix times its inputs plus what the states at its beginning become.
    """

    def __init__(self) -> None:
        poles, gain = _poles()
        self._rest = 1 / (1 - poles)
        """States after an endless constant 1."""
        others = poles[:, None] - poles[None, :] + np.eye(ORDER)
        weights = gain * (poles - 1) ** ORDER / others.prod(axis=1)
        steps = np.arange(_BLOCK_SAMPLES)
        powers = poles[:, None] ** steps
        response = np.concatenate([[gain], (weights @ powers).real[:-1]])
        lag = steps[None, :] - steps[:, None]
        self._direct: Float64Array = np.where(lag >= 0, response[np.maximum(lag, 0)], 0.0)
        """(in, out): what each sample of a block gives to each output of it."""
        self._entering: Complex128Array = powers[:, ::-1].T.copy()
        """(in, states): what each sample of a block adds to the states after it."""
        self._leaving: Complex128Array = weights[:, None] * powers
        """(states, out): what the states before a block give to its outputs."""
        self._block_poles: Complex128Array = poles**_BLOCK_SAMPLES

    def at_rest(self, level: float) -> Complex128Array:
        """States after an endless constant."""
        return self._rest * level

    def run(self, samples: Float64Array, states: Complex128Array) -> tuple[Float64Array, Complex128Array]:
        """Filter (samples,); the states after it are right if that is a whole number of blocks."""
        padding = -samples.size % (_STACK_BLOCKS * _BLOCK_SAMPLES)
        stacks = np.pad(samples, (0, padding)).reshape(-1, _STACK_BLOCKS, _BLOCK_SAMPLES)
        scan = np.concatenate([states[None, :], (stacks @ self._entering).reshape(-1, ORDER)])
        decay, reach = self._block_poles, 1
        while reach < len(scan):  # s[k] = sum over j of poles^(k - j) scan[j], doubling how far each has looked back
            scan[reach:] = scan[reach:] + decay * scan[:-reach]
            decay, reach = decay * decay, 2 * reach
        before = scan[:-1].reshape(-1, _STACK_BLOCKS, ORDER)
        filtered: Float64Array = stacks @ self._direct + (before @ self._leaving).real
        return filtered.ravel()[: samples.size], scan[-(-samples.size // _BLOCK_SAMPLES)]


def _poles() -> tuple[Complex128Array, float]:
    """Poles and gain of the high-pass by the bilinear transform; its five zeros are all at 1."""
    warped = 4 * math.tan(math.pi * CUTOFF_HZ / ANALYSIS_RATE_HZ)
    circle = -np.exp(1j * np.pi * np.arange(1 - ORDER, ORDER, 2) / (2 * ORDER))
    analog = warped / circle
    return (4 + analog) / (4 - analog), float(np.prod(4 / (4 - analog)).real)


_recursion = _Recursion()


class StreamHighPass(Processor):
    """A Processor of one mono stream at 16 kHz.

    As many samples come out as went in, none shifted, equal to `scipy.signal.filtfilt` of the whole signal (its odd
    extensions at both ends included). Signals of 18 samples and fewer, which scipy refuses, are extended by what they
    have. Float64 inside; memory is bounded by 4.5 s of signal and the largest block.
    """

    def __init__(self) -> None:
        self._states: Complex128Array | None = None
        """None until the first samples, and with them the extension before them, are there."""
        self._pending: Float64Array = np.zeros(0)
        self._tail: FloatArray = np.zeros(0, dtype=np.float32)
        """The last samples taken, for the extension after them."""
        self._forward: list[Float64Array] = []
        self._skip = 0
        """Samples of the extension before the signal that are still to be left out."""

    def _push(self, samples: FloatArray) -> FloatArray:
        self._pending = np.concatenate([self._pending, samples])
        self._tail = np.concatenate([self._tail, samples[-_PADDING_SAMPLES - 1 :]])[-_PADDING_SAMPLES - 1 :]
        if self._states is None and len(self._pending) > _PADDING_SAMPLES:
            self._states = self._begin(_PADDING_SAMPLES)
        if self._states is not None:
            whole = len(self._pending) // _CHUNK_SAMPLES * _CHUNK_SAMPLES
            for chunk in self._pending[:whole].reshape(-1, _CHUNK_SAMPLES):
                filtered, self._states = _recursion.run(chunk, self._states)
                self._forward.append(filtered)
            self._pending = self._pending[whole:].copy()
        ready = [np.zeros(0, dtype=np.float32)]
        while len(self._forward) > _CORE_CHUNKS:
            backward = self._backward(np.concatenate(self._forward[: _CORE_CHUNKS + 1]))
            ready.append(self._given(backward[: _CORE_CHUNKS * _CHUNK_SAMPLES]))
            del self._forward[:_CORE_CHUNKS]
        return np.concatenate(ready)

    def _flush(self) -> FloatArray:
        if not len(self._tail):
            return np.zeros(0, dtype=np.float32)
        extension = min(_PADDING_SAMPLES, len(self._tail) - 1)
        states = self._begin(extension) if self._states is None else self._states
        last = self._tail.astype(np.float64)
        rest = np.concatenate([self._pending, 2 * last[-1] - last[-2 : -2 - extension : -1]])
        self._forward.append(_recursion.run(rest, states)[0])
        backward = self._backward(np.concatenate(self._forward))
        return self._given(backward[: backward.size - extension])

    def _begin(self, extension: int) -> Complex128Array:
        before = 2 * self._pending[0] - self._pending[extension:0:-1]
        self._pending, self._skip = np.concatenate([before, self._pending]), extension
        return _recursion.at_rest(self._pending[0])

    def _backward(self, forward: Float64Array) -> Float64Array:
        return _recursion.run(forward[::-1], _recursion.at_rest(forward[-1]))[0][::-1]

    def _given(self, backward: Float64Array) -> FloatArray:
        samples, self._skip = backward[self._skip :].astype(np.float32), 0
        return samples
