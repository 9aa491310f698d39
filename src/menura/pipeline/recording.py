"""A recording that can be read twice, as 16 kHz blocks with reflected ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from menura.audio.decode import open_audio
from menura.audio.envelope import PeakMeter
from menura.audio.filters import StreamHighPass
from menura.audio.processor import CANCELLED, MixDown, StreamResampler
from menura.errors import DecodeError
from menura.pipeline.windows import LONGEST_EDGE_SAMPLES
from menura.types import AudioInfo, FloatArray
from menura.units import ANALYSIS_RATE_HZ, rescaled_length

BLOCK_S = 2
"""Seconds of a block when reading."""

_MOST_CHANNELS = 64
_LOWEST_RATE_HZ, _HIGHEST_RATE_HZ = 1000, 768_000


class Reader(Protocol):
    """An open recording."""

    @property
    def info(self) -> AudioInfo: ...

    @property
    def warning(self) -> str | None:
        """Set when reading met damage."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What else there is to say of the recording, as far as it was read."""

    def blocks(self, block_samples: int) -> Iterator[FloatArray]:
        """Mono blocks in order."""


class Recording(Protocol):
    """Something that can be read from the start any number of times."""

    @property
    def name(self) -> str:
        """For messages and results."""

    def open(self) -> Reader:
        """Begin reading. Raises DecodeError."""


@dataclass(frozen=True, slots=True)
class FileRecording:
    """An audio file."""

    path: Path
    label: str | None = None
    """Its name in results; by default the path."""

    @property
    def name(self) -> str:
        return self.label or str(self.path)

    def open(self) -> Reader:
        if "\0" in str(self.path):
            raise DecodeError(ascii(self.name), "is not a valid file name")
        return open_audio(self.path)


class ArrayRecording:
    """Samples in memory.

    Args:
        samples: (samples,) or (samples, channels), floats of full scale 1 or integers of their type's full scale.
        sample_rate: in Hz.

    Raises:
        DecodeError: another shape or type, no samples, NaN or infinite ones, or an impossible rate.
    """

    name = "<array>"

    def __init__(self, samples: npt.ArrayLike, sample_rate: int) -> None:
        checked = _checked(np.asarray(samples))
        if not _LOWEST_RATE_HZ <= sample_rate <= _HIGHEST_RATE_HZ or sample_rate != int(sample_rate):
            bounds = f"{_LOWEST_RATE_HZ} to {_HIGHEST_RATE_HZ} Hz"
            raise DecodeError(self.name, f"a sample rate of {sample_rate} is not a whole number from {bounds}")
        mixer = MixDown(int(sample_rate))
        self._samples = np.ascontiguousarray(np.concatenate([mixer.push(checked), mixer.flush()]))
        self.info = AudioInfo(sample_rate=int(sample_rate), channels=1, length_samples=len(self._samples))
        self.warning: str | None = None
        self.notes: tuple[str, ...] = (CANCELLED,) if mixer.cancelled else ()

    def open(self) -> Reader:
        return self

    def blocks(self, block_samples: int) -> Iterator[FloatArray]:
        for start in range(0, len(self._samples), block_samples):
            yield self._samples[start : start + block_samples]


def _checked(samples: npt.NDArray[Any]) -> FloatArray:
    name = ArrayRecording.name
    if samples.dtype.kind not in "fiu":
        raise DecodeError(name, f"samples of type {samples.dtype} are not supported", "Use float32")
    if samples.ndim not in (1, 2):
        raise DecodeError(name, f"expected an array of (samples,) or (samples, channels), not {samples.shape}")
    if not samples.size:
        raise DecodeError(name, "contains no samples")
    if samples.ndim == 2 and samples.shape[1] > min(_MOST_CHANNELS, max(8, samples.shape[0])):
        advice = "Transpose an array of (channels, samples): samples.T"
        raise DecodeError(name, f"{samples.shape[1]} channels in an array of (samples, channels)", advice)
    if samples.dtype.kind != "f":
        full = 2.0 ** (8 * samples.dtype.itemsize - 1)
        samples = (samples.astype(np.float64) - (full if samples.dtype.kind == "u" else 0.0)) / full
    with np.errstate(over="ignore"):
        floats = samples.astype(np.float32)
    if not np.isfinite(floats).all():
        raise DecodeError(name, "contains NaN or infinite samples", "Replace them, with numpy.nan_to_num say")
    return floats


def analysis_length(length_samples: int, sample_rate: int) -> int:
    """Samples at 16 kHz of a recording that isn't empty: at least one."""
    return max(1, rescaled_length(length_samples, sample_rate, ANALYSIS_RATE_HZ))


class AnalysisFeed:
    """The 16 kHz, mono, high-passed samples of a reader, and what was counted on the way."""

    def __init__(
        self, reader: Reader, gain: float = 1.0, limit: float = math.inf, check: Callable[[], None] = lambda: None
    ) -> None:
        self.reader, self._gain, self.limit, self._check = reader, gain, limit, check
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
        """Contiguous blocks, `analysis_length` of the recording's length together; `check` is called before each."""
        rate = self.reader.info.sample_rate
        resampler, high_pass = StreamResampler(rate, ANALYSIS_RATE_HZ), StreamHighPass()
        for block in self.reader.blocks(BLOCK_S * rate):
            self._check()
            self.length_samples += len(block)
            self._meter.push(block)
            block = block if self.limit == math.inf else np.clip(block, -self.limit, self.limit)
            yield high_pass.push(self._measured(resampler.push(block)))
        yield high_pass.push(self._measured(self._at_least_one(resampler.flush())))
        yield high_pass.flush()

    def _at_least_one(self, rest: FloatArray) -> FloatArray:
        """A sample or two at a high rate are less than half a sample at 16 kHz, yet must be converted."""
        exact = rescaled_length(self.length_samples, self.reader.info.sample_rate, ANALYSIS_RATE_HZ)
        return np.zeros(1, dtype=np.float32) if self.length_samples and not exact else rest

    def _measured(self, samples: FloatArray) -> FloatArray:
        if len(samples):
            self.peak = max(self.peak, float(np.max(np.abs(samples))))
        return samples if self._gain == 1.0 else samples * np.float32(self._gain)


def reflect(samples: FloatArray, left: int, right: int) -> FloatArray:
    """`numpy.pad(mode="reflect")` for any length from one sample."""
    return np.pad(samples, (left, right), mode="reflect" if len(samples) > 1 else "edge")


def reflect_edges(
    blocks: Iterable[FloatArray], left: int, right: Callable[[int], int]
) -> Generator[FloatArray, None, None]:
    """The blocks of a recording with reflected samples before and after them.

    Args:
        blocks: contiguous blocks, at least one sample together.
        left: reflected samples before the first one, at most LONGEST_EDGE_SAMPLES.
        right: from the recording's length, the reflected samples after its last one, with the same limit.

    Yields:
        Blocks of the extended signal, equal to `reflect` of the whole.
    """
    held: FloatArray = np.zeros(0, dtype=np.float32)
    length, begun = 0, False
    for block in blocks:
        length += len(block)
        held = np.concatenate([held, block])
        if len(held) <= LONGEST_EDGE_SAMPLES:
            continue
        if not begun:
            begun = True
            yield held[1 : left + 1][::-1].copy()
        keep = len(held) - LONGEST_EDGE_SAMPLES - 1  # what a reflection at the end may still need stays here
        yield held[:keep].copy()
        held = held[keep:]
    if length:
        yield reflect(held, 0 if begun else left, right(length))
