"""Streaming resampling with exact lengths, on soxr's very-high-quality polyphase filters.

Linear phase with the delay taken out: an impulse at time t stays at time t. The result does not depend on how the
samples are cut into blocks, and equals `soxr.resample` of the whole signal.
"""

from __future__ import annotations

import numpy as np
import soxr

from menura.audio.processor import Processor
from menura.types import FloatArray
from menura.units import ceil_div, rescaled_length


class StreamResampler(Processor):
    """A Processor from one rate to another.

    The pushed and flushed outputs together have `rescaled_length(samples pushed, rate_in_hz, rate_out_hz)` samples.
    With equal rates samples pass through unchanged.
    """

    def __init__(self, rate_in_hz: int, rate_out_hz: int) -> None:
        self._rate_in_hz, self._rate_out_hz = rate_in_hz, rate_out_hz
        self._taken_samples = self._given_samples = 0
        self._stream: soxr.ResampleStream | None = None

    def _push(self, samples: FloatArray) -> FloatArray:
        samples = np.ascontiguousarray(samples, dtype=np.float32)
        if self._rate_in_hz == self._rate_out_hz or not len(samples):
            return samples
        if self._stream is None:
            channels = 1 if samples.ndim == 1 else samples.shape[1]
            self._stream = soxr.ResampleStream(
                self._rate_in_hz, self._rate_out_hz, channels, dtype="float32", quality="VHQ"
            )
        self._taken_samples += len(samples)
        ready: FloatArray = self._stream.resample_chunk(samples)
        self._given_samples += len(ready)
        return ready

    def _flush(self) -> FloatArray:
        if self._stream is None:
            return self._nothing
        # Silence after the end is what soxr itself assumes there; it yields the tail that rounding up may ask for.
        silent_samples = 3 * ceil_div(self._rate_in_hz, self._rate_out_hz)
        silence = np.zeros((silent_samples, *self._nothing.shape[1:]), dtype=np.float32)
        rest: FloatArray = self._stream.resample_chunk(silence, last=True)
        return rest[: rescaled_length(self._taken_samples, self._rate_in_hz, self._rate_out_hz) - self._given_samples]


def resample(samples: FloatArray, rate_in_hz: int, rate_out_hz: int) -> FloatArray:
    """Resample a whole mono signal (samples,) to `rescaled_length` samples."""
    stream = StreamResampler(rate_in_hz, rate_out_hz)
    return np.concatenate([stream.push(samples), stream.flush()])
