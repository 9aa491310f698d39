"""One recording's way through the engine: read once, planned, then carried to its final samples step by step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TypeAlias, TypeVar, Union

from menura.audio.encode import codec_rate, least_samples
from menura.audio.envelope import EnvelopeMatcher
from menura.audio.processor import Chain, ExactLength, Processor, StreamResampler
from menura.errors import DecodeError, ResourceError
from menura.f0.contour import length_notes
from menura.loading.loader import VoiceModels
from menura.loading.request import Request
from menura.pipeline.analysis import Analysis, FeatureTimeline, PitchShift
from menura.pipeline.execute import NetworkRequest
from menura.pipeline.progress import StageClock
from menura.pipeline.recording import BLOCK_S, AnalysisFeed, Recording, RecordingFacts, first_pass, reflect_edges
from menura.pipeline.synthesis import Synthesis
from menura.pipeline.windows import Machine, Windowing, decide, extent_for, machine_of
from menura.types import Explanation, FloatArray
from menura.units import ANALYSIS_RATE_HZ, FRAME_RATE_HZ, FRAME_SAMPLES, ceil_div, rescaled_length

_SPARE_SAMPLES = 64
"""Made beyond the end at the voice's rate, so that a resampler's rounding never lacks one."""
_BLOCKS_AHEAD = 8
"""Blocks of 2 s that are read while the networks compute."""

T = TypeVar("T")
Step: TypeAlias = Union[tuple[NetworkRequest, ...], "FloatArray"]
"""What a conversion needs of the networks before it goes on, or samples that are final."""


class Conversion:
    """A recording being converted; the constructor reads it once and plans the rest.

    A codec of `format` may not have every rate; None stands for samples in memory. `check` is called from time to time
    while reading. Of `ahead_frames` networks are asked for together; 0: of a window or segment at a time. Raises
    DecodeError or ResourceError, and what `check` does.
    """

    def __init__(
        self,
        recording: Recording,
        request: Request,
        models: VoiceModels,
        *,
        format: str | None = None,
        check: Callable[[], None] = lambda: None,
        windowing: Windowing | None = None,
        ahead_frames: int = 0,
    ) -> None:
        self.recording, self.request, self.clock = recording, request, StageClock()
        options, config = request.options, models.synthesizer.config
        extent_of = extent_for(options, models.encoder.edge_frames)
        own = options.compat == "menura"
        with self.clock.measure("decode"):
            self.facts = facts = first_pass(
                recording,
                models.encoder.collector if own else None,
                extent_of,
                split_silence=options.split_silence,
                adjust_level=own,
                check=check,
            )
        self._extent = extent = extent_of(facts.analysis_samples)
        decision = decide(options, extent.frames, config, machine_of(models.synthesizer.device), windowing)
        if (refusal := decision.refusal) is not None:
            raise ResourceError(recording.name, refusal.problem, refusal.advice)
        self.widest_frames = max(decision.windowing.widest_frames(extent.frames), min(extent.frames, ahead_frames))
        """Most frames that a network is asked for at once: of the widest window, or of those that go together."""
        self._ahead_frames = ahead_frames
        self.output_rate, length, output_notes = _output(facts, options.sample_rate or config.sample_rate, format)
        self._notes = request.notes + facts.notes + output_notes + (("The recording is silent.",) * facts.silent)
        if request.f0_hz is not None:
            self._notes += length_notes(len(request.f0_hz), facts.audio_s)
        spare = 0 if self.output_rate == config.sample_rate else _SPARE_SAMPLES
        voice_length = ceil_div(length * config.sample_rate, self.output_rate) + spare
        self._output_frames = ceil_div(voice_length, config.frame_samples)
        self._blocks = self._opened_blocks(check)
        self._analysis = self._planned_analysis(models, decision.windowing)
        self._synthesis = Synthesis(models.synthesizer, self._analysis, options)
        processors: list[Processor] = [ExactLength(voice_length)]
        if options.rms_mix_rate != 1.0:
            matcher = EnvelopeMatcher(facts.source_rms, voice_length, config.sample_rate, options.rms_mix_rate)
            processors.append(matcher)
        resampler = StreamResampler(config.sample_rate, self.output_rate)
        self._chain = Chain(*processors, resampler, ExactLength(length))

    @property
    def semitones(self) -> float | None:
        """By how much pitch is moved, once it is known; None for a voice without F0."""
        return self._analysis.pitch.semitones if self.request.config.has_f0 else None

    @property
    def seams_s(self) -> tuple[float, ...]:
        """Where segments were joined so far."""
        return tuple(self._synthesis.seams_s)

    def steps(self) -> Generator[Step, list[FloatArray] | None, None]:
        """Yields requests (send back their answers), and samples at the output's rate, exactly as many as there are."""
        with closing(self._blocks):
            yield from self._analysis.find_pitch()
            for segments in self._synthesis.segments(self._output_frames):
                for sound in (yield from segments):
                    with self.clock.measure("assemble"):
                        samples = self._chain.push(sound)
                    if len(samples):
                        yield samples
            with self.clock.measure("assemble"):
                samples = self._chain.flush()
            if len(samples):
                yield samples

    def notes(self) -> tuple[str, ...]:
        """What the user should know; complete when the conversion is over."""
        notes, semitones, skipped = self._notes, self.semitones, self.facts.silences.skipped_frames
        if skipped:
            notes += (f"{skipped / FRAME_RATE_HZ:.1f} s of silence were skipped.",)
        if self.request.transpose == "auto" and semitones:
            notes += (f"Pitch was moved by {semitones:+g} semitones to the voice's.",)
        return notes

    def _opened_blocks(self, check: Callable[[], None]) -> Generator[FloatArray, None, None]:
        """16 kHz samples of the whole extent, read ahead in a thread; the recording is open meanwhile."""
        feed = AnalysisFeed(self.recording.open(), self.facts.gain, self.facts.limit, check)
        extended = reflect_edges(feed.blocks(), self._extent.left_samples, lambda _: self._extent.right_samples)
        with read_ahead(extended, _BLOCKS_AHEAD + self._ahead_frames // (BLOCK_S * FRAME_RATE_HZ)) as blocks:
            while True:
                with self.clock.measure("decode"):
                    block = next(blocks, None)
                if block is None:
                    break
                yield block
        raise DecodeError(self.recording.name, "the file changed while it was being read", "Convert it again")

    def _planned_analysis(self, models: VoiceModels, windowing: Windowing) -> Analysis:
        request, options = self.request, self.request.options
        pitch = PitchShift(fill=options.compat == "rvc", target_hz=request.target_hz)
        if request.transpose != "auto":
            pitch = PitchShift(fill=pitch.fill, semitones=request.transpose)
        if request.f0_hz is not None:
            pitch = pitch.with_given(request.f0_hz, self._extent)
        has_f0, left = models.synthesizer.config.has_f0, self._extent.left_frames
        timeline = FeatureTimeline(-left, has_f0, models.index, options.index_rate, options.protect)
        return Analysis(
            blocks=self._blocks,
            extent=self._extent,
            encoder=models.encoder,
            statistics=self.facts.statistics,
            f0=models.f0,
            timeline=timeline,
            pitch=pitch,
            windowing=windowing,
            silences=self.facts.silences,
            clock=self.clock,
            ahead_frames=self._ahead_frames,
        )


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


def explain(recording: Recording, request: Request, machine: Machine) -> Explanation:
    """Say how a recording would be cut, from its length alone. Raises DecodeError."""
    reader = recording.open()
    rate, length = reader.info.sample_rate, reader.info.length_samples
    if length is None:
        length = sum(len(block) for block in reader.blocks(rate))
    samples = max(1, rescaled_length(length, rate, ANALYSIS_RATE_HZ))
    frames = extent_for(request.options)(samples).frames
    decision = decide(request.options, frames, request.config, machine)
    return Explanation(
        input=recording.name,
        audio_s=length / rate,
        strategy="whole" if decision.windowing.whole else "stream",
        reasons=decision.reasons,
        segments=sum(1 for _ in decision.windowing.segments(ceil_div(samples, FRAME_SAMPLES))),
        widest_frames=decision.windowing.widest_frames(frames),
        refusal=decision.refusal,
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
