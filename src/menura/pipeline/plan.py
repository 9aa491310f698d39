"""What a recording's first pass found, and how it will be cut: all that its conversion, or a part's, depends on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from menura.audio.encode import codec_rate, least_samples
from menura.content.registry import RecordingStatistics, StatisticsCollector
from menura.errors import DecodeError, ResourceError
from menura.loading.loader import VoiceModels
from menura.loading.request import Request
from menura.pipeline.analysis import Analysis, FeatureTimeline, PitchShift
from menura.pipeline.channels import as_one, signals_of
from menura.pipeline.progress import StageClock
from menura.pipeline.recording import BLOCK_S, AnalysisFeed, Recording, RecordingFacts, first_pass, reflect_edges
from menura.pipeline.windows import Extent, Part, Window, Windowing, decide, extent_for, machine_of
from menura.types import FloatArray
from menura.units import FRAME_RATE_HZ, FRAME_SAMPLES, ceil_div, rescaled_length

_SPARE_SAMPLES = 64
"""Made beyond the end at the voice's rate, so that a resampler's rounding never lacks one."""
_BLOCKS_AHEAD = 8
"""Blocks of 2 s that are read while the networks compute."""
_SHORT_FRAMES = _BLOCKS_AHEAD * BLOCK_S * FRAME_RATE_HZ
"""A recording of so many is in memory as a whole before its turn."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a recording is converted; the same for everybody who knows its facts and what was asked for. Picklable."""

    facts: RecordingFacts
    extent: Extent
    windowing: Windowing
    output_rate: int
    output_samples: int
    voice_samples: int
    """Of the sound at the voice's rate that the output is made of."""
    output_frames: int
    parts: tuple[Part, ...] = ()
    """What it may be divided into: none, or at least two."""
    notes: tuple[str, ...] = ()


class _Keeping:
    """A collector that keeps what it is given, while that is short."""

    def __init__(self, collector: StatisticsCollector, kept: list[FloatArray]) -> None:
        kept.clear()
        self._collector, self._kept, self._left = collector, kept, (_SHORT_FRAMES + 1) * FRAME_SAMPLES

    def push(self, samples: FloatArray) -> None:
        self._collector.push(samples)
        self._left -= len(samples)
        if self._left < 0:
            self._kept.clear()
        else:
            self._kept.append(samples)

    def finish(self) -> RecordingStatistics:
        return self._collector.finish()


def survey(
    recording: Recording,
    request: Request,
    models: VoiceModels,
    *,
    check: Callable[[], None] = lambda: None,
    kept: list[FloatArray] | None = None,
) -> tuple[RecordingFacts, ...]:
    """Read each signal of a recording once; `kept` are a short one's blocks. Raises DecodeError, as `check` does."""
    own, found = request.options.compat == "menura", [] if kept is None else kept
    one = partial(
        first_pass,
        recording,
        (lambda: _Keeping(models.encoder.collector(), found)) if own else None,
        extent_for(request.options, models.encoder.edge_frames),
        split_silence=request.options.split_silence,
        adjust_level=own,
        loudness=request.loudness == "source",
        check=check,
    )
    signals = signals_of(recording, request.options.channels, request.options.clean_input, check)
    return as_one([one(signal=signal) for signal in signals])


def planned(
    name: str,
    request: Request,
    models: VoiceModels,
    facts: RecordingFacts,
    *,
    format: str | None = None,
    windowing: Windowing | None = None,
    divided: bool = False,
) -> Plan:
    """Decide how a recording of that name is cut, and divided if it may be. Raises ResourceError: it can't be."""
    options, config = request.options, models.synthesizer.config
    extent = extent_for(options, models.encoder.edge_frames)(facts.analysis_samples)
    decision = decide(options, extent.frames, config, machine_of(models.synthesizer.device), windowing)
    if (refusal := decision.refusal) is not None:
        raise ResourceError(name, refusal.problem, refusal.advice)
    output_rate, length, notes = _output(facts, options.sample_rate or config.sample_rate, format)
    spare = 0 if output_rate == config.sample_rate else _SPARE_SAMPLES
    voice_samples = ceil_div(length * config.sample_rate, output_rate) + spare
    output_frames = ceil_div(voice_samples, config.frame_samples)
    divided = divided and not decision.windowing.whole
    return Plan(
        facts=facts,
        extent=extent,
        windowing=decision.windowing,
        output_rate=output_rate,
        output_samples=length,
        voice_samples=voice_samples,
        output_frames=output_frames,
        parts=decision.windowing.parts(output_frames, options.part_length) if divided else (),
        notes=notes,
    )


def opened_blocks(
    recording: Recording,
    plan: Plan,
    clock: StageClock,
    check: Callable[[], None],
    ahead_frames: int = 0,
    kept: Sequence[FloatArray] = (),
) -> Generator[FloatArray, None, None]:
    """16 kHz samples of the whole extent. A short recording is read at once, so that nothing waits for it later.

    If what the first pass kept is the same, it isn't read again. The others are read ahead in a thread, and open
    meanwhile.
    """
    depth = _BLOCKS_AHEAD + min(plan.extent.frames, ahead_frames) // (BLOCK_S * FRAME_RATE_HZ)
    blocks = _extended(recording, plan, check)
    if plan.extent.frames <= _SHORT_FRAMES:
        with clock.measure("decode"):
            same = plan.facts.gain == 1.0 and sum(map(len, kept)) == plan.extent.samples
            found = list(kept if same else blocks)
        return _measured(recording, nullcontext(iter(found)), clock)
    return _measured(recording, read_ahead(blocks, depth), clock)


def _extended(recording: Recording, plan: Plan, check: Callable[[], None]) -> Generator[FloatArray, None, None]:
    feed = AnalysisFeed(recording.open(), plan.facts.gain, plan.facts.limit, check, plan.facts.signal)
    yield from reflect_edges(feed.blocks(), plan.extent.left_samples, lambda _: plan.extent.right_samples)


def _measured(
    recording: Recording, opened: AbstractContextManager[Iterator[FloatArray]], clock: StageClock
) -> Generator[FloatArray, None, None]:
    with opened as blocks:
        while True:
            with clock.measure("decode"):
                block = next(blocks, None)
            if block is None:
                break
            yield block
    raise DecodeError(recording.name, "the file changed while it was being read", "Convert it again")


@contextmanager
def read_ahead(items: Generator[T, None, None], depth: int) -> Iterator[Iterator[T]]:
    """Run a generator in a thread of its own, at most `depth` items (or an error) ahead; it is closed at the end."""
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="menura-read-ahead") as thread:

        def taken() -> Iterator[T]:
            waiting = deque(thread.submit(next, items, end) for _ in range(depth))
            while (item := waiting.popleft().result()) is not end:
                waiting.append(thread.submit(next, items, end))
                yield item  # type: ignore[misc]

        try:
            yield taken()
        finally:
            thread.shutdown(cancel_futures=True)
            items.close()


def analysis_of(
    plan: Plan,
    request: Request,
    models: VoiceModels,
    blocks: Iterator[FloatArray],
    clock: StageClock,
    *,
    ahead_frames: int = 0,
    first: Window | None = None,
    known_f0: Callable[[Window], FloatArray] | None = None,
) -> Analysis:
    """The analysis of a planned recording; `blocks`, `first` and `known_f0` are as in Analysis."""
    options, extent = request.options, plan.extent
    pitch = PitchShift(
        autotune=options.autotune,
        key=options.autotune_key,
        scale=options.autotune_scale,
        fill=options.compat == "rvc",
        aim=request.aim,
    )
    if request.transpose != "auto":
        pitch = replace(pitch, aim=None, semitones=request.transpose)
    if request.f0_hz is not None:
        pitch = pitch.with_given(request.f0_hz, extent)
    has_f0, left = models.synthesizer.config.has_f0, extent.left_frames
    return Analysis(
        blocks=blocks,
        extent=extent,
        encoder=models.encoder,
        statistics=plan.facts.statistics,
        f0=models.f0,
        timeline=FeatureTimeline(-left, has_f0, models.index, request.index_rate, options.protect),
        pitch=pitch,
        windowing=plan.windowing,
        silences=plan.facts.silences,
        ahead_frames=ahead_frames,
        clock=clock,
        first=first,
        known_f0=known_f0,
    )


def _output(facts: RecordingFacts, rate: int, format: str | None) -> tuple[int, int, tuple[str, ...]]:
    """Rate and length in samples of the output, as near to what is wanted as the format can have; and notes on that."""
    possible = rate if format is None else codec_rate(format, rate)
    length = rescaled_length(facts.length_samples, facts.sample_rate, possible)
    least = 0 if format is None else least_samples(format)
    notes: tuple[str, ...] = ()
    if possible != rate:
        notes += (f"{format} has no {rate} Hz; written at {possible} Hz.",)
    if length < least:
        notes += (f"{format} can't hold less than one sample; one was written.",)
    return possible, max(length, least), notes
