"""From a recording's 16 kHz samples to content and F0 on a timeline, window by window.

Windows are fixed and absolute, so each frame is analysed once and comes out the same wherever segments are cut. What
networks are to compute is yielded as requests, so that several recordings can share passes.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import torch

from menura.content.base import ContentEncoder, RecordingStatistics
from menura.errors import ResourceError
from menura.f0.base import F0Estimator
from menura.f0.contour import fill_unvoiced, median_voiced_hz, semitones_between, transpose
from menura.pipeline.execute import ContentRequest, Executor, F0Request, NetworkRequest
from menura.pipeline.progress import StageClock
from menura.pipeline.recording import reflect
from menura.pipeline.silence import Silences
from menura.pipeline.timeline import FeatureTimeline, Track
from menura.pipeline.windows import Extent, Window, Windowing, streaming_extent
from menura.types import FloatArray
from menura.units import CONTENT_TAIL_SAMPLES, FRAME_SAMPLES, ceil_div

T = TypeVar("T")
Steps = Generator[NetworkRequest, "FloatArray | None", T]
"""Yields requests, is sent their answers, returns T."""

_CLIPS_PASS_FRAMES = 6000

_ENOUGH_VOICED_FRAMES = 3000
"""30 s of voice fix a recording's median to well within a semitone."""

_FARTHEST_FRAMES = 30_000
"""They are looked for in the first five minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PitchShift:
    """Transposition, and RVC WebUI's interpolation through unvoiced frames."""

    semitones: float = 0.0
    fill: bool = False
    target_hz: float | None = None
    """The voice's median, where the shift is to be found from the recording's; None where it is known."""
    given: FloatArray | None = None
    """(frames,) final F0 of the whole timeline where the user gave it, else None."""

    def settled(self, f0_hz: FloatArray) -> PitchShift:
        """The shift settled from F0 of the recording; none if there is no voice in it."""
        median = median_voiced_hz(f0_hz)
        if self.target_hz is None or median is None:
            return replace(self, target_hz=None)
        return replace(self, target_hz=None, semitones=semitones_between(median, self.target_hz))

    def finish(self, f0_hz: FloatArray) -> FloatArray:
        shifted = transpose(f0_hz, self.semitones)
        return fill_unvoiced(shifted) if self.fill else shifted


def given_f0(recording_f0_hz: FloatArray, extent: Extent, shift: PitchShift) -> PitchShift:
    """The shift with F0 given for the recording's own frames, reflected at both ends like its samples.

    Args:
        recording_f0_hz: (frames,) from the recording's start; padded with unvoiced frames or cut to its length.
        extent: the recording's timeline.
        shift: how to finish it.
    """
    frames = ceil_div(extent.length_samples, FRAME_SAMPLES)
    own = np.zeros(frames, dtype=np.float32)
    count = min(frames, len(recording_f0_hz))
    own[:count] = recording_f0_hz[:count]
    right = extent.end_frames - frames
    padded = reflect(own, extent.left_frames, max(0, right))[: extent.left_frames + extent.end_frames]
    shift = shift.settled(own)
    return replace(shift, given=shift.finish(padded))


@dataclass(kw_only=True, eq=False)
class Analysis:
    """Content and F0 of one recording, committed to its timeline as far as they are asked for."""

    blocks: Iterator[FloatArray]
    """16 kHz samples of the whole extent at least, read as far as needed."""
    extent: Extent
    encoder: ContentEncoder
    statistics: RecordingStatistics | None
    """Of the recording, for the encoder; None takes each window's own."""
    f0: F0Estimator | None
    """None where F0 isn't wanted, or given."""
    timeline: FeatureTimeline
    pitch: PitchShift = field(default_factory=PitchShift)
    windowing: Windowing = field(default_factory=Windowing)
    silences: Silences = field(default_factory=Silences)
    """Windows without effect on any sound are skipped."""
    clock: StageClock = field(default_factory=StageClock)

    def __post_init__(self) -> None:
        self._samples = Track(-self.extent.left_samples)
        whole_content = self.windowing.whole and not self.encoder.global_windows
        self._content_windows = self._windows(self.encoder, whole=whole_content)
        self._f0_windows = self._windows(self.f0, whole=self.windowing.whole_f0) if self.f0 else iter(())
        if self.pitch.given is not None:
            self.timeline.commit_f0(self.pitch.given)

    def until(self, end_frames: int) -> Steps[None]:
        """Commit features at least up to a frame."""
        while self.timeline.content_end_frames < end_frames:
            yield from self._content_window(next(self._content_windows))
        while self.timeline.f0_end_frames < end_frames:
            yield from self._f0_window(next(self._f0_windows))

    def find_pitch(self) -> Steps[None]:
        """Settle an automatic shift: F0 ahead of all else until there is enough voice. Nothing is done twice."""
        if self.pitch.target_hz is None:
            return
        estimated: list[tuple[Window, FloatArray]] = []
        voiced = 0
        for window in self._f0_windows:
            f0_hz = yield from self._estimated_f0(window)
            estimated.append((window, f0_hz))
            voiced += int(np.count_nonzero(_core(window, f0_hz)))
            if voiced >= _ENOUGH_VOICED_FRAMES or window.end_frames >= _FARTHEST_FRAMES:
                break
        self.pitch = self.pitch.settled(np.concatenate([_core(*pair) for pair in estimated]))
        for window, f0_hz in estimated:
            self._commit_f0(window, f0_hz)

    def samples(self, start_frames: int, end_frames: int) -> FloatArray:
        """The 16 kHz samples of frames that were analysed and not forgotten."""
        return self._samples.read(start_frames * FRAME_SAMPLES, end_frames * FRAME_SAMPLES)

    def forget(self, before_frames: int) -> None:
        """Drop features and samples before a frame; windows to come keep what they need."""
        self.timeline.forget(before_frames)
        needed = self.timeline.content_end_frames - self.encoder.context_frames
        if self.f0 is not None:
            needed = min(needed, self.timeline.f0_end_frames - self.f0.context_frames)
        self._samples.forget(min(before_frames, needed) * FRAME_SAMPLES)

    def _windows(self, network: ContentEncoder | F0Estimator, *, whole: bool) -> Iterator[Window]:
        return self.windowing.windows(self.extent, network.core_frames, network.context_frames, whole=whole)

    def _content_window(self, window: Window) -> Steps[None]:
        if self._without_effect(window):
            content = np.zeros((_vectors(window), self.encoder.dim), dtype=np.float32)
        else:
            answer = yield ContentRequest(
                encoder=self.encoder,
                samples=self._window_samples(window),
                statistics=self.statistics,
                clock=self.clock,
            )
            assert answer is not None
            first = (window.start_frames - window.from_frames) // 2
            content = answer[first : first + _vectors(window)]
        with self.clock.measure("retrieval"):
            self.timeline.commit_content(content)

    def _f0_window(self, window: Window) -> Steps[None]:
        if self._without_effect(window):
            self.timeline.commit_f0(np.zeros(window.end_frames - window.start_frames, dtype=np.float32))
        else:
            self._commit_f0(window, (yield from self._estimated_f0(window)))

    def _estimated_f0(self, window: Window) -> Steps[FloatArray]:
        assert self.f0 is not None
        f0_hz = yield F0Request(estimator=self.f0, samples=self._window_samples(window), clock=self.clock)
        assert f0_hz is not None
        return f0_hz

    def _commit_f0(self, window: Window, f0_hz: FloatArray) -> None:
        with self.clock.measure("f0"):
            self.timeline.commit_f0(_core(window, self.pitch.finish(f0_hz)))

    def _without_effect(self, window: Window) -> bool:
        """True if no frame that sounds attends to the window. Its samples are read all the same, to be forgotten."""
        reach = self.windowing.margin_frames
        if not self.silences.hides(window.start_frames - reach, window.end_frames + reach):
            return False
        self._read_until(self._end_samples(window))
        return True

    def _window_samples(self, window: Window) -> FloatArray:
        end = self._end_samples(window)
        self._read_until(end)
        return np.ascontiguousarray(self._samples.read(window.from_frames * FRAME_SAMPLES, end))

    def _end_samples(self, window: Window) -> int:
        tail = self.extent.tail_samples if window.to_frames == self.extent.end_frames else CONTENT_TAIL_SAMPLES
        return window.to_frames * FRAME_SAMPLES + tail

    def _read_until(self, end: int) -> None:
        while self._samples.end < end:
            self._samples.append(next(self.blocks))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipAnalysis:
    """Content and F0 of a short recording, from its start to a little past its end."""

    content: FloatArray
    """(vectors, dim) at 50 a second."""
    f0_hz: FloatArray | None
    """(frames,) at 100 a second, 0 where unvoiced; None where it wasn't asked for."""


def analyse_clips(
    clips: Sequence[FloatArray], encoder: ContentEncoder, estimator: F0Estimator | None, device: torch.device
) -> list[ClipAnalysis]:
    """Analyse recordings in memory as conversion would; windows of equal length share passes.

    Args:
        clips: each (samples,) at 16 kHz.
        encoder: the content encoder.
        estimator: for F0, None where it isn't wanted.
        device: the networks'.

    Raises:
        ResourceError: not enough memory for one window.
    """
    analyses = [_clip_analysis(clip, encoder, estimator) for clip in clips]
    executor = Executor(device, most_frames=_CLIPS_PASS_FRAMES)
    running = [analysis.until(analysis.extent.end_frames) for analysis in analyses]
    answers: list[FloatArray | None] = [None] * len(running)
    while running:
        requests, waiting = [], []
        for steps, answer in zip(running, answers, strict=True):
            with suppress(StopIteration):
                requests.append(steps.send(answer))
                waiting.append(steps)
        running, answers = waiting, []
        for answered in executor.execute(requests):
            if isinstance(answered, ResourceError):
                raise answered
            answers.append(answered)
    return [
        ClipAnalysis(
            content=analysis.timeline.content(0, analysis.extent.end_frames),
            f0_hz=analysis.timeline.f0_hz(0, analysis.extent.end_frames) if estimator else None,
        )
        for analysis in analyses
    ]


def _clip_analysis(clip: FloatArray, encoder: ContentEncoder, estimator: F0Estimator | None) -> Analysis:
    extent = streaming_extent(len(clip), encoder.edge_frames)
    samples = reflect(clip, extent.left_samples, extent.right_samples)
    collector = encoder.collector()
    collector.push(samples)
    timeline = FeatureTimeline(start_frames=-extent.left_frames, has_f0=estimator is not None)
    return Analysis(
        blocks=iter([samples]),
        extent=extent,
        encoder=encoder,
        statistics=collector.finish(),
        f0=estimator,
        timeline=timeline,
    )


def _vectors(window: Window) -> int:
    """Content vectors that a window is wanted for."""
    return (window.end_frames - window.start_frames) // 2


def _core(window: Window, f0_hz: FloatArray) -> FloatArray:
    """The frames that a window is wanted for."""
    first = window.start_frames - window.from_frames
    return f0_hz[first : first + window.end_frames - window.start_frames]
