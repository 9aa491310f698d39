"""A dialogue: spans of one recording, each converted by its own voice, joined with each other and what is between.

Every voice has an analysis and a synthesis of the whole recording, as in `Conversion`, in which all that is far from
its spans counts as silence and isn't computed. So windows are where they always are, and words at a span's border are
heard in full. They go on together, segment by segment; what two ask of the same encoder is computed once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from typing import TypeAlias, cast

import numpy as np

from menura.audio.encode import SampleSpool
from menura.audio.envelope import EnvelopeMatcher
from menura.audio.processor import Chain, ExactLength, Processor, StreamResampler
from menura.effects.loudness import STEPS_A_SECOND, LoudnessMeter, Match
from menura.effects.processors import chain_of, clean_up
from menura.errors import OptionError
from menura.f0.contour import length_notes
from menura.loading.loader import VoiceModels
from menura.loading.request import Request, Role
from menura.pipeline.analysis import Analysis, PitchShift, Steps, Track, estimated_f0, known_f0, sounds, window_samples
from menura.pipeline.channels import Step
from menura.pipeline.execute import NetworkRequest, WindowRequest
from menura.pipeline.plan import Plan, analysis_of, opened_blocks, planned, read_ahead, survey
from menura.pipeline.progress import F0_SHARE, StageClock, Worked
from menura.pipeline.recording import BLOCK_S, FAR_FRAMES, SHORTEST_SILENCE_FRAMES, Recording, RecordingFacts, Silences
from menura.pipeline.synthesis import Synthesis
from menura.pipeline.windows import Span, Windowing
from menura.types import Float64Array, FloatArray
from menura.units import FRAME_RATE_HZ, FRAME_SAMPLES, ceil_div

CROSSFADE_S = 0.03
"""At a span's border, half of it on either side."""
_MIXED_SAMPLES = 1 << 16
_BLOCKS_AHEAD = 4
_LEAST_BETWEEN_S = 1e-6


class Weights:
    """How loud a source is at each sample: 1 within its spans, 0 elsewhere, a straight line across each border.

    It is the mean, over a crossfade's length, of what is within: so those of neighbours add up to 1, whatever their
    lengths. Spans that reach the recording's ends go on beyond.
    """

    def __init__(self, spans_s: Sequence[tuple[float, float]], end_s: float, rate_hz: int) -> None:
        self._half, self._step = CROSSFADE_S * rate_hz / 2, rate_hz / STEPS_A_SECOND
        edges = np.array(spans_s, dtype=np.float64)
        edges[:, 0][edges[:, 0] <= 0] -= CROSSFADE_S
        edges[:, 1][edges[:, 1] >= end_s] += 2 * CROSSFADE_S
        edges *= rate_hz
        self._places = edges.reshape(-1)
        ends = np.cumsum(edges[:, 1] - edges[:, 0])
        self._within = np.stack([np.concatenate([[0.0], ends[:-1]]), ends], axis=1).reshape(-1)
        """How many samples of all before a place are within the spans."""

    def of(self, start: int, end: int) -> FloatArray:
        at = np.arange(start, end, dtype=np.float64)
        before, after = (np.interp(at + reach, self._places, self._within) for reach in (-self._half, self._half))
        return np.asarray((after - before) / (2 * self._half), dtype=np.float32)

    def shares(self, steps: int) -> Float64Array:
        """(steps, 1): how much of each tenth of a second is within."""
        before = np.interp(np.arange(steps + 1) * self._step, self._places, self._within)
        return np.asarray(np.diff(before)[:, None] / self._step, dtype=np.float64)


@dataclass(kw_only=True, eq=False)
class _Voice:
    """A role, and how far its sound is."""

    role: Role
    request: Request
    models: VoiceModels
    plan: Plan
    spans_s: tuple[tuple[float, float], ...]
    chain: Chain
    weights: Weights
    held: FloatArray = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    """At the output's rate, not yet mixed."""
    meter: LoudnessMeter | None = None
    peak: float = 0.0
    """Within its spans."""
    gain: float = 1.0
    """For the loudness of what it replaces."""
    semitones: float = 0.0
    notes: tuple[str, ...] = ()  # on its shift
    seams_s: list[float] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether there is nothing else in the recording."""
        return self.spans_s == ((0.0, self.plan.facts.audio_s),)

    def hold(self, *samples: FloatArray) -> None:
        self.held = np.concatenate([self.held, *samples])
        if self.meter is not None:
            for block in samples:
                self.meter.push(block)

    def level(self) -> tuple[str, ...]:
        """Find its gain, once all of it is made; and notes."""
        if self.meter is None:
            return ()
        made, source = self.meter.powers(), self.plan.facts.powers[:, None]
        shares = self.weights.shares(steps := min(len(made), len(source)))
        facts = self.plan.facts
        match = Match.of(made[:steps] * shares, source[:steps] * shares, facts.peak, facts.raised)
        self.gain, notes = match.limited(self.peak)
        return notes

    def settled(self, curve: FloatArray) -> Request:
        """The request with its automatic shift, by all F0 of its spans; of a whole recording, as always, later."""
        if self.request.transpose != "auto" or self.whole:
            return self.request
        left = self.plan.extent.left_frames
        if self.request.f0_hz is not None:
            curve, left = self.request.f0_hz, 0
        parts = [curve[left + a : left + b] for a, b in (_frames(*span_s) for span_s in self.spans_s)]
        shift = PitchShift(aim=self.request.aim).settled(np.concatenate(parts))
        self.notes = shift.notes
        return replace(self.request, options=replace(self.request.options, transpose=shift.semitones))


_Sources: TypeAlias = "list[tuple[_Voice | None, FloatArray]]"
"""What is heard side by side, first of all the original."""


class Dialogue:
    """A recording being converted by several voices: for the engine what a `Conversion` is, and made like one.

    `models` are of the request's roles. Raises OptionError where no span lies in the recording.
    """

    parts, parts_found, channels, match = 0, 0, 1, None

    def __init__(
        self,
        recording: Recording,
        request: Request,
        models: Sequence[VoiceModels],
        *,
        format: str | None = None,
        check: Callable[[], None] = lambda: None,
        windowing: Windowing | None = None,
        ahead_frames: int = 0,
    ) -> None:
        self.recording, self.request, self.clock = recording, request, StageClock()
        self._check, self._ahead_frames = check, ahead_frames
        surveys: dict[int, RecordingFacts] = {}
        with self.clock.measure("decode"):
            for role, networks in zip(request.roles, models, strict=True):
                if id(networks.encoder) not in surveys:
                    (surveys[id(networks.encoder)],) = survey(recording, role.request, networks, check=check)
        rate = request.options.sample_rate or max(each.synthesizer.config.sample_rate for each in models)
        voices = []
        for role, networks in zip(request.roles, models, strict=True):
            facts = surveys[id(networks.encoder)]
            if spans_s := tuple((a, min(b, facts.audio_s)) for a, b in role.spans_s if a < facts.audio_s):
                asked = replace(role.request, options=replace(role.request.options, sample_rate=rate))
                frames = ceil_div(facts.analysis_samples, FRAME_SAMPLES)
                facts = replace(facts, silences=silences_around(spans_s, facts.silences, frames))
                plan = planned(recording.name, asked, networks, facts, format=format, windowing=windowing)
                voices.append(_voice(role, asked, networks, plan, spans_s))
        self._voices = list(itertools.chain(*_grouped(voices, lambda voice: id(voice.models.encoder))))
        self.facts = facts = next(iter(surveys.values()))
        if not voices:
            problem = f"all spans lie beyond its end, {facts.audio_s:.2f} s"
            raise OptionError(recording.name, problem, "Check the times, in seconds or h:mm:ss.fff", "spans")
        self._plan = plan = self._voices[0].plan
        self.output_rate = plan.output_rate
        frames = max(voice.plan.extent.frames for voice in self._voices)
        self.widest_frames = max(plan.windowing.widest_frames(frames), min(frames, ahead_frames))
        self._chain = Chain(*self._finishing())
        self.deferred = request.loudness == "source"
        """Whether all samples come after the work of all."""
        self.spool: Callable[[], SampleSpool] = SampleSpool
        """Makes what holds the sound that must be known to its end before it goes on."""
        self._level_notes: dict[str, None] = {}

    @property
    def semitones(self) -> float | None:
        """By how much pitch is moved, if that is the same in all spans."""
        shifts = {voice.semitones if voice.request.config.has_f0 else None for voice in self._voices}
        return shifts.pop() if len(shifts) == 1 else None

    @property
    def seams_s(self) -> tuple[float, ...]:
        """Where segments were joined, within spans of their voices."""
        heard = {at for v in self._voices for at in v.seams_s if any(a < at < b for a, b in v.spans_s)}
        return tuple(sorted(heard))

    def notes(self) -> tuple[str, ...]:
        """What the user should know; complete when the conversion is over."""
        facts, end_s = self.facts, self.facts.audio_s
        notes = dict.fromkeys(note for voice in self._voices for note in voice.request.notes + voice.plan.notes)
        notes |= dict.fromkeys(self.request.told + facts.notes + ("The recording is silent.",) * facts.silent)
        notes |= dict.fromkeys(filter(None, (facts.unclear,)))
        given = self._voices[0].request.f0_hz
        notes |= dict.fromkeys(() if given is None else length_notes(len(given), end_s))
        if any(b > end_s + 1 / FRAME_RATE_HZ for role in self.request.roles for _, b in role.spans_s):
            notes[f"Spans were cut at the recording's end, {end_s:.2f} s."] = None
        for voice in self._voices:
            length_s, name = sum(b - a for a, b in voice.spans_s), voice.request.voice.name
            if speaker := voice.role.speaker:
                notes[f"'{speaker}' became '{name}' for {length_s:.1f} s in all."] = None
            else:
                notes[f"'{name}' speaks for {length_s:.1f} s in all."] = None
            notes |= {f"'{speaker or name}': {note}": None for note in voice.notes}
            if voice.semitones:
                notes[f"Pitch of '{speaker or name}' was moved by {voice.semitones:+g} semitones."] = None
        return tuple(notes | self._level_notes)

    def steps(self) -> Generator[Step, list[FloatArray] | None, None]:
        """Yields requests (send back their answers), and samples at the output's rate, exactly as many as there are."""
        curves: dict[tuple[int, int], FloatArray] = {}
        estimated = [voice for voice in self._voices if voice.models.f0 is not None]
        for members in (groups := _grouped(estimated, _networks_of)):
            curves[_networks_of(members[0])] = yield from self._curve(members, 1 / len(groups))
        with ExitStack() as stack:
            segments = [stack.enter_context(closing(each)) for each in self._segments(curves, stack)]
            original: Iterator[FloatArray] = iter(())
            spoken_s = sum(b - a for voice in self._voices for a, b in voice.spans_s)
            if self.request.options.outside == "original" and self.facts.audio_s - spoken_s > _LEAST_BETWEEN_S:
                original = stack.enter_context(read_ahead(self._original(), _BLOCKS_AHEAD))
            mix = _Mix(self._voices, original)
            lanes = _Lanes(stack.enter_context(closing(self.spool()))) if self.deferred else None
            for turn in itertools.zip_longest(*segments):
                known: list[tuple[WindowRequest, FloatArray]] = []
                for voice, steps in zip(self._voices, turn, strict=True):
                    made = [] if steps is None else (yield from _sharing(steps, known))
                    voice.hold(*map(voice.chain.push, made))
                yield from self._finished(mix, lanes)
            for voice in self._voices:
                voice.hold(voice.chain.flush())
            yield from self._finished(mix, lanes)
            for voice in self._voices:
                self._level_notes |= dict.fromkeys(voice.level())
            for mixed in () if lanes is None else lanes.mixed():
                yield from self._through(mixed)
        if len(samples := self._chain.flush()):
            yield samples

    def _finishing(self) -> Iterator[Processor]:
        """What is done with the whole output."""
        options, rate, length = self.request.options, self.output_rate, self._plan.output_samples
        if options.rms_mix_rate != 1.0:
            yield EnvelopeMatcher(self.facts.source_rms, length, rate, options.rms_mix_rate)
        yield from clean_up(options.clean_output, rate)
        yield chain_of(self.request.effects, rate)

    def _blocks(self, voice: _Voice) -> Generator[FloatArray, None, None]:
        return opened_blocks(self.recording, voice.plan, self.clock, self._check, self._ahead_frames)

    def _curve(self, members: Sequence[_Voice], part: float) -> Generator[Step, list[FloatArray] | None, FloatArray]:
        """F0 of the whole timeline, for voices with the same networks; 0 where none of them is heard."""
        plan, network = members[0].plan, members[0].models.f0
        assert network is not None
        share = part * F0_SHARE * self.facts.audio_s / plan.extent.frames
        windows = plan.windowing.windows(plan.extent, network.core_frames, network.context_frames)
        together, samples = max(1, self._ahead_frames // network.core_frames), Track(-plan.extent.left_samples)
        cores = [np.zeros(0, dtype=np.float32)]

        def read(start: int, end: int) -> FloatArray:
            while samples.end < end:
                samples.append(next(blocks))
            return samples.read(start, end)

        with closing(self._blocks(members[0])) as blocks:
            while group := list(itertools.islice(windows, together)):
                read(samples.end, window_samples(group[-1], plan.extent)[1])
                silent = [v.plan.facts.silences for v in members]
                wanted = [w for w in group if any(sounds(w, plan.windowing, silences) for silences in silent)]
                cores.append((yield from estimated_f0(network, group, wanted, plan.extent, read, self.clock)))
                samples.forget((group[-1].end_frames - network.context_frames) * FRAME_SAMPLES)
                yield Worked(share * len(cores[-1]))
        return np.concatenate(cores)

    def _segments(
        self, curves: dict[tuple[int, int], FloatArray], stack: ExitStack
    ) -> Iterator[Generator[Steps[list[FloatArray]], None, None]]:
        """The segments of each voice; those with the same encoder read the recording together."""
        for members in _grouped(self._voices, lambda voice: id(voice.models.encoder)):
            blocks = stack.enter_context(closing(self._blocks(members[0])))
            for voice, own in zip(members, itertools.tee(blocks, len(members)), strict=True):
                curve = curves.get(_networks_of(voice))
                known = None if curve is None else known_f0(curve, voice.plan.extent.left_frames)
                request = voice.settled(np.zeros(0, np.float32) if curve is None else curve)
                analysis = analysis_of(
                    voice.plan,
                    request,
                    voice.models,
                    own,
                    self.clock,
                    ahead_frames=self._ahead_frames,
                    known_f0=known,
                )
                yield self._synthesis(voice, analysis)

    def _synthesis(self, voice: _Voice, analysis: Analysis) -> Generator[Steps[list[FloatArray]], None, None]:
        for _ in analysis.find_pitch():
            raise AssertionError("F0 is known")
        synthesis = Synthesis(voice.models.synthesizer, analysis, voice.request.options)
        voice.semitones, voice.seams_s = analysis.pitch.semitones, synthesis.seams_s
        voice.notes += analysis.pitch.notes
        frames = voice.plan.output_frames
        return synthesis.segments(voice.plan.windowing.segments(frames), frames)

    def _original(self) -> Generator[FloatArray, None, None]:
        """The recording as it is, at the output's rate."""
        reader = self.recording.open()
        rate = reader.info.sample_rate
        chain = Chain(StreamResampler(rate, self.output_rate), ExactLength(self._plan.output_samples))
        for block in reader.blocks(BLOCK_S * rate):
            self._check()
            yield chain.push(block)
        yield chain.flush()

    def _finished(self, mix: _Mix, lanes: _Lanes | None) -> Iterator[FloatArray | Worked]:
        for sources in mix.ready():
            if lanes is not None:
                lanes.keep(sources)
                yield Worked((1 - F0_SHARE) * len(sources[0][1]) / self.output_rate)
            else:
                yield from self._through(_sum(samples for _, samples in sources))

    def _through(self, mixed: FloatArray) -> Iterator[FloatArray]:
        self._check()
        with self.clock.measure("assemble"):
            samples = self._chain.push(mixed)
        if len(samples):
            yield samples


class _Lanes:
    """Sources side by side in a spool, until each one's gain is known."""

    def __init__(self, spool: SampleSpool) -> None:
        self._spool, self._kept = spool, list[tuple[int, list[_Voice | None]]]()

    def keep(self, sources: _Sources) -> None:
        self._kept.append((len(sources[0][1]), [voice for voice, _ in sources]))
        for voice, samples in sources:
            self._spool.append(samples)
            if voice is not None:
                voice.peak = max(voice.peak, float(np.abs(samples).max()))

    def mixed(self) -> Iterator[FloatArray]:
        at = 0
        for count, voices in self._kept:
            places = range(at, at := at + count * len(voices), count)
            yield _sum(
                self._spool.read(place, count) * np.float32(1.0 if voice is None else voice.gain)
                for place, voice in zip(places, voices, strict=True)
            )


class _Mix:
    """What the voices have made, as far as all of them have, and the original, each where it is heard."""

    def __init__(self, voices: Sequence[_Voice], original: Iterator[FloatArray]) -> None:
        self._voices, self._original, self._at = voices, original, 0
        self._held: FloatArray = np.zeros(0, dtype=np.float32)
        spans_s, plan = sorted(span_s for voice in voices for span_s in voice.spans_s), voices[0].plan
        self._spoken = Weights(spans_s, plan.facts.audio_s, plan.output_rate)

    def ready(self) -> Iterator[_Sources]:
        while count := min(_MIXED_SAMPLES, *(len(voice.held) for voice in self._voices)):
            start, self._at = self._at, self._at + count
            sources: _Sources = [(None, (1 - self._spoken.of(start, self._at)) * self._between(count))]
            for voice in self._voices:
                weights = voice.weights.of(start, self._at)
                if weights.any():
                    sources.append((voice, weights * voice.held[:count]))
                voice.held = voice.held[count:]
            yield sources

    def _between(self, count: int) -> FloatArray:
        while len(self._held) < count and (block := next(self._original, None)) is not None:
            self._held = np.concatenate([self._held, block])
        taken, self._held = self._held[:count], self._held[count:]
        return np.pad(taken, (0, count - len(taken)))


def _sum(sources: Iterable[FloatArray]) -> FloatArray:
    total, *others = sources
    for samples in others:
        total += samples
    return total


def _voice(
    role: Role, request: Request, models: VoiceModels, plan: Plan, spans_s: tuple[tuple[float, float], ...]
) -> _Voice:
    resampler = StreamResampler(models.synthesizer.config.sample_rate, plan.output_rate)
    return _Voice(
        role=role,
        request=request,
        models=models,
        plan=plan,
        spans_s=spans_s,
        chain=Chain(ExactLength(plan.voice_samples), resampler, ExactLength(plan.output_samples)),
        weights=Weights(spans_s, plan.facts.audio_s, plan.output_rate),
        meter=LoudnessMeter(plan.output_rate) if request.loudness == "source" else None,
    )


def silences_around(spans_s: Sequence[tuple[float, float]], silences: Silences, frames: int) -> Silences:
    """What a voice needn't compute of a recording: its own silences, and all but the spans and a little around them."""
    heard = [(a - 1, b + 1) for a, b in (_frames(a - CROSSFADE_S / 2, b + CROSSFADE_S / 2) for a, b in spans_s)]
    starts = [0 if heard[0][0] <= 0 else -FAR_FRAMES, *(end for _, end in heard)]
    ends = [*(start for start, _ in heard), 0 if heard[-1][1] >= frames else FAR_FRAMES]
    gaps = [(a, b) for a, b in zip(starts, ends, strict=True) if b - a >= SHORTEST_SILENCE_FRAMES]
    merged: list[Span] = []
    for start, end in sorted([*silences.spans, *gaps]):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return Silences(spans=tuple(merged), frames=frames)


def _frames(start_s: float, end_s: float) -> Span:
    """Those that a span touches."""
    return math.floor(start_s * FRAME_RATE_HZ), math.ceil(end_s * FRAME_RATE_HZ)


def _networks_of(voice: _Voice) -> tuple[int, int]:
    return id(voice.models.encoder), id(voice.models.f0)


def _grouped(voices: Sequence[_Voice], key: Callable[[_Voice], Hashable]) -> list[list[_Voice]]:
    groups: dict[Hashable, list[_Voice]] = {}
    for voice in voices:
        groups.setdefault(key(voice), []).append(voice)
    return list(groups.values())


def _sharing(steps: Steps[list[FloatArray]], known: list[tuple[WindowRequest, FloatArray]]) -> Steps[list[FloatArray]]:
    """A voice's steps, without asking for windows that another asked for; `known` are these, and get new ones."""
    answers: list[FloatArray] | None = None
    while True:
        try:
            asked = steps.send(answers)
        except StopIteration as end:
            return cast("list[FloatArray]", end.value)
        found = [_answered(request, known) for request in asked]
        missing = tuple(request for request, answer in zip(asked, found, strict=True) if answer is None)
        new = iter(((yield missing) if missing else None) or ())
        answers = [next(new) if answer is None else answer for answer in found]
        known += [
            (which, answer) for which, answer in zip(asked, answers, strict=True) if isinstance(which, WindowRequest)
        ]


def _answered(request: NetworkRequest, known: list[tuple[WindowRequest, FloatArray]]) -> FloatArray | None:
    if isinstance(request, WindowRequest):
        for other, answer in known:
            if other.batch_key == request.batch_key and np.array_equal(other.samples, request.samples):
                return answer
    return None
