"""The engine as one object: load, convert, stream, convert many."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from menura.audio.encode import AudioWriter, format_of
from menura.audio.spool import SampleSpool
from menura.checkpoints.assets import home_folder
from menura.device import configure_threads, peak_memory_mb, resolve_device
from menura.errors import EncodeError, MenuraError
from menura.f0.file import read_f0_file
from menura.options import ConversionOptions, EngineOptions
from menura.pipeline.clock import StageClock
from menura.pipeline.conversion import Conversion, begin, collect, convert_all
from menura.pipeline.output import PEAK_LIMIT_OUT
from menura.pipeline.recording import ArrayRecording, FileRecording, Recording
from menura.pipeline.residency import ModelPool
from menura.pipeline.resolve import ResolvedVoice, Resolver
from menura.types import AudioBlock, FileResult, Progress, RunReport, State

if TYPE_CHECKING:
    from menura.types import FloatArray


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
        _, conversion = self._begin(FileRecording(Path(source)), options or ConversionOptions(), None)
        yield from self._blocks(conversion)

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
        _, conversion = self._begin(ArrayRecording(samples, sample_rate), options or ConversionOptions(), None)
        sound = collect(conversion, self.device)
        return sound * np.float32(_output_gain(float(np.max(np.abs(sound), initial=0.0)))), conversion.output_rate

    def _convert_file(
        self, source: Path, output: Path, options: ConversionOptions, report: Callable[[float], None]
    ) -> FileResult:
        start = time.perf_counter()
        format = options.format or format_of(output) or "wav"
        voice, conversion = self._begin(FileRecording(source), options, format)
        count = self._write(conversion, output, format, report)
        facts = conversion.facts
        return FileResult(
            input=str(source),
            output=output,
            state=State.WARNING if facts.warning else State.DONE,
            error=facts.warning,
            notes=conversion.notes + _pitch_note(options, conversion.stream.semitones),
            audio_s=facts.audio_s,
            output_samples=count,
            output_rate=conversion.output_rate,
            f0_method=voice.f0_method,
            transpose=conversion.stream.semitones,
            wall_s=time.perf_counter() - start,
            stages=conversion.clock.times(),
            seams_s=tuple(conversion.stream.seams_s),
        )

    def _write(self, conversion: Conversion, output: Path, format: str, report: Callable[[float], None]) -> int:
        """Collect on disk, then write with the peak limited: samples written."""
        clock, rate, count = conversion.clock, conversion.output_rate, 0
        _make_folder(output.parent)
        with SampleSpool(output.parent) as spool:
            for block in self._blocks(conversion):
                with clock.measure("encode"):
                    spool.append(block.samples)
                count += len(block.samples)
                report(count / rate)
            with clock.measure("encode"), AudioWriter(output, rate, format, expected_samples=count) as writer:
                for samples in spool.blocks(rate, _output_gain(spool.peak)):
                    writer.write(samples)
        return count

    def _begin(
        self, recording: Recording, options: ConversionOptions, format: str | None
    ) -> tuple[ResolvedVoice, Conversion]:
        voice = self._resolver.resolve(options)
        given = None if options.f0_file is None else read_f0_file(options.f0_file)
        conversion = begin(recording, voice.models, options, clock=StageClock(), format=format, given_f0_hz=given)
        return voice, conversion

    def _blocks(self, conversion: Conversion) -> Iterator[AudioBlock]:
        for event in convert_all([conversion], self.device):
            if isinstance(event, AudioBlock):
                yield event
            elif event.error is not None:
                raise event.error


def _reporter(
    on_progress: Callable[[Progress], None] | None, name: str, files_done: int, files: int, done_s: float
) -> Callable[[float], None]:
    def report(seconds: float) -> None:
        if on_progress is not None:
            on_progress(Progress(file=name, files_done=files_done, files=files, audio_done_s=done_s + seconds))

    return report


def _pitch_note(options: ConversionOptions, semitones: float | None) -> tuple[str, ...]:
    if options.transpose != "auto" or semitones is None:
        return ()
    return (f"Pitch was moved by {semitones:+g} semitones to the voice's.",)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EncodeError(f"{folder}: can't be made ({error.strerror}). Choose another output folder.") from error


def _output_gain(peak: float) -> float:
    return PEAK_LIMIT_OUT / peak if peak > PEAK_LIMIT_OUT else 1.0


def _one_line(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "Not enough memory. Close other programs, or use --strategy stream."
    return " ".join(str(error).split()) or type(error).__name__
