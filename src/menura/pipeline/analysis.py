"""From a recording's 16 kHz samples to content and F0 on a timeline, in fixed absolute windows: each frame once.

What networks are to compute is yielded as requests, so that several recordings can share passes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import dropwhile, islice
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch

from menura.content.registry import ContentEncoder, RecordingStatistics
from menura.f0.contour import autotuned, coarse_bins, fill_unvoiced, transpose
from menura.f0.registry import F0Estimator
from menura.f0.shift import Aim, settled
from menura.pipeline.execute import Executor, NetworkRequest, WindowRequest
from menura.pipeline.progress import StageClock
from menura.pipeline.recording import Silences, reflect
from menura.pipeline.windows import Extent, Window, Windowing, streaming_extent
from menura.types import Features, FloatArray
from menura.units import CONTENT_TAIL_SAMPLES, FRAME_RATE_HZ, FRAME_SAMPLES, ceil_div

if TYPE_CHECKING:
    from menura.retrieval.faiss_index import FaissIndex
    from menura.retrieval.torch_index import TorchIndex

T = TypeVar("T")
Steps = Generator[tuple[NetworkRequest, ...], "list[FloatArray] | None", T]
"""Yields requests that may be answered together, is sent their answers, returns T."""

_CLIPS_PASS_FRAMES = 6000
_ENOUGH_VOICED_FRAMES, PITCH_FRAMES = 3000, 30_000
"""30 s of voice fix a recording's median to well within a semitone; they are looked for in the first five minutes."""


class Track:
    """A growing array over an absolute axis; only [start, end) is held."""

    def __init__(self, start: int) -> None:
        self.start = self.end = start
        self._parts: list[npt.NDArray[Any]] = []

    def append(self, values: npt.NDArray[Any]) -> None:
        if len(values):
            self._parts.append(values)
            self.end += len(values)

    def read(self, start: int, end: int) -> npt.NDArray[Any]:
        """Values at [start, end), which must be held."""
        if not self.start <= start <= end <= self.end:
            raise IndexError(f"[{start}, {end}) is not within [{self.start}, {self.end})")
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts)]
        if not self._parts:
            return np.zeros(0, dtype=np.float32)
        return self._parts[0][start - self.start : end - self.start]

    def forget(self, before: int) -> None:
        before = min(before, self.end)
        if before > self.start:
            rest = self.read(before, self.end)
            self._parts = [rest.copy()] if len(rest) else []
            self.start = before


class FeatureTimeline:
    """Content at 50 vectors a second, F0 at 100 frames a second, from an even frame on."""

    def __init__(
        self,
        start: int,
        has_f0: bool,
        index: FaissIndex | TorchIndex | None = None,
        index_rate: float = 0,
        protect: float = 1,
    ) -> None:
        blends = index is not None and index_rate > 0
        self.retrieval = index.on_device(index_rate) if index is not None and blends else None
        """What is to be done with content before it's committed, where a device does that."""
        self._index = cast("FaissIndex | None", index if blends and self.retrieval is None else None)
        self._index_rate, self._protect, self._has_f0 = index_rate, protect, has_f0
        self.begin_content(start)
        self._f0, self._phase, self._phase_end = Track(start), Track(start), 0.0
        self._keep_plain = has_f0 and blends and protect < 0.5  # content before retrieval

    def begin_content(self, start: int) -> None:
        """Have content from an even frame on; F0, whose phase is a sum, always begins at the start."""
        self._content, self._plain = Track(start // 2), Track(start // 2)

    @property
    def content_end_frames(self) -> int:
        return 2 * self._content.end

    @property
    def f0_end_frames(self) -> int:
        """F0 is committed up to here (everywhere for a voice without F0)."""
        return self._f0.end if self._has_f0 else self.content_end_frames

    def commit_content(self, content: FloatArray) -> None:
        """Append (vectors, dim) content, retrieving its neighbours where there is an index.

        After a device's `retrieval` it's (vectors, 2 dim), see there.
        """
        plain = content
        if self.retrieval is not None:
            content, plain = np.split(content, 2, axis=1)
        elif self._index is not None:
            found = self._index.retrieve(content)
            content = found * np.float32(self._index_rate) + content * np.float32(1 - self._index_rate)
        if self._keep_plain:
            self._plain.append(plain)
        self._content.append(content)

    def commit_f0(self, f0_hz: FloatArray) -> None:
        """Append (frames,) final F0 (transposed, 0 where unvoiced); the phase is its prefix sum in float64."""
        self._f0.append(f0_hz)
        after = self._phase_end + np.cumsum(f0_hz.astype(np.float64) / FRAME_RATE_HZ)
        self._phase.append(np.concatenate([[self._phase_end], after[:-1]]) % 1.0)
        if len(after):
            self._phase_end = float(after[-1] % 1.0)

    def read(self, start: int, end: int) -> Features:
        place = start // 2, ceil_div(end, 2)
        f0_hz = self._f0.read(start, end).copy() if self._has_f0 else None
        plain = share = None
        if f0_hz is not None and self._keep_plain:  # unvoiced frames keep 1 - protect of the content before retrieval
            plain, share = self._plain.read(*place), np.where(f0_hz < 1, self._protect, 1.0).astype(np.float32)
        return Features(
            start_frames=start,
            frames=end - start,
            content=self._content.read(*place),
            plain=plain,
            share=share,
            f0_hz=f0_hz,
            f0_coarse=None if f0_hz is None else coarse_bins(f0_hz),
            phase_cycles=float(self._phase.read(start, start + 1)[0]) if self._has_f0 else 0.0,
        )

    def content(self, start: int, end: int) -> FloatArray:
        """(vectors, dim) content of frames [start, end), both even."""
        return self._content.read(start // 2, end // 2)

    def f0_hz(self, start: int, end: int) -> FloatArray:
        return self._f0.read(start, end)

    def forget(self, before: int) -> None:
        for track in (self._content, self._plain):
            track.forget(before // 2)
        for track in (self._f0, self._phase):
            track.forget(before)


@dataclass(frozen=True, slots=True, kw_only=True)
class PitchShift:
    """Transposition, autotune, and RVC WebUI's interpolation through unvoiced frames."""

    semitones: float = 0.0
    autotune: float = 0.0
    """Its strength; 0 is none."""
    key: str = "C"
    scale: str = "chromatic"
    fill: bool = False
    aim: Aim | None = None
    """Where the shift is to be found from the recording; None where it is known."""
    notes: tuple[str, ...] = ()
    """What should be known of how it was found."""
    given: FloatArray | None = None
    """(frames,) final F0 of the whole timeline where the user gave it, else None."""

    def settled(self, f0_hz: FloatArray) -> PitchShift:
        """The shift settled from F0 of the recording."""
        if self.aim is None:
            return self
        shift = settled(f0_hz, self.aim)
        return replace(self, aim=None, semitones=shift.semitones, notes=shift.notes)

    def finish(self, f0_hz: FloatArray) -> FloatArray:
        shifted = transpose(f0_hz, self.semitones)
        if self.autotune:
            shifted = autotuned(shifted, self.autotune, self.key, self.scale)
        return fill_unvoiced(shifted) if self.fill else shifted

    def with_given(self, f0_hz: FloatArray, extent: Extent) -> PitchShift:
        """The shift with a recording's own F0, padded or cut to its length and reflected like its samples."""
        frames = extent.own_frames
        own = np.zeros(frames, dtype=np.float32)
        own[: len(f0_hz)] = f0_hz[:frames]
        padded = reflect(own, extent.left_frames, max(0, extent.end_frames - frames))[: extent.frames]
        shift = self.settled(own)
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
    ahead_frames: int = 0
    """So much of the timeline is asked for together; 0: one window or segment at a time."""
    clock: StageClock = field(default_factory=StageClock)
    first: Window | None = None
    """Content is wanted from this window of the encoder's on, and `blocks` begin with it; by default from the start."""
    known_f0: Callable[[Window], FloatArray] | None = None
    """F0 of each window, where it was estimated before."""

    def __post_init__(self) -> None:
        whole_content = self.windowing.whole and not self.encoder.global_windows
        first = self.first or next(self._windows(self.encoder, whole=whole_content))
        windows = self._windows(self.encoder, whole=whole_content)
        self._content_windows = dropwhile(lambda window: window.end_frames <= first.start_frames, windows)
        self._samples = self._f0_samples = Track(first.from_frames * FRAME_SAMPLES)
        self._f0_blocks = self.blocks
        self.timeline.begin_content(first.start_frames)
        self._f0_windows = self._windows(self.f0, whole=self.windowing.whole_f0) if self.f0 else iter(())
        if self.pitch.given is not None:
            self.timeline.commit_f0(self.pitch.given)

    def estimate_of(self, blocks: Iterator[FloatArray]) -> None:
        """Have F0 of another signal, given as `blocks` are; before anything is asked for."""
        self._f0_samples, self._f0_blocks = Track(self._samples.start), blocks

    def until(self, end_frames: int) -> Steps[None]:
        """Commit features at least up to a frame."""
        timeline = self.timeline
        while min(timeline.content_end_frames, timeline.f0_end_frames) < end_frames:
            content = self._due(self._content_windows, timeline.content_end_frames, end_frames)
            f0: list[Window] = []
            if self.f0 is not None and (self.ahead_frames or not content):
                f0 = self._due(self._f0_windows, timeline.f0_end_frames, end_frames)
            yield from self._analysed(content, f0)

    def find_pitch(self) -> Steps[None]:
        """Settle an automatic shift: F0 ahead of all else until there is enough voice. Nothing is done twice."""
        if self.pitch.aim is None or self.f0 is None:
            return
        estimated: list[tuple[Window, FloatArray]] = []
        together = max(1, self.ahead_frames // self.f0.core_frames)
        heard: list[FloatArray] = []
        while not heard and (windows := list(islice(self._f0_windows, together))):
            self._hold([], windows)
            estimated += zip(windows, (yield from self._answers([], windows)), strict=True)
            heard = _enough(estimated)
        curve = np.concatenate(heard or [core_of(*pair) for pair in estimated])
        self.pitch = self.pitch.settled(curve[self.extent.left_frames :][: self.extent.own_frames])
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
        for track in {self._samples, self._f0_samples}:
            track.forget(min(before_frames, needed) * FRAME_SAMPLES)

    def _windows(self, network: ContentEncoder | F0Estimator, *, whole: bool) -> Iterator[Window]:
        return self.windowing.windows(self.extent, network.core_frames, network.context_frames, whole=whole)

    def _due(self, windows: Iterator[Window], at_frames: int, end_frames: int) -> list[Window]:
        """The next windows, from a frame that was reached up to another; without looking ahead the next one."""
        due: list[Window] = []
        while at_frames < end_frames and (self.ahead_frames or not due):
            due.append(next(windows))
            at_frames = due[-1].end_frames
        return due

    def _analysed(self, content: list[Window], f0: list[Window]) -> Steps[None]:
        """Commit windows; those without effect on any sound are read, but not computed."""
        self._hold(content, f0)
        asked = yield from self._answers(list(filter(self._sounds, content)), list(filter(self._sounds, f0)))
        answers = iter(asked)
        vectors = [self._vectors(window, next(answers) if self._sounds(window) else None) for window in content]
        for part in vectors:
            with self.clock.measure("retrieval"):
                self.timeline.commit_content(part)
        for window in f0:
            if self._sounds(window):
                self._commit_f0(window, next(answers))
            else:
                self.timeline.commit_f0(np.zeros(window.end_frames - window.start_frames, dtype=np.float32))

    def _answers(self, content: list[Window], f0: list[Window]) -> Steps[list[FloatArray]]:
        """Of the encoder and the F0 network, together."""
        ask = partial(WindowRequest, clock=self.clock)
        encode = partial(ask, stage="content", network=self.encoder, retrieval=self.timeline.retrieval)
        asked = [encode(samples=self._read(window, self._samples), statistics=self.statistics) for window in content]
        if self.f0 is not None and self.known_f0 is None:
            asked += [ask(stage="f0", network=self.f0, samples=self._read(window, self._f0_samples)) for window in f0]
        answers = (yield tuple(asked)) if asked else []
        assert answers is not None
        return answers if self.known_f0 is None else [*answers, *map(self.known_f0, f0)]

    def _vectors(self, window: Window, answer: FloatArray | None) -> FloatArray:
        """Content that a window is wanted for; zeros where it wasn't computed."""
        first, count = (window.start_frames - window.from_frames) // 2, (window.end_frames - window.start_frames) // 2
        width = self.encoder.dim if self.timeline.retrieval is None else 2 * self.encoder.dim
        return np.zeros((count, width), np.float32) if answer is None else answer[first : first + count]

    def _commit_f0(self, window: Window, f0_hz: FloatArray) -> None:
        with self.clock.measure("f0"):
            self.timeline.commit_f0(core_of(window, self.pitch.finish(f0_hz)))

    def _sounds(self, window: Window) -> bool:
        return sounds(window, self.windowing, self.silences)

    def _hold(self, content: list[Window], f0: list[Window]) -> None:
        """Read as far as windows look."""
        f0 = [] if self.known_f0 is not None else f0
        for track, blocks in ((self._samples, self.blocks), (self._f0_samples, self._f0_blocks)):
            windows = content * (track is self._samples) + f0 * (track is self._f0_samples)
            while windows and track.end < max(window_samples(window, self.extent)[1] for window in windows):
                track.append(next(blocks))

    def _read(self, window: Window, track: Track) -> FloatArray:
        return np.ascontiguousarray(track.read(*window_samples(window, self.extent)))


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
    """Analyse (samples,) at 16 kHz as conversion would; equally long windows share passes. Raises ResourceError."""
    analyses = [_clip_analysis(clip, encoder, estimator) for clip in clips]
    executor = Executor(device, most_frames=_CLIPS_PASS_FRAMES)
    running = [analysis.until(analysis.extent.end_frames) for analysis in analyses]
    answers: list[list[FloatArray] | None] = [None] * len(running)
    while running:
        requests: list[NetworkRequest] = []
        waiting = []
        for steps, answer in zip(running, answers, strict=True):
            with suppress(StopIteration):
                requests.extend(steps.send(answer))  # one at a time
                waiting.append(steps)
        running, answers = waiting, [[answer] for answer in executor.execute(requests)]
    return [
        ClipAnalysis(content=timeline.content(0, end), f0_hz=timeline.f0_hz(0, end) if estimator else None)
        for timeline, end in ((analysis.timeline, analysis.extent.end_frames) for analysis in analyses)
    ]


def _clip_analysis(clip: FloatArray, encoder: ContentEncoder, estimator: F0Estimator | None) -> Analysis:
    extent = streaming_extent(len(clip), encoder.edge_frames)
    samples = reflect(clip, extent.left_samples, extent.right_samples)
    collector = encoder.collector()
    collector.push(samples)
    return Analysis(
        blocks=iter([samples]),
        extent=extent,
        encoder=encoder,
        statistics=collector.finish(),
        f0=estimator,
        timeline=FeatureTimeline(-extent.left_frames, has_f0=estimator is not None),
    )


def sounds(window: Window, windowing: Windowing, silences: Silences) -> bool:
    """False if no frame that sounds attends to a window."""
    reach = windowing.margin_frames
    return not silences.hides(window.start_frames - reach, window.end_frames + reach)


def window_samples(window: Window, extent: Extent) -> tuple[int, int]:
    """The 16 kHz samples [start, end) that a network is given of a window."""
    tail = extent.tail_samples if window.to_frames == extent.end_frames else CONTENT_TAIL_SAMPLES
    return window.from_frames * FRAME_SAMPLES, window.to_frames * FRAME_SAMPLES + tail


def core_of(window: Window, f0_hz: FloatArray) -> FloatArray:
    """The frames that a window is wanted for."""
    first = window.start_frames - window.from_frames
    return f0_hz[first : first + window.end_frames - window.start_frames]


def estimated_f0(
    network: F0Estimator,
    windows: Sequence[Window],
    wanted: Sequence[Window],
    extent: Extent,
    read: Callable[[int, int], FloatArray],
    clock: StageClock,
) -> Steps[FloatArray]:
    """F0 of the cores of neighbouring windows, untransposed; 0 in those that aren't wanted.

    `read` gives the 16 kHz samples [start, end).
    """
    ask = partial(WindowRequest, stage="f0", network=network, clock=clock)
    requests = [ask(samples=np.ascontiguousarray(read(*window_samples(window, extent)))) for window in wanted]
    answers = (yield tuple(requests)) if requests else []
    assert answers is not None
    found = dict(zip(wanted, map(core_of, wanted, answers), strict=True))
    return np.concatenate([found.get(w, np.zeros(w.end_frames - w.start_frames, np.float32)) for w in windows])


def known_f0(curve: FloatArray, left_frames: int) -> Callable[[Window], FloatArray]:
    """F0 of each window, from that of a whole timeline which begins so many frames before the recording."""

    def estimated(window: Window) -> FloatArray:
        core = curve[window.start_frames + left_frames : window.end_frames + left_frames]
        context = window.start_frames - window.from_frames, window.to_frames - window.end_frames
        return np.pad(core, context)  # what is around the core isn't looked at

    return estimated


def _enough(estimated: list[tuple[Window, FloatArray]]) -> list[FloatArray]:
    """F0 of as many of the first windows as settle a recording's median; none if more must be heard."""
    cores: list[FloatArray] = []
    voiced = 0
    for window, f0_hz in estimated:
        cores.append(core_of(window, f0_hz))
        voiced += int(np.count_nonzero(cores[-1]))
        if voiced >= _ENOUGH_VOICED_FRAMES or window.end_frames >= PITCH_FRAMES:
            return cores
    return []
