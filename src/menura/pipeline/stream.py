"""One recording's way through the engine, as a coroutine: it yields requests to the networks and finished sound.

Content and F0 are read once, in fixed absolute windows, onto a timeline; the synthesizer's segments read from there
with context. So both sides of a seam, and every strategy, see the same content, F0, phase and noise.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from menura.errors import DecodeError
from menura.pipeline.background import read_ahead
from menura.pipeline.clock import StageClock
from menura.pipeline.edges import reflect_edges
from menura.pipeline.pitch import ENOUGH_VOICED_FRAMES, FARTHEST_FRAMES
from menura.pipeline.recording import AnalysisFeed, Recording
from menura.pipeline.requests import ContentRequest, F0Request, Request, SynthesisRequest
from menura.pipeline.seams import Assembler, seam_frame
from menura.pipeline.timeline import FeatureTimeline, Track
from menura.pipeline.windows import (
    CROSSFADE_FRAMES,
    SEAM_SEARCH_FRAMES,
    SEAM_SHIFT_FRAMES,
    SEGMENT_CONTEXT_FRAMES,
    Extent,
    Window,
    analysis_windows,
    seconds,
    segment_borders,
    whole_window,
)
from menura.types import AudioBlock
from menura.units import CONTENT_TAIL_SAMPLES, FRAME_SAMPLES, ceil_div

if TYPE_CHECKING:
    from menura.content.base import ContentEncoder
    from menura.f0.base import F0Estimator
    from menura.loading.loader import VoiceModels
    from menura.pipeline.first_pass import RecordingFacts
    from menura.pipeline.pitch import F0Policy
    from menura.types import FloatArray

_BLOCKS_AHEAD = 8
"""Blocks of 2 s that are read while the networks compute."""

Step = Request | AudioBlock
StreamSteps = Generator[Step, "FloatArray | None", None]


_LONGEST_CONTEXT = 300
"""Frames; no analysis network looks further back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPlan:
    """How this request is carried out."""

    extent: Extent
    output_samples: int
    """Wanted at the voice's rate."""
    whole_synthesis: bool
    whole_content: bool
    whole_f0: bool
    reach_frames: int | None
    """How far the text encoder's attention reaches; None for the whole window."""
    index_rate: float
    protect: float
    speaker_id: int
    seed: int
    noise_scale: float


class Stream:
    """A recording being converted."""

    def __init__(
        self,
        *,
        stream_id: int,
        recording: Recording,
        facts: RecordingFacts,
        models: VoiceModels,
        plan: StreamPlan,
        f0_policy: F0Policy,
        clock: StageClock,
    ) -> None:
        self.stream_id = stream_id
        self.seams_s: list[float] = []
        self.abandoned = False
        self._recording, self._facts, self._models, self._plan = recording, facts, models, plan
        self._f0_policy, self._clock = f0_policy, clock
        extent = plan.extent
        self._samples = Track(-extent.left_samples)
        self._features = FeatureTimeline(
            stream_id=stream_id,
            start_frames=-extent.left_frames,
            has_f0=models.synthesizer.config.has_f0,
            index=models.index,
            index_rate=plan.index_rate,
            protect=plan.protect,
        )
        self._content_windows = self._windows(models.encoder, whole=plan.whole_content)
        self._f0_windows = self._windows(models.f0, whole=plan.whole_f0) if models.f0 else iter(())

    def abandon(self) -> None:
        """Say that nobody wants the rest: the engine ends the stream at its next step."""
        self.abandoned = True

    def steps(self) -> StreamSteps:
        """Yield requests (send back their answers) and AudioBlocks at the voice's rate, `output_samples` together."""
        extent = self._plan.extent
        with self._recording.open() as reader:
            feed = AnalysisFeed(reader, self._facts.gain, self._facts.limit).blocks()
            extended = reflect_edges(feed, extent.left_samples, lambda _: extent.right_samples)
            with read_ahead(extended, _BLOCKS_AHEAD) as blocks:
                self._blocks = self._clock.pulled("decode", blocks)
                yield from self._converted()

    def _converted(self) -> StreamSteps:
        if self._f0_policy.given is not None:
            self._features.commit_f0(self._f0_policy.given)
        elif self._f0_policy.target_hz is not None:
            yield from self._find_pitch()
        yield from self._segments()

    @property
    def semitones(self) -> float | None:
        """By how much pitch is moved, once it is known; None for a voice without F0."""
        return self._f0_policy.semitones if self._models.synthesizer.config.has_f0 else None

    def _find_pitch(self) -> StreamSteps:
        """Settle an automatic shift: F0 ahead of all else, until enough voice was heard; nothing is done twice."""
        heard: list[tuple[Window, FloatArray]] = []
        voiced = 0
        for window in self._f0_windows:
            f0_hz = yield from self._estimated_f0(window)
            heard.append((window, f0_hz))
            voiced += int(np.count_nonzero(_core(window, f0_hz)))
            if voiced >= ENOUGH_VOICED_FRAMES or window.end_frames >= FARTHEST_FRAMES:
                break
        self._f0_policy = self._f0_policy.settled(np.concatenate([_core(*pair) for pair in heard]))
        for window, f0_hz in heard:
            self._commit_f0(window, f0_hz)

    def _segments(self) -> StreamSteps:
        rate = self._models.synthesizer.config.sample_rate
        hop = self._models.synthesizer.config.frame_samples
        output_frames = ceil_div(self._plan.output_samples, hop)
        assembler, half = Assembler(CROSSFADE_FRAMES * hop, rate), CROSSFADE_FRAMES // 2 + SEAM_SHIFT_FRAMES
        done_samples, seam = 0, 0
        for start, end in segment_borders(output_frames, whole=self._plan.whole_synthesis):
            last = end >= output_frames
            context = self._context(start, end)
            yield from self._analyse_until(context[1])
            stop = output_frames if last else self._cut(end)
            core = (seam - half if seam else 0, stop if last else stop + half)
            samples = yield from self._sound(context, core)
            with self._clock.measure("assemble"):
                joined = assembler.push(samples, 0 if last else 2 * half * hop)
                joined = joined[: self._plan.output_samples - done_samples]
            if seam:
                self.seams_s.append(seconds(seam) + assembler.shift_samples / rate)
            yield AudioBlock(stream_id=self.stream_id, start_samples=done_samples, samples=joined, sample_rate=rate)
            done_samples += len(joined)
            if not last:
                self._forget(stop)
            seam = stop

    def _sound(self, context: tuple[int, int], core: tuple[int, int]) -> Generator[Step, FloatArray | None, FloatArray]:
        """Sound of a segment's core; its silences are left out, if that was asked for."""
        hop, silences = self._models.synthesizer.config.frame_samples, self._facts.silences
        sounding = silences.sounding(*core)
        if not sounding:
            return np.zeros((core[1] - core[0]) * hop, dtype=np.float32)
        samples = yield self._synthesis_request(context, core, sounding)
        assert samples is not None
        gate = silences.gate(*core, hop)
        return samples if gate is None else samples * gate

    def _context(self, start: int, end: int) -> tuple[int, int]:
        """Frames a segment's text encoder sees: on the grid, so that segments are equally long."""
        extent = self._plan.extent
        if self._plan.whole_synthesis:
            return -extent.left_frames, extent.end_frames
        reach = SEAM_SEARCH_FRAMES + SEGMENT_CONTEXT_FRAMES
        return max(-extent.left_frames, start - reach), min(extent.end_frames, end + reach)

    def _cut(self, border: int) -> int:
        with self._clock.measure("assemble"):
            start, end = border - SEAM_SEARCH_FRAMES, border + SEAM_SEARCH_FRAMES
            samples = self._samples.read(start * FRAME_SAMPLES, end * FRAME_SAMPLES)
            return seam_frame(samples, start)

    def _forget(self, seam: int) -> None:
        before = seam - 2 * SEAM_SEARCH_FRAMES - SEGMENT_CONTEXT_FRAMES - CROSSFADE_FRAMES - SEAM_SHIFT_FRAMES
        self._features.forget(before)

    def _synthesis_request(
        self, context: tuple[int, int], core: tuple[int, int], sounding: tuple[tuple[int, int], ...]
    ) -> SynthesisRequest:
        plan = self._plan
        return SynthesisRequest(
            synthesizer=self._models.synthesizer,
            features=self._features.read(*context),
            core_start_frames=core[0],
            core_end_frames=core[1],
            speaker_id=plan.speaker_id,
            seed=plan.seed,
            noise_scale=plan.noise_scale,
            sounding=sounding,
            reach_frames=plan.reach_frames,
            clock=self._clock,
        )

    def _windows(self, network: ContentEncoder | F0Estimator, *, whole: bool) -> Iterator[Window]:
        if whole:
            return whole_window(self._plan.extent)
        return analysis_windows(self._plan.extent, network.core_frames, network.context_frames)

    def _analyse_until(self, end: int) -> StreamSteps:
        features = self._features
        while features.content_end_frames < end:
            window = next(self._content_windows)
            if self._unheard(window):
                features.commit_content(np.zeros((_vectors(window), self._models.encoder.dim), dtype=np.float32))
            else:
                yield from self._content_window(window)
        while features.f0_end_frames < end:
            window = next(self._f0_windows)
            if self._unheard(window):
                features.commit_f0(np.zeros(window.end_frames - window.start_frames, dtype=np.float32))
            else:
                self._commit_f0(window, (yield from self._estimated_f0(window)))
        # A seam is looked for a context before what is analysed; analysis windows reach less far back.
        self._samples.forget((end - 2 * SEAM_SEARCH_FRAMES - SEGMENT_CONTEXT_FRAMES - _LONGEST_CONTEXT) * FRAME_SAMPLES)

    def _unheard(self, window: Window) -> bool:
        """True if no frame that is heard attends to the window. Its samples are read all the same, to be forgotten."""
        reach = SEAM_SEARCH_FRAMES + SEGMENT_CONTEXT_FRAMES
        if not self._facts.silences.hides(window.start_frames - reach, window.end_frames + reach):
            return False
        self._read_until(self._end_samples(window))
        return True

    def _content_window(self, window: Window) -> StreamSteps:
        content = yield ContentRequest(
            encoder=self._models.encoder,
            samples=self._window_samples(window),
            statistics=self._facts.statistics,
            clock=self._clock,
        )
        assert content is not None
        first = (window.start_frames - window.from_frames) // 2
        with self._clock.measure("retrieval"):
            self._features.commit_content(content[first : first + _vectors(window)])

    def _estimated_f0(self, window: Window) -> Generator[Step, FloatArray | None, FloatArray]:
        assert self._models.f0 is not None
        f0_hz = yield F0Request(estimator=self._models.f0, samples=self._window_samples(window), clock=self._clock)
        assert f0_hz is not None
        return f0_hz

    def _commit_f0(self, window: Window, f0_hz: FloatArray) -> None:
        with self._clock.measure("f0"):
            self._features.commit_f0(_core(window, self._f0_policy.finish(f0_hz)))

    def _window_samples(self, window: Window) -> FloatArray:
        end = self._end_samples(window)
        self._read_until(end)
        return np.ascontiguousarray(self._samples.read(window.from_frames * FRAME_SAMPLES, end))

    def _end_samples(self, window: Window) -> int:
        extent = self._plan.extent
        tail = extent.tail_samples if window.to_frames == extent.end_frames else CONTENT_TAIL_SAMPLES
        return window.to_frames * FRAME_SAMPLES + tail

    def _read_until(self, end: int) -> None:
        while self._samples.end < end:
            block = next(self._blocks, None)
            if block is None:
                raise DecodeError(f"{self._recording.name}: changed while it was read. Convert it again.")
            self._samples.append(block)


def _vectors(window: Window) -> int:
    """Content vectors that a window is wanted for."""
    return (window.end_frames - window.start_frames) // 2


def _core(window: Window, f0_hz: FloatArray) -> FloatArray:
    """The frames that a window is wanted for."""
    first = window.start_frames - window.from_frames
    return f0_hz[first : first + window.end_frames - window.start_frames]
