"""Streaming resampling with exact lengths, on soxr's very-high-quality polyphase filters.

Linear phase with the delay taken out: an impulse at time t stays at time t. The result does not depend on how the
samples are cut into blocks, and equals `soxr.resample` of the whole signal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import soxr

from menura.units import ceil_div, rescaled_length

if TYPE_CHECKING:
    from menura.types import FloatArray

_QUALITY = "VHQ"


class StreamResampler:
    """Resamples one mono stream: `push` blocks, then `flush` once.

    The pushed and flushed outputs together have `rescaled_length(samples pushed, rate_in_hz, rate_out_hz)` samples.
    With equal rates samples pass through unchanged.
    """

    def __init__(self, rate_in_hz: int, rate_out_hz: int) -> None:
        if rate_in_hz <= 0 or rate_out_hz <= 0:
            raise ValueError(f"Rates must be positive, not {rate_in_hz} and {rate_out_hz} Hz.")
        self._rate_in_hz = rate_in_hz
        self._rate_out_hz = rate_out_hz
        self._taken_samples = 0
        self._given_samples = 0
        self._flushed = False
        self._stream = (
            None
            if rate_in_hz == rate_out_hz
            else soxr.ResampleStream(rate_in_hz, rate_out_hz, 1, dtype="float32", quality=_QUALITY)
        )

    def push(self, samples: FloatArray) -> FloatArray:
        """Take (samples,) float32 at the input rate; return what is ready at the output rate, perhaps nothing."""
        self._check_open()
        samples = np.ascontiguousarray(samples, dtype=np.float32)
        if samples.ndim != 1:
            raise ValueError(f"Expected mono samples of shape (samples,), got {samples.shape}.")
        self._taken_samples += samples.size
        if self._stream is None or not samples.size:
            return samples
        ready: FloatArray = self._stream.resample_chunk(samples)
        self._given_samples += ready.size
        return ready

    def flush(self) -> FloatArray:
        """Return the rest. The stream is over afterwards."""
        self._check_open()
        self._flushed = True
        if self._stream is None:
            return np.zeros(0, dtype=np.float32)
        # Silence after the end is what soxr itself assumes there; it yields the tail that rounding up may ask for.
        silence = np.zeros(3 * ceil_div(self._rate_in_hz, self._rate_out_hz), dtype=np.float32)
        rest: FloatArray = self._stream.resample_chunk(silence, last=True)
        return rest[: rescaled_length(self._taken_samples, self._rate_in_hz, self._rate_out_hz) - self._given_samples]

    def _check_open(self) -> None:
        if self._flushed:
            raise ValueError("The stream was flushed; make a new StreamResampler for another one.")


def resample(samples: FloatArray, rate_in_hz: int, rate_out_hz: int) -> FloatArray:
    """Resample a whole mono signal (samples,) to `rescaled_length` samples."""
    stream = StreamResampler(rate_in_hz, rate_out_hz)
    return np.concatenate([stream.push(samples), stream.flush()])
