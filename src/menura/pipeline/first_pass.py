"""The first, cheap pass over a recording: its exact length, its peak, and what the content encoder must know of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from menura.audio.envelope import RmsMeter
from menura.errors import DecodeError
from menura.pipeline.edges import reflect_edges
from menura.pipeline.recording import AnalysisFeed, Recording, analysis_length
from menura.pipeline.silence import SilenceFinder, Silences
from menura.pipeline.windows import Extent
from menura.units import ANALYSIS_RATE_HZ

if TYPE_CHECKING:
    from menura.content.base import RecordingStatistics, Survey
    from menura.types import FloatArray

PEAK_LIMIT_IN = 0.95
"""Louder input is scaled down to this, as RVC does."""

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
    """1, or what brings the peak down to PEAK_LIMIT_IN."""
    silent: bool
    statistics: RecordingStatistics | None
    source_rms: FloatArray
    """(frames,) RMS of 1 s every half second, for the loudness envelope."""
    silences: Silences
    """What need not be computed; nothing unless it was asked for."""
    warning: str | None

    @property
    def audio_s(self) -> float:
        """Duration."""
        return self.length_samples / self.sample_rate


def survey(
    recording: Recording,
    content_survey: Survey | None,
    extent_of: Callable[[int], Extent],
    *,
    split_silence: bool = False,
) -> RecordingFacts:
    """Read a recording once.

    Args:
        recording: what to read.
        content_survey: the encoder's collector, None where it takes each window's own statistics (compatible modes).
        extent_of: the mode's timeline for a length.
        split_silence: look for silence.

    Raises:
        DecodeError: it can't be read, or holds no samples.
    """
    meter, levels = RmsMeter(ANALYSIS_RATE_HZ), []
    finder = SilenceFinder() if split_silence else None
    with recording.open() as reader:
        feed = AnalysisFeed(reader)

        def listened() -> Iterator[FloatArray]:
            for block in feed.blocks():
                levels.append(meter.push(block))
                if finder is not None:
                    finder.push(block)
                yield block

        extended = reflect_edges(listened(), extent_of(0).left_samples, lambda n: extent_of(n).right_samples)
        for block in extended:
            if content_survey is not None:
                content_survey.push(block)
        rate, warning = reader.info.sample_rate, reader.warning
    if not feed.length_samples:
        raise DecodeError(f"{recording.name}: holds no samples. Check that the recording is not empty.")
    levels.append(meter.flush())
    gain = min(1.0, PEAK_LIMIT_IN / feed.peak) if feed.peak else 1.0
    return RecordingFacts(
        length_samples=feed.length_samples,
        sample_rate=rate,
        analysis_samples=analysis_length(feed.length_samples, rate),
        gain=gain,
        silent=feed.peak < SILENT_PEAK,
        statistics=None if content_survey is None else content_survey.finish().scaled(gain),
        source_rms=np.asarray(np.concatenate(levels) * gain, dtype=np.float32),
        silences=Silences() if finder is None else finder.finish(gain),
        warning=warning,
    )
