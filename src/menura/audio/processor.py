"""Signal processing as streams: anything that takes samples in blocks and gives samples in blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from menura.types import FloatArray


class Processor(Protocol):
    """One stream's processing: `push` blocks of any length, then `flush` once.

    Blocks are float32, (samples,) or (samples, channels), all of one stream alike. What comes out in all doesn't depend
    on how the samples were cut into blocks.
    """

    def push(self, samples: FloatArray) -> FloatArray:
        """Take the next samples; return what is ready, perhaps nothing."""
        ...

    def flush(self) -> FloatArray:
        """Return the rest. The stream is over afterwards."""
        ...


class OneStream:
    """Base of processors that refuse a second stream."""

    _flushed = False

    def _check_open(self, *, last: bool = False) -> None:
        if self._flushed:
            raise ValueError(f"The stream was flushed; make a new {type(self).__name__} for another one.")
        self._flushed = last


class Chain(OneStream):
    """Processors one after another, itself a Processor; without any, samples pass unchanged."""

    def __init__(self, *processors: Processor) -> None:
        self._processors = processors
        self._nothing: FloatArray = np.zeros(0, dtype=np.float32)
        """An empty block with the channels of what was pushed."""

    def push(self, samples: FloatArray) -> FloatArray:
        self._check_open()
        self._nothing = empty_like(samples)
        for processor in self._processors:
            samples = processor.push(samples)
        return samples

    def flush(self) -> FloatArray:
        self._check_open(last=True)
        rest = self._nothing
        for processor in self._processors:
            ready = processor.push(rest)
            rest = np.concatenate([ready, processor.flush()])
        return rest


class ExactLength(OneStream):
    """Cuts a stream off, or continues it by zeros, so that it has exactly so many samples."""

    def __init__(self, length_samples: int) -> None:
        self._missing_samples = length_samples
        self._nothing: FloatArray = np.zeros(0, dtype=np.float32)

    def push(self, samples: FloatArray) -> FloatArray:
        self._check_open()
        self._nothing = empty_like(samples)
        samples = samples[: self._missing_samples]
        self._missing_samples -= len(samples)
        return samples

    def flush(self) -> FloatArray:
        self._check_open(last=True)
        return np.zeros((self._missing_samples, *self._nothing.shape[1:]), dtype=np.float32)


def empty_like(samples: FloatArray) -> FloatArray:
    """A block of no samples, with as many channels."""
    return np.zeros((0, *samples.shape[1:]), dtype=np.float32)


def mix_down(samples: FloatArray) -> FloatArray:
    """Average of the channels: (samples, channels) or (samples,) in, (samples,) out."""
    if samples.ndim == 1:
        return samples
    if samples.shape[1] == 1:
        return np.ascontiguousarray(samples[:, 0])
    # Divided before it is summed: float files may hold values whose sum would overflow.
    share = np.float32(samples.shape[1])
    mono: FloatArray = samples[:, 0] / share
    for channel in samples.T[1:]:
        mono += channel / share
    return mono
