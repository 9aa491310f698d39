"""A recording that can be read twice: its first, cheap pass, and 16 kHz blocks with reflected ends."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from menura.audio.clarity import ClarityMeter
from menura.audio.decode import open_audio
from menura.audio.envelope import PeakMeter, RmsMeter
from menura.audio.filters import StreamHighPass
from menura.audio.processor import CANCELLED, Chain, MixDown, StreamResampler
from menura.content.registry import RecordingStatistics, StatisticsCollector
from menura.effects.loudness import LoudnessMeter
from menura.effects.processors import clean_up
from menura.errors import DecodeError
from menura.pipeline.windows import LONGEST_EDGE_SAMPLES, Extent, Span
from menura.types import AudioInfo, Float64Array, FloatArray
from menura.units import ANALYSIS_RATE_HZ, FRAME_SAMPLES, rescaled_length

BLOCK_S = 2
"""Seconds of a block when reading."""
MOST_CHANNELS = 64
_LOWEST_RATE_HZ, _HIGHEST_RATE_HZ = 1000, 768_000

PEAK_LIMIT_IN = 0.95
"""Louder input is scaled down to this, as RVC does."""
QUIET_PEAK, MOST_GAIN = 10 ** (-30 / 20), 10 ** (40 / 20)
"""Input whose peak is below -30 dBFS is analysed at that level: in much quieter speech F0 networks find no voice."""
SILENT_PEAK = 10 ** (-80 / 20)
_FAR_OVER = 10 ** (1 / 20)
"""A recording of floats that goes further beyond full scale is told so."""

_BELOW_SPEECH_DB, _CEILING_DB, _SPEECH_PERCENTILE = 50.0, -50.0, 90
SHORTEST_SILENCE_FRAMES, _RELEASE_FRAMES, _ATTACK_FRAMES, FADE_FRAMES = 50, 15, 10, 4
_STEPS_A_DB = 2
FAR_FRAMES = 1 << 40


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

    def blocks(self, block_samples: int, apart: bool = False) -> Iterator[FloatArray]:
        """Mono blocks in order; (samples, channels) if asked for, which only recordings of several channels are."""


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
    """(samples,) or (samples, channels) in memory, floats of full scale 1 or integers of their type's full scale.

    Raises DecodeError: another shape or type, no samples, NaN or infinite ones, or an impossible rate.
    """

    name = "<array>"

    def __init__(self, samples: npt.ArrayLike, sample_rate: int) -> None:
        checked = _checked(np.asarray(samples))
        if not _LOWEST_RATE_HZ <= sample_rate <= _HIGHEST_RATE_HZ or sample_rate != int(sample_rate):
            bounds = f"{_LOWEST_RATE_HZ} to {_HIGHEST_RATE_HZ} Hz"
            raise DecodeError(self.name, f"a sample rate of {sample_rate} is not a whole number from {bounds}")
        mixer = MixDown(int(sample_rate))
        self._samples = np.ascontiguousarray(np.concatenate([mixer.push(checked), mixer.flush()]))
        self._frames = checked[:, None] if checked.ndim == 1 else checked
        length, count = self._frames.shape
        self.info = AudioInfo(sample_rate=int(sample_rate), channels=count, length_samples=length)
        self.warning: str | None = None
        self.notes: tuple[str, ...] = (CANCELLED,) if mixer.cancelled else ()

    def open(self) -> Reader:
        return self

    def blocks(self, block_samples: int, apart: bool = False) -> Iterator[FloatArray]:
        samples = self._frames if apart else self._samples
        for start in range(0, len(samples), block_samples):
            yield samples[start : start + block_samples]


def _checked(samples: npt.NDArray[Any]) -> FloatArray:
    name, kind, shape = ArrayRecording.name, samples.dtype.kind, samples.shape
    if kind not in "fiu":
        raise DecodeError(name, f"samples of type {samples.dtype} are not supported", "Use float32")
    if samples.ndim not in (1, 2):
        raise DecodeError(name, f"expected an array of (samples,) or (samples, channels), not {shape}")
    if not samples.size:
        raise DecodeError(name, "contains no samples")
    if samples.ndim == 2 and shape[1] > min(MOST_CHANNELS, max(8, shape[0])):
        advice = "Transpose an array of (channels, samples): samples.T"
        raise DecodeError(name, f"{shape[1]} channels in an array of (samples, channels)", advice)
    if kind != "f":
        full = 2.0 ** (8 * samples.dtype.itemsize - 1)
        samples = (samples.astype(np.float64) - (full if kind == "u" else 0.0)) / full
    with np.errstate(over="ignore"):
        floats = samples.astype(np.float32)
    if not np.isfinite(floats).all():
        raise DecodeError(name, "contains NaN or infinite samples", "Replace them, with numpy.nan_to_num say")
    return floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """What is heard of a recording: channels, weighted and added (or mixed down), cleaned; F0 is signal `lead`'s."""

    weights: Sequence[float] = ()
    clean: float = 0.0
    lead: int = 0

    def of(self, reader: Reader, block_samples: int) -> Iterator[FloatArray]:
        """(samples,) blocks."""
        if not self.weights:
            return reader.blocks(block_samples)
        return (
            np.sum(b * np.array(self.weights, np.float32), axis=1) for b in reader.blocks(block_samples, apart=True)
        )


MIXED = Signal()


class AnalysisFeed:
    """The 16 kHz, high-passed samples of a reader's signal, and what was counted on the way."""

    def __init__(
        self,
        reader: Reader,
        gain: float = 1.0,
        limit: float = math.inf,
        check: Callable[[], None] = lambda: None,
        signal: Signal = MIXED,
    ) -> None:
        self.reader, self.limit, self._gain, self._check, self._signal = reader, limit, gain, check, signal
        self.loudness: LoudnessMeter | None = None
        """Set before anything is read, it is given the samples as they are at the recording's rate."""
        self.meter = PeakMeter()
        """Its limit is where clicks are to be limited, by what was read so far."""
        self.length_samples = 0
        """Read so far, at the recording's own rate."""
        self.peak = 0.0
        """Largest |sample| so far at 16 kHz, before the high-pass and the gain."""

    def blocks(self) -> Iterator[FloatArray]:
        """Contiguous blocks, at least one sample of a recording that isn't empty; `check` is called before each."""
        rate = self.reader.info.sample_rate
        resampler = Chain(StreamResampler(rate, ANALYSIS_RATE_HZ), *clean_up(self._signal.clean))
        high_pass = StreamHighPass()
        for block in self._signal.of(self.reader, BLOCK_S * rate):
            self._check()
            self.length_samples += len(block)
            self.meter.push(block)
            block = block if self.limit == math.inf else np.clip(block, -self.limit, self.limit)
            if self.loudness is not None:
                self.loudness.push(block)
            yield high_pass.push(self._measured(resampler.push(block)))
        rest = resampler.flush()
        if self.length_samples and not rescaled_length(self.length_samples, rate, ANALYSIS_RATE_HZ):
            rest = np.zeros(1, dtype=np.float32)  # less than half a sample at 16 kHz must be converted too
        yield high_pass.push(self._measured(rest))
        yield high_pass.flush()

    def _measured(self, samples: FloatArray) -> FloatArray:
        self.peak = max(self.peak, float(np.max(np.abs(samples), initial=0.0)))
        return samples if self._gain == 1.0 else samples * np.float32(self._gain)


def reflect(samples: FloatArray, left: int, right: int) -> FloatArray:
    """`numpy.pad(mode="reflect")` for any length from one sample."""
    return np.pad(samples, (left, right), mode="reflect" if len(samples) > 1 else "edge")


def reflect_edges(
    blocks: Iterable[FloatArray], left: int, right: Callable[[int], int]
) -> Generator[FloatArray, None, None]:
    """`reflect` for blocks, by the recording's length on the right; at most LONGEST_EDGE_SAMPLES on each side."""
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


class SilenceFinder:
    """Finds where a recording is silent for so long that no network needs to see it (`--split-silence`).

    That is half a second and more 50 dB below the recording's own speech, and below -50 dBFS. The 0.15 s after a sound
    and the 0.1 s before one are kept, the rest is faded over 40 ms. It takes 16 kHz samples in any blocks; two bytes a
    frame are kept.
    """

    def __init__(self) -> None:
        self._pending: FloatArray = np.zeros(0, dtype=np.float32)
        self._levels: list[npt.NDArray[np.int16]] = []

    def push(self, samples: FloatArray) -> None:
        held = np.concatenate([self._pending, samples])
        frames = len(held) // FRAME_SAMPLES
        self._pending = held[frames * FRAME_SAMPLES :]
        self._measure(held[: frames * FRAME_SAMPLES].reshape(frames, FRAME_SAMPLES))

    def finish(self, gain: float) -> Silences:
        """The silent spans of all that was pushed, as it is after a gain."""
        if len(self._pending):
            self._measure(self._pending[None, :])
        levels = np.concatenate([np.zeros(0, np.int16), *self._levels]) / _STEPS_A_DB + 20 * np.log10(gain)
        speech = levels[levels > _CEILING_DB]
        loud_db = float(np.percentile(speech, _SPEECH_PERCENTILE)) if len(speech) else 0.0
        quiet = levels < min(loud_db - _BELOW_SPEECH_DB, _CEILING_DB)
        edges = np.flatnonzero(np.diff(quiet.astype(np.int8), prepend=0, append=0)).reshape(-1, 2).tolist()
        spans = tuple(
            (a + _RELEASE_FRAMES if a else -FAR_FRAMES, b - _ATTACK_FRAMES if b < len(levels) else FAR_FRAMES)
            for a, b in edges
            if b - a >= SHORTEST_SILENCE_FRAMES
        )
        return Silences(spans=spans, frames=len(levels))

    def _measure(self, frames: FloatArray) -> None:
        power = np.mean(np.square(frames, dtype=np.float64), axis=1)
        levels_db = 10 * np.log10(np.maximum(power, 1e-20))  # float files reach far above 0 dB
        self._levels.append(np.rint(_STEPS_A_DB * levels_db).astype(np.int16))


@dataclass(frozen=True, slots=True, kw_only=True)
class Silences:
    """Spans of frames [start, end) without sound, in order; the first and the last may reach beyond the recording."""

    spans: tuple[Span, ...] = ()
    frames: int = 0
    """Of the recording."""

    @property
    def skipped_frames(self) -> int:
        return sum(min(end, self.frames) - max(start, 0) for start, end in self.spans)

    def near(self, start: int, end: int) -> tuple[Span, ...]:
        """Those that reach into [start, end)."""
        first = bisect_right(self.spans, start, key=lambda span: span[1])
        return self.spans[first : bisect_left(self.spans, end, lo=first, key=lambda span: span[0])]

    def sounding(self, start: int, end: int) -> tuple[Span, ...]:
        """What of [start, end) is to be computed: all but the silent spans, their fades included."""
        pieces, at = [], start
        for quiet_start, quiet_end in self.near(start, end):
            stop, resume = quiet_start + FADE_FRAMES, quiet_end - FADE_FRAMES
            if resume <= at or stop >= end:
                continue
            if stop > at:
                pieces.append((at, stop))
            at = resume
        if at < end:
            pieces.append((at, end))
        return tuple(pieces)

    def hides(self, start: int, end: int) -> bool:
        """True if all of [start, end) is in one silent span."""
        return any(a <= start and end <= b for a, b in self.near(start, end))

    def gate(self, start: int, end: int, frame_samples: int) -> FloatArray | None:
        """Factors for the samples of frames [start, end): 1 where there is sound, 0 in silence; None for all 1."""
        if not (near := self.near(start, end)):
            return None
        places = [place for a, b in near for place in (a, a + FADE_FRAMES, b - FADE_FRAMES, b)]
        at = start + (np.arange((end - start) * frame_samples) + 0.5) / frame_samples
        return np.interp(at, places, [1.0, 0.0, 0.0, 1.0] * len(near)).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingFacts:
    """What the first pass found; lengths are at the recording's own rate, and at 16 kHz."""

    length_samples: int
    sample_rate: int
    analysis_samples: int
    gain: float
    """For the analysis: 1, or what brings the peak down to PEAK_LIMIT_IN or up to QUIET_PEAK."""
    limit: float
    """Samples are limited to this before the gain: finite where there are clicks."""
    silent: bool
    statistics: RecordingStatistics | None
    source_rms: FloatArray
    """(frames,) RMS of 1 s every half second, for the loudness envelope."""
    powers: FloatArray
    """(steps,) of a LoudnessMeter, of the recording itself; empty where they aren't asked for."""
    peak: float
    """Largest |sample| at the recording's own rate, limited."""
    silences: Silences
    warning: str | None
    """What of the recording could not be read."""
    notes: tuple[str, ...]
    unclear: str = ""
    """What makes its words unsafe, as a note; empty where nothing was found."""
    signal: Signal = MIXED
    """What these are the facts of."""

    @property
    def audio_s(self) -> float:
        return self.length_samples / self.sample_rate

    @property
    def raised(self) -> float:
        """By how much it would have to be raised to be as loud as usual, about; at least 1."""
        return MOST_GAIN if self.silent else max(self.gain, 1.0)


def first_pass(
    recording: Recording,
    new_collector: Callable[[], StatisticsCollector] | None,
    extent_of: Callable[[int], Extent],
    *,
    split_silence: bool = False,
    adjust_level: bool = True,
    loudness: bool = False,
    check: Callable[[], None] = lambda: None,
    signal: Signal = MIXED,
) -> RecordingFacts:
    """Read a recording once; twice where a click must be limited, without which all else would be too quiet.

    Without `new_collector` the encoder takes each window's own statistics (compatible modes). `adjust_level` limits
    clicks and raises quiet recordings, which RVC doesn't; `loudness` is measured if asked for. Raises DecodeError.
    """
    limit = math.inf
    while True:
        feed = AnalysisFeed(recording.open(), limit=limit, check=check, signal=signal)
        rate, collector = feed.reader.info.sample_rate, None if new_collector is None else new_collector()
        clarity, finder = ClarityMeter(), SilenceFinder() if split_silence else None
        feed.loudness = LoudnessMeter(rate) if loudness else None
        levels = _read(feed, extent_of, collector, [each.push for each in (clarity, finder) if each is not None])
        if not feed.length_samples:
            raise DecodeError(recording.name, "contains no audio")
        if not (adjust_level and limit == math.inf and feed.meter.limit < math.inf):
            break
        limit = feed.meter.limit
    gain, peak = 1.0, feed.peak
    if peak > PEAK_LIMIT_IN:
        gain = PEAK_LIMIT_IN / peak
    elif adjust_level and SILENT_PEAK <= peak < QUIET_PEAK:
        gain = min(QUIET_PEAK / peak, MOST_GAIN)
    highest, notes = min(feed.meter.peak, limit), feed.reader.notes
    notes += () if limit == math.inf else ("Clicks far above full scale were limited.",)
    if adjust_level and highest > _FAR_OVER:
        notes += (f"It goes {20 * math.log10(highest):.1f} dB beyond full scale, and counts as scaled down to it.",)
    return RecordingFacts(
        length_samples=feed.length_samples,
        sample_rate=rate,
        analysis_samples=max(1, rescaled_length(feed.length_samples, rate, ANALYSIS_RATE_HZ)),
        gain=gain,
        limit=limit,
        silent=peak < SILENT_PEAK,
        statistics=None if collector is None else collector.finish().scaled(gain),
        source_rms=np.asarray(levels * min(gain, 1.0), dtype=np.float32),
        powers=np.zeros(0, np.float32) if feed.loudness is None else feed.loudness.powers()[:, 0].astype(np.float32),
        peak=highest,
        silences=Silences() if finder is None else finder.finish(gain),
        warning=feed.reader.warning,
        notes=notes,
        unclear=clarity.finish(),
        signal=signal,
    )


def _read(
    feed: AnalysisFeed,
    extent_of: Callable[[int], Extent],
    collector: StatisticsCollector | None,
    listeners: Iterable[Callable[[FloatArray], None]],
) -> Float64Array:
    """All of it, for the first time; the RMS of 1 s every half second. The collector takes reflected ends, too."""
    meter, levels = RmsMeter(ANALYSIS_RATE_HZ), []

    def measured() -> Iterator[FloatArray]:
        for block in feed.blocks():
            levels.append(meter.push(block))
            for hear in listeners:
                hear(block)
            yield block

    for block in reflect_edges(measured(), extent_of(0).left_samples, lambda n: extent_of(n).right_samples):
        if collector is not None:
            collector.push(block)
    return np.concatenate([*levels, meter.flush()])
