"""Signal processing as streams: anything that takes samples in blocks and gives samples in blocks."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import soxr

from menura.types import FloatArray
from menura.units import ceil_div, rescaled_length

CANCELLED = "The channels cancel each other out in places; a single channel was used there."
_LEAST_SHARE, _ENOUGH_SHARE = 0.1, 0.3
"""Of the power that uncorrelated channels would leave: below it the average isn't used; above which it is again."""
_LOUDER = 4.0  # another channel is preferred to the one used before from 6 dB on
_FADES_A_WINDOW = 50


class Processor(ABC):
    """One stream's processing: `push` blocks of any length, then `flush` once; it refuses a second stream.

    Blocks are float32, (samples,) or (samples, channels), all of one stream alike. What comes out in all doesn't depend
    on how the samples were cut into blocks.
    """

    _flushed = False
    _nothing: FloatArray = np.zeros(0, dtype=np.float32)  # an empty block, with the channels of what was pushed

    def push(self, samples: FloatArray) -> FloatArray:
        """Take the next samples; return what is ready, perhaps nothing."""
        self._check_open()
        self._nothing = np.zeros((0, *samples.shape[1:]), dtype=np.float32)
        return self._push(samples)

    def flush(self) -> FloatArray:
        """Return the rest. The stream is over afterwards."""
        self._check_open()
        self._flushed = True
        return self._flush()

    def _check_open(self) -> None:
        if self._flushed:
            raise ValueError(f"The stream was flushed; make a new {type(self).__name__} for another one.")

    @abstractmethod
    def _push(self, samples: FloatArray) -> FloatArray: ...

    @abstractmethod
    def _flush(self) -> FloatArray: ...


class Chain(Processor):
    """Processors one after another; without any, samples pass unchanged."""

    def __init__(self, *processors: Processor) -> None:
        self._processors = processors

    def _push(self, samples: FloatArray) -> FloatArray:
        for processor in self._processors:
            samples = processor.push(samples)
        return samples

    def _flush(self) -> FloatArray:
        rest = self._nothing
        for processor in self._processors:
            ready = processor.push(rest)
            rest = np.concatenate([ready, processor.flush()])
        return rest


class ExactLength(Processor):
    """Cuts a stream off, or continues it by zeros, so that it has exactly so many samples."""

    def __init__(self, length_samples: int) -> None:
        self._missing_samples = length_samples

    def _push(self, samples: FloatArray) -> FloatArray:
        samples = samples[: self._missing_samples]
        self._missing_samples -= len(samples)
        return samples

    def _flush(self) -> FloatArray:
        return np.zeros((self._missing_samples, *self._nothing.shape[1:]), dtype=np.float32)


class StreamResampler(Processor):
    """From one rate to another by soxr's very-high-quality polyphase filters, unchanged between equal rates.

    Linear phase with the delay taken out: an impulse at time t stays at time t. What comes out in all has
    `rescaled_length(samples pushed, rate_in_hz, rate_out_hz)` samples, and equals `soxr.resample` of the whole signal.
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
            self._stream = soxr.ResampleStream(self._rate_in_hz, self._rate_out_hz, channels, quality="VHQ")
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


class MixDown(Processor):
    """Channels to mono: their average, or one of them where they cancel each other out.

    Judged in windows (a second is sensible) on the stream's own grid, so that blocks make no difference; from one
    choice to another it fades over the first fiftieth of a window.
    """

    def __init__(self, window_samples: int) -> None:
        self.cancelled = False
        """Whether channels cancelled each other out somewhere."""
        self._window_samples = window_samples
        self._pending: list[FloatArray] = []
        self._pending_samples = 0
        self._channel: int | None = None  # used in the window before; None for the average
        self._preferred = 0
        self._begun = False

    def _push(self, samples: FloatArray) -> FloatArray:
        if samples.ndim == 1 or samples.shape[1] == 1:
            return mix_down(samples)
        self._pending.append(samples)
        self._pending_samples += len(samples)
        if self._pending_samples < self._window_samples:
            return np.zeros(0, dtype=np.float32)
        joined = np.concatenate(self._pending)
        whole = len(joined) - len(joined) % self._window_samples
        self._pending, self._pending_samples = [joined[whole:]], len(joined) - whole
        return np.concatenate([self._mixed(part) for part in np.split(joined[:whole], whole // self._window_samples)])

    def _flush(self) -> FloatArray:
        return self._mixed(np.concatenate(self._pending)) if self._pending_samples else np.zeros(0, dtype=np.float32)

    def _mixed(self, window: FloatArray) -> FloatArray:
        average = mix_down(window)
        before, self._channel = self._channel, self._chosen(window, average)
        result = average if self._channel is None else np.ascontiguousarray(window[:, self._channel])
        if self._begun and self._channel != before:
            fade = self._window_samples // _FADES_A_WINDOW
            part = np.linspace(0, 1, fade, endpoint=False, dtype=np.float32)[: len(window)]
            old = average if before is None else window[:, before]
            result[: len(part)] = (1 - part) * old[: len(part)] + part * result[: len(part)]
        self._begun = True
        return result

    def _chosen(self, window: FloatArray, average: FloatArray) -> int | None:
        if self._begun and len(window) < self._window_samples // 2:
            return self._channel  # an end too short to judge by
        with np.errstate(over="ignore"):
            powers = np.array([np.dot(channel, channel) for channel in window.T], dtype=np.float64)
            share = float(np.dot(average, average)) * len(powers) ** 2
            if not share < (_LEAST_SHARE if self._channel is None else _ENOUGH_SHARE) * powers.sum():
                return None
        self.cancelled = True
        loudest = int(powers.argmax())
        if powers[loudest] > _LOUDER * powers[self._preferred]:
            self._preferred = loudest
        return self._preferred


def mix_down(samples: FloatArray) -> FloatArray:
    """Average of the channels: (samples, channels) or (samples,) in, (samples,) out."""
    if samples.ndim == 1 or samples.shape[1] == 1:
        return np.ascontiguousarray(samples.reshape(-1))
    # Divided before it is summed: float files may hold values whose sum would overflow.
    share = np.float32(samples.shape[1])
    mono: FloatArray = samples[:, 0] / share
    for channel in samples.T[1:]:
        mono += channel / share
    return mono
