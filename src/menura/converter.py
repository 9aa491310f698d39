"""The engine as one object: load, convert, stream, convert many."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from menura.audio.encode import AudioWriter, codec_rate, format_of
from menura.audio.envelope import EnvelopeMatcher
from menura.audio.spool import SampleSpool
from menura.checkpoints.assets import home_folder
from menura.device import configure_threads, peak_memory_mb, resolve_device
from menura.errors import MenuraError, OptionError
from menura.f0.file import read_f0_file
from menura.options import ConversionOptions, EngineOptions
from menura.pipeline.clock import StageClock
from menura.pipeline.engine import StreamEnd, run
from menura.pipeline.f0_policy import F0Policy, given_f0
from menura.pipeline.memory import check_whole
from menura.pipeline.output import PEAK_LIMIT_OUT, OutputChain
from menura.pipeline.plan import Extent, compat_extent, streaming_extent
from menura.pipeline.recording import ArrayRecording, FileRecording, Recording
from menura.pipeline.residency import ModelPool
from menura.pipeline.resolve import ResolvedVoice, Resolver
from menura.pipeline.stream import Stream, StreamPlan
from menura.pipeline.survey import RecordingFacts, survey
from menura.types import AudioBlock, FileResult, Progress, RunReport, State
from menura.units import ceil_div, rescaled_length

if TYPE_CHECKING:
    from menura.types import FloatArray

_SPARE_SAMPLES = 64
"""Made beyond the end at the voice's rate, so that a resampler's rounding never lacks one."""


@dataclass(slots=True)
class _Conversion:
    """One input under way."""

    stream: Stream
    chain: OutputChain
    facts: RecordingFacts
    voice: ResolvedVoice
    clock: StageClock
    output_rate: int
    notes: list[str]


class Converter:
    """Converts recordings; networks stay loaded between calls.

    Example:
        >>> converter = Converter()                                      # doctest: +SKIP
        >>> converter.convert("talk.wav", "talk-wren.wav")               # doctest: +SKIP
    """

    def __init__(self, engine: EngineOptions | None = None) -> None:
        """Choose device and threads.

        Args:
            engine: what the process runs with.

        Raises:
            OptionError: no such device here.
        """
        engine = engine or EngineOptions()
        self.device = resolve_device(engine.device)
        configure_threads(engine.threads, cudnn=engine.cudnn)
        self._pool = ModelPool()
        self._resolver = Resolver(home=home_folder(engine.home), device=self.device, pool=self._pool)

    def preload(self, options: ConversionOptions | None = None) -> None:
        """Load what a request needs ahead of it. Raises MenuraError."""
        self._resolver.resolve(options or ConversionOptions())

    def convert(self, source: Path | str, output: Path | str, options: ConversionOptions | None = None) -> FileResult:
        """Convert one file.

        Args:
            source: an audio file.
            output: where to write; its ending gives the format unless `options.format` does.
            options: what is asked for.

        Raises:
            MenuraError: nothing was written; the message says what to do.
        """
        return self._convert_file(Path(source), Path(output), options or ConversionOptions(), lambda _: None)

    def convert_files(
        self,
        items: Sequence[tuple[Path, Path]],
        options: ConversionOptions | None = None,
        *,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> RunReport:
        """Convert many files; one that fails stops nothing.

        Args:
            items: (input, output) pairs.
            options: what is asked for, the same for all.
            on_progress: called after every block with what is done.
        """
        options = options or ConversionOptions()
        start, done_s = time.perf_counter(), 0.0
        results: list[FileResult] = []
        for source, output in items:
            report = _reporter(on_progress, str(source), len(results), len(items), done_s)
            try:
                result = self._convert_file(source, output, options, report)
            except (MenuraError, OSError, MemoryError) as error:
                result = FileResult(input=str(source), output=None, state=State.FAILED, error=_one_line(error))
            done_s += result.audio_s
            results.append(result)
        return RunReport(
            files=tuple(results),
            wall_s=time.perf_counter() - start,
            peak_memory_mb=peak_memory_mb(),
            model_loads=self._pool.loads(),
        )

    def stream(self, source: Path | str, options: ConversionOptions | None = None) -> Iterator[AudioBlock]:
        """Convert block by block, as the sound becomes final.

        The output's peak is known only at the end, so blocks are not scaled down to 0.99 as `convert` does.

        Yields:
            Contiguous blocks of exactly the recording's duration.

        Raises:
            MenuraError: while iterating.
        """
        yield from self._blocks(self._begin(FileRecording(Path(source)), options or ConversionOptions(), None))

    def array(
        self, samples: FloatArray, sample_rate: int, options: ConversionOptions | None = None
    ) -> tuple[FloatArray, int]:
        """Convert samples in memory.

        Args:
            samples: (samples,) or (samples, channels) float32.
            sample_rate: in Hz.
            options: what is asked for.

        Returns:
            (samples,) float32 and its rate in Hz.

        Raises:
            MenuraError: with what to do.
        """
        conversion = self._begin(ArrayRecording(samples, sample_rate), options or ConversionOptions(), None)
        sound = np.concatenate([block.samples for block in self._blocks(conversion)])
        return sound * np.float32(_output_gain(float(np.max(np.abs(sound), initial=0.0)))), conversion.output_rate

    def _convert_file(
        self, source: Path, output: Path, options: ConversionOptions, report: Callable[[float], None]
    ) -> FileResult:
        start = time.perf_counter()
        format = _output_format(output, options)
        conversion = self._begin(FileRecording(source), options, format)
        clock, rate = conversion.clock, conversion.output_rate
        count = 0
        output.parent.mkdir(parents=True, exist_ok=True)
        with SampleSpool(output.parent) as spool:
            for block in self._blocks(conversion):
                with clock.measure("encode"):
                    spool.append(block.samples)
                count += len(block.samples)
                report(count / rate)
            with clock.measure("encode"), AudioWriter(output, rate, format) as writer:
                for samples in spool.blocks(rate, _output_gain(spool.peak)):
                    writer.write(samples)
        facts = conversion.facts
        return FileResult(
            input=str(source),
            output=output,
            state=State.WARNING if facts.warning else State.DONE,
            error=facts.warning,
            notes=tuple(conversion.notes),
            audio_s=facts.audio_s,
            output_samples=count,
            output_rate=rate,
            f0_method=conversion.voice.f0_method,
            wall_s=time.perf_counter() - start,
            stages=clock.times(),
            seams_s=tuple(conversion.stream.seams_s),
        )

    def _begin(self, recording: Recording, options: ConversionOptions, format: str | None) -> _Conversion:
        voice, clock = self._resolver.resolve(options), StageClock()
        notes: list[str] = []
        compat = options.compat != "menura"
        if compat and options.strategy == "stream":
            raise OptionError("strategy: a compatible mode works on whole recordings; leave out --strategy stream.")
        extent_of = compat_extent if compat else streaming_extent
        encoder, config = voice.models.encoder, voice.models.synthesizer.config
        with clock.measure("decode"):
            facts = survey(recording, None if compat else encoder.survey(), extent_of)
        output_rate = _output_rate(config.sample_rate, options, format, notes)
        length = rescaled_length(facts.length_samples, facts.sample_rate, output_rate)
        voice_length = ceil_div(length * config.sample_rate, output_rate) + _SPARE_SAMPLES
        if output_rate == config.sample_rate:
            voice_length = length
        extent = extent_of(facts.analysis_samples)
        plan = _plan(options, extent, voice_length, global_windows=encoder.global_windows)
        if plan.whole_synthesis:
            check_whole(extent, config)
        if facts.silent:
            notes.append("The recording is silent.")
        stream = Stream(
            stream_id=0,
            recording=recording,
            facts=facts,
            models=voice.models,
            plan=plan,
            f0_policy=_f0_policy(options, extent, has_f0=config.has_f0),
            clock=clock,
        )
        chain = OutputChain(
            stream_id=0,
            voice_rate=config.sample_rate,
            output_rate=output_rate,
            length=length,
            envelope=_envelope(facts, voice_length, config.sample_rate, options.rms_mix_rate),
        )
        return _Conversion(stream, chain, facts, voice, clock, output_rate, notes)

    def _blocks(self, conversion: _Conversion) -> Iterator[AudioBlock]:
        """Final blocks of one conversion."""
        for event in run([conversion.stream], self.device):
            if isinstance(event, StreamEnd):
                if event.error is not None:
                    raise event.error
                with conversion.clock.measure("assemble"):
                    block = conversion.chain.flush()
            else:
                with conversion.clock.measure("assemble"):
                    block = conversion.chain.push(event.samples)
            if len(block.samples):
                yield block


def _reporter(
    on_progress: Callable[[Progress], None] | None, name: str, files_done: int, files: int, done_s: float
) -> Callable[[float], None]:
    def report(seconds: float) -> None:
        if on_progress is not None:
            on_progress(Progress(file=name, files_done=files_done, files=files, audio_done_s=done_s + seconds))

    return report


def _plan(options: ConversionOptions, extent: Extent, output_samples: int, *, global_windows: bool) -> StreamPlan:
    compat = options.compat != "menura"
    whole = compat or options.strategy == "whole"
    return StreamPlan(
        extent=extent,
        output_samples=output_samples,
        whole_synthesis=whole,
        whole_content=whole and not global_windows,
        whole_f0=compat,
        index_rate=options.index_rate,
        protect=options.protect,
        speaker_id=options.speaker_id,
        seed=options.seed,
        noise_scale=options.noise_scale,
    )


def _f0_policy(options: ConversionOptions, extent: Extent, *, has_f0: bool) -> F0Policy:
    policy = F0Policy(semitones=options.transpose, fill=options.compat == "rvc")
    if options.f0_file is None or not has_f0:
        return policy
    return given_f0(read_f0_file(options.f0_file), extent, policy)


def _envelope(facts: RecordingFacts, length: int, rate: int, mix_rate: float) -> EnvelopeMatcher | None:
    if mix_rate == 1.0:
        return None
    return EnvelopeMatcher(facts.source_rms, length, rate, mix_rate)


def _output_format(output: Path, options: ConversionOptions) -> str:
    return options.format or format_of(output) or "wav"


def _output_rate(voice_rate: int, options: ConversionOptions, format: str | None, notes: list[str]) -> int:
    wanted = options.sample_rate or voice_rate
    rate = wanted if format is None else codec_rate(format, wanted)
    if rate != wanted:
        notes.append(f"{format} has no {wanted} Hz; written at {rate} Hz.")
    return rate


def _output_gain(peak: float) -> float:
    return PEAK_LIMIT_OUT / peak if peak > PEAK_LIMIT_OUT else 1.0


def _one_line(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "Not enough memory. Close other programs, or use --strategy stream."
    return " ".join(str(error).split()) or type(error).__name__
