"""One recording's way through the engine: read once, planned, then carried to its final samples step by step."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np

from menura.audio.encode import SampleSpool
from menura.audio.envelope import EnvelopeMatcher
from menura.audio.places import FileStamp
from menura.audio.processor import Chain, ExactLength, Processor, StreamResampler
from menura.effects.loudness import LoudnessMeter, Match
from menura.effects.processors import chain_of, clean_up
from menura.errors import EncodeError
from menura.f0.contour import length_notes
from menura.loading.loader import VoiceModels
from menura.loading.request import Request
from menura.pipeline.analysis import PitchShift
from menura.pipeline.channels import Steps, Widened, in_step
from menura.pipeline.parts import Joiner, PartFiles, PartWork, Samples
from menura.pipeline.plan import analysis_of, opened_blocks, planned, survey
from menura.pipeline.progress import StageClock, Worked
from menura.pipeline.recording import FileRecording, Recording, RecordingFacts
from menura.pipeline.synthesis import Synthesis
from menura.pipeline.windows import Machine, Windowing, decide, extent_for
from menura.system.files import claimed_folder
from menura.types import Explanation, FloatArray
from menura.units import ANALYSIS_RATE_HZ, FRAME_RATE_HZ, FRAME_SAMPLES, ceil_div, rescaled_length


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
        self.recording, self.request, self.clock, self._check = recording, request, StageClock(), check
        self._models = models
        self.files: PartFiles | None = None
        """Of its parts, if it may have any."""
        if isinstance(recording, FileRecording) and parts is not None:
            stamp = FileStamp.of(recording.path)  # before it is read
            self.files = PartFiles(parts, request.parts_tag(stamp)) if isinstance(parts, Path) else parts
        kept: list[FloatArray] = []
        with self.clock.measure("decode"):
            self.facts, *_ = facts = self._surveyed(check, kept)
        divided = self.files is not None
        plan_of = partial(planned, recording.name, request, models, format=format, windowing=windowing, divided=divided)
        self._plans = list(map(plan_of, facts))
        self.plan = plan = self._plans[0]
        self.parts, self.parts_found = len(plan.parts), 0
        """Parts that it is converted in (0 if it is not divided), and how many of them an earlier run finished."""
        self.widest_frames = max(
            plan.windowing.widest_frames(plan.extent.frames), min(plan.extent.frames, ahead_frames)
        )
        """Most frames that a network is asked for at once: of the widest window, or of those that go together."""
        self._ahead_frames = ahead_frames
        self.output_rate, self.channels = plan.output_rate, max(1, len(self.facts.signal.weights))
        self._notes = request.notes + tuple(dict.fromkeys(note for f in facts for note in f.notes)) + plan.notes
        self._notes += ("The recording is silent.",) * all(each.silent for each in facts)
        self._notes += tuple(filter(None, (each.unclear for each in facts)))[:1]
        if request.f0_hz is not None:
            self._notes += length_notes(len(request.f0_hz), self.facts.audio_s)
        kept = kept if len(facts) == 1 else []  # by the last signal
        self._blocks = [opened_blocks(recording, each, self.clock, check, ahead_frames, kept) for each in self._plans]
        self._pitches = [PitchShift()] * len(self._plans)
        self._seams_s: list[float] = []
        self._meter = LoudnessMeter(self.output_rate) if request.loudness == "source" else None
        self.spool: Callable[[], SampleSpool] = SampleSpool
        """Makes what holds the sound that must be known to its end before it goes on."""
        self.match: Match | None = None
        """What the output is still to be brought to its loudness by, once all of it is there."""
        voiced, rest = Chain(*self._voiced()), list(self._finishing())
        self._rest = Chain(*rest) if rest and self._meter is not None else None
        """What must find the sound at its loudness: mixing with what was kept, and effects."""
        self._chain = voiced if self._rest is not None else Chain(voiced, *rest)

    def _voiced(self) -> Iterator[Processor]:
        """From the signals' sounds to the output's rate and length."""
        plan, options, voice_rate = self.plan, self.request.options, self._models.synthesizer.config.sample_rate
        yield ExactLength(plan.voice_samples)
        if options.rms_mix_rate != 1.0 or len(self._plans) > 1:
            levels = np.stack([p.facts.source_rms * (sum(p.facts.signal.weights) or 1) for p in self._plans], axis=1)
            yield EnvelopeMatcher(levels, plan.voice_samples, voice_rate, options.rms_mix_rate)
        yield from (StreamResampler(voice_rate, self.output_rate), ExactLength(plan.output_samples))

    def _finishing(self) -> Iterator[Processor]:
        """What is then done with it."""
        if self.channels > len(self._plans):
            yield Widened(self.recording, self.facts.signal.weights, self.output_rate)
        yield from clean_up(self.request.options.clean_output, self.output_rate)
        if self.request.effects:
            yield chain_of(self.request.effects, self.output_rate)

    @property
    def deferred(self) -> bool:
        """Whether all samples come after the work of all."""
        return self.parts > 0 or self._rest is not None

    @property
    def semitones(self) -> float | None:
        """By how much pitch is moved, once it is known, of the first signal; None for a voice without F0."""
        return self._pitches[0].semitones if self.request.config.has_f0 else None

    @property
    def seams_s(self) -> tuple[float, ...]:
        """Where segments were joined so far."""
        return tuple(self._seams_s)

    def steps(self) -> Steps:
        """Yields requests (send back their answers), and samples at the output's rate, exactly as many as there are."""
        with ExitStack() as stack:
            stack.callback(lambda: list(map(Generator.close, self._blocks)))
            files = stack.enter_context(self.claimed())
            works = stack.enter_context(self.work(files)) if files is not None else ()
            lanes = [self._divided(number, work) for number, work in enumerate(works)]
            lanes = lanes or [self._undivided(number) for number in range(len(self._plans))]
            sounds, answers = stack.enter_context(closing(in_step(lanes, 0 if self._ahead_frames else 1))), None
            spool = None if self._rest is None else stack.enter_context(closing(self.spool()))
            with suppress(StopIteration):
                while True:
                    step, answers = sounds.send(answers), None
                    if isinstance(step, np.ndarray):
                        yield from self._made(partial(self._chain.push, step), spool)
                    else:
                        answers = yield step
            yield from self._made(self._chain.flush, spool)
            if self._meter is not None:
                source = np.stack([plan.facts.powers for plan in self._plans], axis=1)
                peak = max(plan.facts.peak for plan in self._plans)
                self.match = Match.of(self._meter.powers(), source, peak, self.facts.raised)
            if self._rest is not None and spool is not None:
                yield from self._finished(self._rest, spool)

    def notes(self) -> tuple[str, ...]:
        """What the user should know; complete when the conversion is over."""
        notes, skipped = self._notes, self.facts.silences.skipped_frames
        if skipped:
            notes += (f"{skipped / FRAME_RATE_HZ:.1f} s of silence were skipped.",)
        wanted_hz, auto = self.request.options.proposed_pitch, self.request.transpose == "auto"
        notes += tuple(dict.fromkeys(note for pitch in self._pitches for note in pitch.notes))
        for semitones in filter(None, dict.fromkeys(pitch.semitones for pitch in self._pitches) if auto else ()):
            if wanted_hz is None:
                notes += (f"Pitch was moved by {semitones:+g} semitones to the voice's.",)
            else:
                notes += (f"Pitch was moved by {semitones:+g} semitones towards {wanted_hz:g} Hz.",)
        return notes

    def _surveyed(self, check: Callable[[], None], kept: list[FloatArray]) -> tuple[RecordingFacts, ...]:
        """The facts of the first pass, which keeps a short recording's blocks, or of an earlier run's."""
        found: list[RecordingFacts] = []
        while self.files and (facts := self.files.of(len(found)).facts(self._models.encoder)) is not None:
            found.append(facts)
        return tuple(found) or survey(self.recording, self.request, self._models, check=check, kept=kept)

    @contextmanager
    def claimed(self) -> Iterator[PartFiles | None]:
        """The files of its parts; None if it isn't divided, or if another process converts into the same output."""
        if self.files is None or not self.plan.parts:
            yield None
            return
        with claimed_folder(self.files.folder, EncodeError) as ours:
            if ours:
                self.files.tidy()
                for number, plan in reversed(list(enumerate(self._plans))):  # the first is there if all are
                    self.files.of(number).keep_facts(plan.facts)
                yield self.files
            else:
                self.parts = 0
                yield None

    @contextmanager
    def work(self, files: PartFiles) -> Iterator[tuple[PartWork, ...]]:
        """What is to be done of each signal's parts, in files of theirs."""
        with ExitStack() as stack:
            samples: list[Samples] = []
            for number, (plan, blocks) in enumerate(zip(self._plans, self._blocks, strict=True)):
                stack.enter_context(closing(blocks))
                samples.append(stack.enter_context(closing(Samples(files.of(number).samples, plan.extent, blocks))))
            yield tuple(
                PartWork(
                    plan=plan,
                    request=self.request,
                    models=self._models,
                    files=files.of(number),
                    samples=samples[number],
                    f0_samples=samples[plan.facts.signal.lead],
                    ahead_frames=self._ahead_frames,
                    clock=self.clock,
                )
                for number, plan in enumerate(self._plans)
            )

    def _undivided(self, number: int) -> Steps:
        plan, models, ahead_frames = self._plans[number], self._models, self._ahead_frames
        analysis = analysis_of(plan, self.request, models, self._blocks[number], self.clock, ahead_frames=ahead_frames)
        synthesis = Synthesis(models.synthesizer, analysis, self.request.options)
        self._seams_s = synthesis.seams_s
        if models.f0 is not None and (lead := plan.facts.signal.lead) != number:
            self._blocks.append(opened_blocks(self.recording, self._plans[lead], self.clock, self._check, ahead_frames))
            analysis.estimate_of(self._blocks[-1])
        yield from analysis.find_pitch()
        self._pitches[number] = analysis.pitch
        for segments in synthesis.segments(plan.windowing.segments(plan.output_frames), plan.output_frames):
            yield from (yield from segments)

    def _divided(self, number: int, work: PartWork) -> Steps:
        """F0 of all parts first; without it each is begun when it is its turn, as reading goes on in the background."""
        models, config, parts = self._models, self._models.synthesizer.config, self.plan.parts
        joiner = Joiner(work.plan, config.sample_rate, config.frame_samples, work.files)
        self._seams_s = joiner.seams_s
        for part in parts if models.f0 is not None else ():
            yield from work.f0(part)
        for part in parts:
            if models.f0 is None:
                yield from work.f0(part)
            self.parts_found += (yield from work.sound(part)) and number == 0
            yield from joiner.sound(part)
        self._pitches[number] = work.pitch()

    def _made(self, ready: Callable[[], FloatArray], spool: SampleSpool | None) -> Iterator[FloatArray | Worked]:
        """What can be said of the output once more sound is final, or so much work if it goes to a spool."""
        with self.clock.measure("assemble"):
            samples = ready()
            if self._meter is not None and len(samples):
                self._meter.push(samples)
        if spool is not None:
            spool.append(samples.reshape(-1))
            yield Worked(0.0 if self.parts else len(samples) / self.output_rate)
        elif len(samples):
            yield samples

    def _finished(self, rest: Chain, spool: SampleSpool) -> Iterator[FloatArray]:
        """The output, of what is in the spool, brought to its loudness."""
        assert self.match is not None
        (gain, notes), self.match, width = self.match.limited(spool.peak), None, len(self._plans)
        self._notes += notes
        for samples in spool.blocks(self.output_rate * width, gain):
            self._check()
            with self.clock.measure("assemble"):
                samples = rest.push(samples if width == 1 else samples.reshape(-1, width))
            if len(samples):
                yield samples
        with self.clock.measure("assemble"):
            samples = rest.flush()
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
