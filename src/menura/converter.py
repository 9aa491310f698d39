"""The engine as one object: load, convert, stream, convert many."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import numpy as np

from menura.audio.encode import format_of
from menura.errors import MenuraError, details_of
from menura.loading import Request, resolve
from menura.loading.loader import Loader
from menura.loading.request import Asked
from menura.options import ConversionOptions, EngineOptions
from menura.pipeline.batch import BatchItem, BatchRequest, Outcome, run_batch
from menura.pipeline.budget import frame_budget
from menura.pipeline.clock import StageClock
from menura.pipeline.conversion import Conversion, begin, collect, convert_all, explain
from menura.pipeline.output import output_gain
from menura.pipeline.recording import ArrayRecording, FileRecording, Recording
from menura.pipeline.strategy import machine_of
from menura.system.device import configure_torch, peak_memory_mb, resolve_device
from menura.types import AudioBlock, Explanation, FileResult, Progress, RunReport, State
from menura.voices.assets import home_folder

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
        configure_torch(engine.threads, cudnn=engine.cudnn)
        self._home = home_folder(engine.home)
        self._loader = Loader(home=self._home, device=self.device)

    def resolve(self, options: Asked | None = None) -> Request:
        """Look up all that options name; every method takes the result in their place. Raises MenuraError."""
        return options if isinstance(options, Request) else resolve(options or ConversionOptions(), self._home)

    def preload(self, options: Asked | None = None) -> None:
        """Load what a request needs ahead of it. Raises MenuraError."""
        self._loader.load(self.resolve(options))

    def convert(self, source: Path | str, output: Path | str, options: Asked | None = None) -> FileResult:
        """Convert one file.

        Args:
            source: an audio file.
            output: where to write; its ending gives the format unless `options.format` does.
            options: what is asked for.

        Raises:
            MenuraError: nothing was written; the message says what to do.
        """
        (outcome,) = self._run([(Path(source), Path(output))], self.resolve(options), None, None)
        if outcome.error is not None:
            raise outcome.error
        return outcome.result

    def convert_files(
        self,
        items: Sequence[tuple[Path, Path]],
        options: Asked | None = None,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        on_result: Callable[[int, FileResult], None] | None = None,
    ) -> RunReport:
        """Convert many files; one that fails stops nothing.

        Reading and writing go on beside computing, and short recordings of equal length share forward passes. What
        becomes of a file doesn't depend on the others.

        Args:
            items: (input, output) pairs.
            options: what is asked for, the same for all.
            on_progress: called after every block with what is done.
            on_result: called with an item's place and result as soon as its file is complete, from any thread but not
                twice at once. What it raises is raised.
        """
        start = time.perf_counter()
        try:
            request = self.resolve(options)
            self.preload(request)
        except (MenuraError, OSError) as error:  # of the request, so of every recording
            files = [_failed(source, error) for source, _ in items]
        else:
            files = [outcome.result for outcome in self._run(items, request, on_progress, on_result)]
        return RunReport(
            files=tuple(files),
            wall_s=time.perf_counter() - start,
            peak_memory_mb=peak_memory_mb(),
            model_loads=self._loader.pool.loads(),
        )

    def explain(self, source: Path | str, options: Asked | None = None) -> Explanation:
        """Say what would be done with a recording on this device, and why, without converting it.

        Raises:
            MenuraError: the voice or the recording can't be read.
        """
        return explain(FileRecording(Path(source)), self.resolve(options), machine_of(self.device))

    def stream(self, source: Path | str, options: Asked | None = None) -> Iterator[AudioBlock]:
        """Convert block by block, as the sound becomes final.

        The output's peak is known only at the end, so blocks are not scaled down to 0.99 as `convert` does.

        Yields:
            Contiguous blocks of exactly the recording's duration.

        Raises:
            MenuraError: while iterating.
        """
        conversion = self._begin(FileRecording(Path(source)), self.resolve(options))
        yield from self._blocks(conversion)

    def array(self, samples: FloatArray, sample_rate: int, options: Asked | None = None) -> tuple[FloatArray, int]:
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
        conversion = self._begin(ArrayRecording(samples, sample_rate), self.resolve(options))
        sound = collect(conversion, self.device)
        return sound * np.float32(output_gain(float(np.max(np.abs(sound), initial=0.0)))), conversion.output_rate

    def _run(
        self,
        pairs: Sequence[tuple[Path, Path]],
        request: Request,
        on_progress: Callable[[Progress], None] | None,
        on_result: Callable[[int, FileResult], None] | None,
    ) -> list[Outcome]:
        models, options = self._loader.load(request), request.options

        def prepare(item: BatchItem, stop: Event) -> Conversion:
            return begin(
                FileRecording(item.source, stop),
                request,
                models,
                clock=StageClock(),
                stream_id=item.number,
                format=item.format,
            )

        items = [
            BatchItem(number=number, source=source, output=output, format=options.format or format_of(output) or "wav")
            for number, (source, output) in enumerate(pairs)
        ]
        batch = BatchRequest(
            prepare=prepare,
            f0_method=request.f0_method,
            on_progress=on_progress or (lambda _: None),
            on_result=on_result or (lambda _number, _result: None),
        )
        return run_batch(items, batch, device=self.device, frame_budget=frame_budget(self.device))

    def _begin(self, recording: Recording, request: Request) -> Conversion:
        return begin(recording, request, self._loader.load(request), clock=StageClock())

    def _blocks(self, conversion: Conversion) -> Iterator[AudioBlock]:
        for event in convert_all([conversion], self.device):
            if isinstance(event, AudioBlock):
                yield event
            elif event.error is not None:
                raise event.error


def _failed(source: Path, error: Exception) -> FileResult:
    return FileResult(input=str(source), output=None, state=State.FAILED, error=details_of(error))
