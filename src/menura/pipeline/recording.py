"""A recording that can be read twice, as 16 kHz blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Protocol

import numpy as np

from menura.audio.decode import open_audio
from menura.audio.filters import StreamHighPass
from menura.audio.levels import PeakMeter
from menura.audio.mixdown import CANCELLED, MixDown
from menura.audio.resample import StreamResampler
from menura.errors import DecodeError
from menura.pipeline.background import StoppedError
from menura.types import AudioInfo
from menura.units import ANALYSIS_RATE_HZ, rescaled_length

if TYPE_CHECKING:
    from menura.types import FloatArray

BLOCK_S = 2
"""Seconds of a block when reading."""


class Reader(Protocol):
    """An open recording."""

    @property
    def info(self) -> AudioInfo:
        """What the header says."""
        ...

    @property
    def warning(self) -> str | None:
        """Set when reading met damage."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What else there is to say of the recording, as far as it was read."""
        ...

    def blocks(self, block_samples: int) -> Iterator[FloatArray]:
        """Mono blocks in order."""
        ...


class Recording(Protocol):
    """Something that can be read from the start any number of times."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    def open(self) -> AbstractContextManager[Reader]:
        """Begin reading."""
        ...


@dataclass(frozen=True, slots=True)
class FileRecording:
    """An audio file; reading it ends with StoppedError once `stop` is set."""

    path: Path
    stop: Event | None = None

    @property
    def name(self) -> str:
        """The path, for messages."""
        return str(self.path)

    def open(self) -> AbstractContextManager[Reader]:
        """Begin reading. Raises DecodeError."""
        reader = open_audio(self.path)
        return reader if self.stop is None else nullcontext(_Stoppable(reader, self.stop))


class _Stoppable:
    """A reader that another thread can stop."""

    def __init__(self, reader: Reader, stop: Event) -> None:
        self._reader, self._stop = reader, stop

    @property
    def info(self) -> AudioInfo:
        return self._reader.info

    @property
    def warning(self) -> str | None:
        return self._reader.warning

    @property
    def notes(self) -> tuple[str, ...]:
        return self._reader.notes

    def blocks(self, block_samples: int) -> Iterator[FloatArray]:
        for block in self._reader.blocks(block_samples):
            if self._stop.is_set():
                raise StoppedError
            yield block


class ArrayRecording:
    """Samples in memory, mono or (samples, channels)."""

    name = "<array>"

    def __init__(self, samples: FloatArray, sample_rate: int) -> None:
        if samples.ndim not in (1, 2) or not len(samples):
            raise DecodeError(self.name, f"needs shape (samples,) or (samples, channels), not {samples.shape}")
        if not np.isfinite(samples).all():
            raise DecodeError(self.name, "contains NaN or infinite samples", "Replace them, with numpy.nan_to_num say")
        mixer = MixDown(sample_rate)
        mixed = mixer.push(np.asarray(samples, dtype=np.float32))
        self._samples = np.ascontiguousarray(np.concatenate([mixed, mixer.flush()]))
        self.info = AudioInfo(sample_rate=sample_rate, channels=1, length_samples=len(self._samples))
        self.warning: str | None = None
        self.notes: tuple[str, ...] = (CANCELLED,) if mixer.cancelled else ()

    def open(self) -> AbstractContextManager[Reader]:
        """Begin reading."""
        return nullcontext(self)

    def blocks(self, block_samples: int) -> Iterator[FloatArray]:
        """Mono blocks in order."""
        for start in range(0, len(self._samples), block_samples):
            yield self._samples[start : start + block_samples]


def analysis_length(length_samples: int, sample_rate: int) -> int:
    """Samples at 16 kHz of a recording that isn't empty: at least one."""
    return max(1, rescaled_length(length_samples, sample_rate, ANALYSIS_RATE_HZ))


class AnalysisFeed:
    """The 16 kHz, mono, high-passed samples of a reader, and what was counted on the way."""

    def __init__(self, reader: Reader, gain: float = 1.0, limit: float = math.inf) -> None:
        self._reader = reader
        self._gain, self._limit = gain, limit
        self._meter = PeakMeter()
        self.length_samples = 0
        """Samples read so far at the recording's own rate."""
        self.peak = 0.0
        """Largest |sample| so far at 16 kHz, before the high-pass and the gain."""

    @property
    def needed_limit(self) -> float:
        """Where clicks are to be limited, by what was read so far; infinite without any."""
        return self._meter.limit

    def blocks(self) -> Iterator[FloatArray]:
        """Contiguous blocks, `analysis_length` of the recording's length together."""
        rate = self._reader.info.sample_rate
        resampler, high_pass = StreamResampler(rate, ANALYSIS_RATE_HZ), StreamHighPass()
        for block in self._reader.blocks(BLOCK_S * rate):
            self.length_samples += len(block)
            self._meter.push(block)
            block = block if self._limit == math.inf else np.clip(block, -self._limit, self._limit)
            yield high_pass.push(self._measured(resampler.push(block)))
        yield high_pass.push(self._measured(self._at_least_one(resampler.flush())))
        yield high_pass.flush()

    def _at_least_one(self, rest: FloatArray) -> FloatArray:
        """A sample or two at a high rate are less than half a sample at 16 kHz, yet must be converted."""
        exact = rescaled_length(self.length_samples, self._reader.info.sample_rate, ANALYSIS_RATE_HZ)
        return np.zeros(1, dtype=np.float32) if self.length_samples and not exact else rest

    def _measured(self, samples: FloatArray) -> FloatArray:
        if len(samples):
            self.peak = max(self.peak, float(np.max(np.abs(samples))))
        return samples if self._gain == 1.0 else samples * np.float32(self._gain)
