"""One recording's way through the engine: read once, planned, then carried to its final samples step by step."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeAlias, Union

from menura.audio.envelope import EnvelopeMatcher
from menura.audio.places import FileStamp
from menura.audio.processor import Chain, ExactLength, Processor, StreamResampler
from menura.effects.processors import chain_of, clean_up
from menura.errors import EncodeError
from menura.f0.contour import length_notes
from menura.loading.loader import VoiceModels
from menura.loading.request import Request
from menura.pipeline.execute import NetworkRequest
from menura.pipeline.parts import Joiner, PartFiles, PartWork, Samples
from menura.pipeline.plan import analysis_of, opened_blocks, planned, survey
from menura.pipeline.progress import StageClock, Worked
from menura.pipeline.recording import FileRecording, Recording, RecordingFacts
from menura.pipeline.synthesis import Synthesis
from menura.pipeline.windows import Machine, Windowing, decide, extent_for
from menura.system.files import claimed_folder
from menura.types import Explanation, FloatArray
from menura.units import ANALYSIS_RATE_HZ, FRAME_RATE_HZ, FRAME_SAMPLES, ceil_div, rescaled_length

Step: TypeAlias = Union[tuple[NetworkRequest, ...], Worked, "FloatArray"]
"""What a conversion needs of the networks before it goes on, what it has done, or samples that are final."""


class Conversion:
    """A recording being converted; the constructor reads it once and plans the rest.

    A codec of `format` may not have every rate; None stands for samples in memory. `check` is called from time to time
    while reading. Of `ahead_frames` networks are asked for together; 0: of a window or segment at a time. With a folder
    for `parts`, or files there, a long recording is converted in parts, and what was finished is found. Raises
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
        parts: Path | PartFiles | None = None,
    ) -> None:
        self.recording, self.request, self.clock = recording, request, StageClock()
        self._models = models
        self.files: PartFiles | None = None
        """Of its parts, if it may have any."""
        if isinstance(recording, FileRecording) and parts is not None:
            stamp = FileStamp.of(recording.path)  # before it is read
            self.files = PartFiles(parts, request.parts_tag(stamp)) if isinstance(parts, Path) else parts
        kept: list[FloatArray] = []
        with self.clock.measure("decode"):
            self.facts = facts = self._surveyed(check, kept)
        divided = self.files is not None
        self.plan = plan = planned(
            recording.name, request, models, facts, format=format, windowing=windowing, divided=divided
        )
        self.parts, self.parts_found = len(plan.parts), 0
        """Parts that it is converted in (0 if it is not divided), and how many of them an earlier run finished."""
        self.widest_frames = max(
            plan.windowing.widest_frames(plan.extent.frames), min(plan.extent.frames, ahead_frames)
        )
        """Most frames that a network is asked for at once: of the widest window, or of those that go together."""
        self._ahead_frames = ahead_frames
        self.output_rate = plan.output_rate
        self._notes = request.notes + facts.notes + plan.notes + (("The recording is silent.",) * facts.silent)
        if request.f0_hz is not None:
            self._notes += length_notes(len(request.f0_hz), facts.audio_s)
        self._blocks = opened_blocks(recording, plan, self.clock, check, ahead_frames, kept)
        self._semitones = 0.0
        self._seams_s: list[float] = []
        config, options = models.synthesizer.config, request.options
        processors: list[Processor] = [ExactLength(plan.voice_samples)]
        if options.rms_mix_rate != 1.0:
            matcher = EnvelopeMatcher(facts.source_rms, plan.voice_samples, config.sample_rate, options.rms_mix_rate)
            processors.append(matcher)
        resampler = StreamResampler(config.sample_rate, self.output_rate)
        effects = Chain(*clean_up(options.clean_output, self.output_rate), chain_of(request.effects, self.output_rate))
        self._chain = Chain(*processors, resampler, ExactLength(plan.output_samples), effects)

    @property
    def semitones(self) -> float | None:
        """By how much pitch is moved, once it is known; None for a voice without F0."""
        return self._semitones if self.request.config.has_f0 else None

    @property
    def seams_s(self) -> tuple[float, ...]:
        """Where segments were joined so far."""
        return tuple(self._seams_s)

    def steps(self) -> Generator[Step, list[FloatArray] | None, None]:
        """Yields requests (send back their answers), and samples at the output's rate, exactly as many as there are."""
        with closing(self._blocks), self.claimed() as files:
            yield from self._undivided() if files is None else self._divided(files)
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
            wanted_hz = self.request.options.proposed_pitch
            if wanted_hz is None:
                notes += (f"Pitch was moved by {semitones:+g} semitones to the voice's.",)
            else:
                notes += (f"Pitch was moved by {semitones:+g} semitones towards {wanted_hz:g} Hz.",)
        return notes

    def _surveyed(self, check: Callable[[], None], kept: list[FloatArray]) -> RecordingFacts:
        """The facts of the first pass, which keeps a short recording's blocks, or of an earlier run's."""
        found = None
        if self.files is not None and self.files.folder.is_dir():
            found = self.files.facts(self._models.encoder)
        return found or survey(self.recording, self.request, self._models, check=check, kept=kept)

    @contextmanager
    def claimed(self) -> Iterator[PartFiles | None]:
        """The files of its parts; None if it isn't divided, or if another process converts into the same output."""
        if self.files is None or not self.plan.parts:
            yield None
            return
        with claimed_folder(self.files.folder, EncodeError) as ours:
            if ours:
                self.files.tidy()
                self.files.keep_facts(self.facts)
                yield self.files
            else:
                self.parts = 0
                yield None

    @contextmanager
    def work(self, files: PartFiles) -> Iterator[PartWork]:
        """What is to be done of its parts, in files of theirs."""
        with closing(self._blocks), closing(Samples(files.samples, self.plan.extent, self._blocks)) as samples:
            yield PartWork(
                plan=self.plan,
                request=self.request,
                models=self._models,
                files=files,
                samples=samples,
                ahead_frames=self._ahead_frames,
                clock=self.clock,
            )

    def _undivided(self) -> Generator[Step, list[FloatArray] | None, None]:
        analysis = analysis_of(
            self.plan, self.request, self._models, self._blocks, self.clock, ahead_frames=self._ahead_frames
        )
        synthesis = Synthesis(self._models.synthesizer, analysis, self.request.options)
        self._seams_s = synthesis.seams_s
        yield from analysis.find_pitch()
        self._semitones = analysis.pitch.semitones
        frames = self.plan.output_frames
        for segments in synthesis.segments(self.plan.windowing.segments(frames), frames):
            for sound in (yield from segments):
                yield from self._finished(sound)

    def _divided(self, files: PartFiles) -> Generator[Step, list[FloatArray] | None, None]:
        """F0 of all parts first; without it each is begun when it is its turn, as reading goes on in the background."""
        models, config, parts = self._models, self._models.synthesizer.config, self.plan.parts
        joiner = Joiner(self.plan, config.sample_rate, config.frame_samples, files)
        self._seams_s = joiner.seams_s
        with self.work(files) as work:
            for part in parts if models.f0 is not None else ():
                yield from work.f0(part)
            for part in parts:
                if models.f0 is None:
                    yield from work.f0(part)
                self.parts_found += yield from work.sound(part)
                for sound in joiner.sound(part):
                    yield from self._finished(sound)
            self._semitones = work.semitones()

    def _finished(self, sound: FloatArray) -> Iterator[FloatArray]:
        """What can be said of the output once this sound is final."""
        with self.clock.measure("assemble"):
            samples = self._chain.push(sound)
        if len(samples):
            yield samples


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
        reasons=decision.reasons + tuple(f"spans of {r.request.voice.name}: {len(r.spans_s)}" for r in request.roles),
        segments=sum(1 for _ in decision.windowing.segments(ceil_div(samples, FRAME_SAMPLES))),
        widest_frames=decision.windowing.widest_frames(frames),
        refusal=decision.refusal,
    )
