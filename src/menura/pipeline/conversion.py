"""One request on one recording: surveyed, planned, and carried through the engine to its final blocks."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from menura.audio.encode import codec_rate, least_samples
from menura.audio.envelope import EnvelopeMatcher
from menura.errors import ResourceError
from menura.f0.file import length_notes
from menura.pipeline.engine import Event, StreamEnd, run
from menura.pipeline.first_pass import RecordingFacts, survey
from menura.pipeline.output import OutputChain
from menura.pipeline.pitch import F0Policy, given_f0
from menura.pipeline.recording import BLOCK_S, analysis_length
from menura.pipeline.strategy import Decision, Machine, decide, machine_of
from menura.pipeline.stream import Stream, StreamPlan
from menura.pipeline.windows import EDGE_FRAMES, Extent, compat_extent, seconds, segment_borders, streaming_extent
from menura.types import Explanation
from menura.units import FRAME_SAMPLES, ceil_div, rescaled_length

if TYPE_CHECKING:
    import torch

    from menura.loading.loader import VoiceModels
    from menura.loading.request import Request
    from menura.options import ConversionOptions
    from menura.pipeline.clock import StageClock
    from menura.pipeline.recording import Recording
    from menura.types import FloatArray

_SPARE_SAMPLES = 64
"""Made beyond the end at the voice's rate, so that a resampler's rounding never lacks one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """A request ready to run."""

    stream: Stream
    chain: OutputChain
    facts: RecordingFacts
    clock: StageClock
    output_rate: int
    notes: tuple[str, ...]
    widest_frames: int
    """Frames of the widest window that a network sees."""
    finds_pitch: bool
    """True if the pitch shift is found from the recording."""

    def final_notes(self) -> tuple[str, ...]:
        """The notes, with what is known only when the conversion is over."""
        notes, semitones, skipped = self.notes, self.stream.semitones, self.facts.silences.skipped_frames
        if skipped:
            notes += (f"{seconds(skipped):.1f} s of silence were left out of the work.",)
        if self.finds_pitch and semitones:
            notes += (f"Pitch was moved by {semitones:+g} semitones to the voice's.",)
        return notes


def begin(
    recording: Recording,
    request: Request,
    models: VoiceModels,
    *,
    clock: StageClock,
    stream_id: int = 0,
    format: str | None = None,
) -> Conversion:
    """Survey a recording and plan its conversion.

    Args:
        recording: what to convert.
        request: what is asked for.
        models: its networks, resident.
        clock: counts the time.
        stream_id: names it among others.
        format: the output's, whose codec may not have every rate; None for samples in memory.

    Raises:
        DecodeError, ResourceError: with what to do.
    """
    options, config = request.options, models.synthesizer.config
    extent_of = _extent_of(options, models.encoder.edge_frames)
    own = options.compat == "menura"
    new_survey = models.encoder.survey if own else None
    with clock.measure("decode"):
        facts = survey(recording, new_survey, extent_of, split_silence=options.split_silence, adjust_level=own)
    output_rate, notes = _output_rate(config.sample_rate, options, format)
    length, least_notes = _output_length(facts, output_rate, format)
    spare = 0 if output_rate == config.sample_rate else _SPARE_SAMPLES
    voice_length = ceil_div(length * config.sample_rate, output_rate) + spare
    extent = extent_of(facts.analysis_samples)
    decision = _decision(options, extent, models)
    plan = _plan(options, decision, extent, voice_length, global_windows=models.encoder.global_windows)
    return Conversion(
        stream=Stream(
            stream_id=stream_id,
            recording=recording,
            facts=facts,
            models=models,
            plan=plan,
            f0_policy=_f0_policy(request, plan.extent),
            clock=clock,
        ),
        chain=OutputChain(
            stream_id=stream_id,
            voice_rate=config.sample_rate,
            output_rate=output_rate,
            length=length,
            envelope=_envelope(facts, voice_length, config.sample_rate, options.rms_mix_rate),
        ),
        facts=facts,
        clock=clock,
        output_rate=output_rate,
        widest_frames=decision.widest_frames,
        finds_pitch=request.transpose == "auto",
        notes=facts.notes + notes + least_notes + _input_notes(facts, request.f0_hz),
    )


def _input_notes(facts: RecordingFacts, given_f0_hz: FloatArray | None) -> tuple[str, ...]:
    notes = ("The recording is silent.",) if facts.silent else ()
    return notes if given_f0_hz is None else notes + length_notes(len(given_f0_hz), facts.audio_s)


def explain(recording: Recording, request: Request, machine: Machine) -> Explanation:
    """Say what `begin` would decide, from the recording's length alone.

    Raises:
        DecodeError: it can't be read.
    """
    with recording.open() as reader:
        rate, length = reader.info.sample_rate, reader.info.length_samples
        if length is None:
            length = sum(len(block) for block in reader.blocks(BLOCK_S * rate))
    samples = analysis_length(length, rate)
    extent = _extent_of(request.options, EDGE_FRAMES)(samples)
    decision = decide(request.options, extent.frames, request.config, machine)
    borders = segment_borders(ceil_div(samples, FRAME_SAMPLES), whole=decision.strategy == "whole")
    return Explanation(
        input=recording.name,
        audio_s=length / rate,
        strategy=decision.strategy,
        reasons=decision.reasons,
        segments=sum(1 for _ in borders),
        widest_frames=decision.widest_frames,
        refusal=decision.refusal,
    )


def convert_all(
    conversions: Iterable[Conversion | None], device: torch.device, width: int = 1
) -> Generator[Event, None, None]:
    """Run conversions, at most `width` together; see `engine.run`.

    Yields:
        Final blocks at each one's output rate, in order for each stream, then its StreamEnd.
    """
    under_way: dict[int, Conversion] = {}

    def streams() -> Iterator[Stream | None]:
        for conversion in conversions:
            if conversion is not None:
                under_way[conversion.stream.stream_id] = conversion
            yield None if conversion is None else conversion.stream

    for event in run(streams(), device, width):
        conversion = under_way[event.stream_id]
        if isinstance(event, StreamEnd):
            if event.error is None:
                with conversion.clock.measure("assemble"):
                    rest = conversion.chain.flush()
                if len(rest.samples):
                    yield rest
            del under_way[event.stream_id]
            yield event
        else:
            with conversion.clock.measure("assemble"):
                block = conversion.chain.push(event.samples)
            if len(block.samples):
                yield block


def collect(conversion: Conversion, device: torch.device) -> FloatArray:
    """All samples of one conversion, (samples,). Raises what ended it early."""
    parts = [np.zeros(0, dtype=np.float32)]
    for event in convert_all([conversion], device):
        if not isinstance(event, StreamEnd):
            parts.append(event.samples)
        elif event.error is not None:
            raise event.error
    return np.concatenate(parts)


def _extent_of(options: ConversionOptions, edge_frames: int) -> Callable[[int], Extent]:
    return partial(streaming_extent, edge_frames=edge_frames) if options.compat == "menura" else compat_extent


def _decision(options: ConversionOptions, extent: Extent, models: VoiceModels) -> Decision:
    voice = models.synthesizer
    decision = decide(options, extent.frames, voice.config, machine_of(voice.device))
    if decision.refusal is not None:
        raise ResourceError(None, decision.refusal.problem, decision.refusal.advice)
    return decision


def _plan(
    options: ConversionOptions, decision: Decision, extent: Extent, output_samples: int, *, global_windows: bool
) -> StreamPlan:
    whole = decision.strategy == "whole"
    return StreamPlan(
        extent=extent,
        output_samples=output_samples,
        whole_synthesis=whole,
        whole_content=whole and not global_windows,
        whole_f0=options.compat != "menura",
        reach_frames=decision.reach_frames,
        index_rate=options.index_rate,
        protect=options.protect,
        speaker_id=options.speaker_id,
        seed=options.seed,
        noise_scale=options.noise_scale,
    )


def _f0_policy(request: Request, extent: Extent) -> F0Policy:
    fill = request.options.compat == "rvc"
    if request.transpose == "auto":
        policy = F0Policy(fill=fill, target_hz=request.target_hz)
    else:
        policy = F0Policy(fill=fill, semitones=request.transpose)
    return policy if request.f0_hz is None else given_f0(request.f0_hz, extent, policy)


def _envelope(facts: RecordingFacts, length: int, rate: int, mix_rate: float) -> EnvelopeMatcher | None:
    if mix_rate == 1.0:
        return None
    return EnvelopeMatcher(facts.source_rms, length, rate, mix_rate)


def _output_rate(voice_rate: int, options: ConversionOptions, format: str | None) -> tuple[int, tuple[str, ...]]:
    wanted = options.sample_rate or voice_rate
    rate = wanted if format is None else codec_rate(format, wanted)
    notes = () if rate == wanted else (f"{format} has no {wanted} Hz; written at {rate} Hz.",)
    return rate, notes


def _output_length(facts: RecordingFacts, rate: int, format: str | None) -> tuple[int, tuple[str, ...]]:
    length = rescaled_length(facts.length_samples, facts.sample_rate, rate)
    if format is None or length >= least_samples(format):
        return length, ()
    return least_samples(format), (f"{format} can't hold less than one sample; one was written.",)
