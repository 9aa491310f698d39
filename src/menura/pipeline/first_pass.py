"""The first, cheap pass over a recording: its exact length, its peak, and what the content encoder must know of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from menura.audio.envelope import RmsMeter
from menura.content.base import RecordingStatistics, StatisticsCollector
from menura.errors import DecodeError
from menura.pipeline.recording import AnalysisFeed, Recording, analysis_length, reflect_edges
from menura.pipeline.silence import SilenceFinder, Silences
from menura.pipeline.windows import Extent
from menura.types import FloatArray
from menura.units import ANALYSIS_RATE_HZ

PEAK_LIMIT_IN = 0.95
"""Louder input is scaled down to this, as RVC does."""
QUIET_PEAK, MOST_GAIN = 10 ** (-30 / 20), 10 ** (40 / 20)
"""Input whose peak is below -30 dBFS is analysed at that level: in much quieter speech F0 networks find no voice."""
SILENT_PEAK = 10 ** (-80 / 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingFacts:
    """What the first pass found."""

    length_samples: int
    """At the recording's own rate."""
    sample_rate: int
    analysis_samples: int
    """At 16 kHz."""
    gain: float
    """1, or what brings the peak down to PEAK_LIMIT_IN or up to QUIET_PEAK; for the analysis."""
    limit: float
    """Samples are limited to this before the gain: finite where there are clicks."""
    silent: bool
    statistics: RecordingStatistics | None
    source_rms: FloatArray
    """(frames,) RMS of 1 s every half second, for the loudness envelope."""
    silences: Silences
    """What need not be computed; nothing unless it was asked for."""
    warning: str | None
    """What of the recording could not be read."""
    notes: tuple[str, ...]

    @property
    def audio_s(self) -> float:
        """Duration."""
        return self.length_samples / self.sample_rate


def first_pass(
    recording: Recording,
    new_collector: Callable[[], StatisticsCollector] | None,
    extent_of: Callable[[int], Extent],
    *,
    split_silence: bool = False,
    adjust_level: bool = True,
    check: Callable[[], None] = lambda: None,
) -> RecordingFacts:
    """Read a recording once; twice where a click must be limited, without which all else would be too quiet.

    Args:
        recording: what to read.
        new_collector: makes the encoder's; None where it takes each window's own statistics (compatible modes).
        extent_of: the mode's timeline for a length.
        split_silence: look for silence.
        adjust_level: limit clicks and raise quiet recordings, which RVC doesn't.
        check: called from time to time; what it raises is raised.

    Raises:
        DecodeError: it can't be read, or contains no samples.
    """

    def read(limit: float) -> tuple[RecordingFacts, float]:
        collector = None if new_collector is None else new_collector()
        feed = AnalysisFeed(recording.open(), limit=limit, check=check)
        return _facts(recording.name, feed, collector, extent_of, split_silence, adjust_level), feed.needed_limit

    facts, limit = read(math.inf)
    return read(limit)[0] if adjust_level and limit < math.inf else facts


def _facts(
    name: str,
    feed: AnalysisFeed,
    collector: StatisticsCollector | None,
    extent_of: Callable[[int], Extent],
    split_silence: bool,
    adjust_level: bool,
) -> RecordingFacts:
    meter, levels = RmsMeter(ANALYSIS_RATE_HZ), []
    finder = SilenceFinder() if split_silence else None

    def measured() -> Iterator[FloatArray]:
        for block in feed.blocks():
            levels.append(meter.push(block))
            if finder is not None:
                finder.push(block)
            yield block

    for block in reflect_edges(measured(), extent_of(0).left_samples, lambda n: extent_of(n).right_samples):
        if collector is not None:
            collector.push(block)
    if not feed.length_samples:
        raise DecodeError(name, "contains no audio")
    levels.append(meter.flush())
    gain, rate = _gain(feed.peak, adjust_level), feed.reader.info.sample_rate
    clicks = () if feed.limit == math.inf else ("Clicks far above full scale were limited.",)
    return RecordingFacts(
        length_samples=feed.length_samples,
        sample_rate=rate,
        analysis_samples=analysis_length(feed.length_samples, rate),
        gain=gain,
        limit=feed.limit,
        silent=feed.peak < SILENT_PEAK,
        statistics=None if collector is None else collector.finish().scaled(gain),
        source_rms=np.asarray(np.concatenate(levels) * min(gain, 1.0), dtype=np.float32),
        silences=Silences() if finder is None else finder.finish(gain),
        warning=feed.reader.warning,
        notes=feed.reader.notes + clicks,
    )


def _gain(peak: float, adjust_level: bool) -> float:
    if peak > PEAK_LIMIT_IN:
        return PEAK_LIMIT_IN / peak
    if adjust_level and SILENT_PEAK <= peak < QUIET_PEAK:
        return min(QUIET_PEAK / peak, MOST_GAIN)
    return 1.0
