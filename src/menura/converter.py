"""The engine as one object: load, convert, stream, convert many."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast, overload

import numpy as np
import numpy.typing as npt

from menura.audio.decode import spooled_input
from menura.errors import DecodeError, DeviceError, EncodeError, MenuraError, details_of
from menura.loading import Request, resolve
from menura.loading.loader import Loader
from menura.loading.request import Asked
from menura.options import ConversionOptions, EngineOptions
from menura.pipeline.conversion import explain
from menura.pipeline.engine import Engine, Failed, run_batch
from menura.pipeline.output import FileSink, MemorySink, Sink, final_gain
from menura.pipeline.recording import ArrayRecording, FileRecording, Recording
from menura.pipeline.windows import machine_of
from menura.system.device import configure_torch, in_half, peak_memory_mb, resolve_device
from menura.system.files import temporary_folder
from menura.types import (
    AudioBlock,
    ConverterStats,
    Explanation,
    FileResult,
    FloatArray,
    Progress,
    RunReport,
    failed_result,
)
from menura.voices.assets import home_folder

FilePath: TypeAlias = "str | os.PathLike[str]"
Source: TypeAlias = "FilePath | BinaryIO | tuple[npt.ArrayLike, int] | Recording"
"""A file, an open binary file, (samples, sample rate), or anything that can be read twice."""

_log = logging.getLogger("menura")


class Converter(contextlib.AbstractContextManager["Converter"]):
    """Converts recordings; networks stay loaded between calls.

    Calls from several threads are safe, and share the loaded networks.

    Example:
        >>> with Converter() as converter:                                         # doctest: +SKIP
        ...     converter.convert("talk.wav", "talk-wren.wav")                     # doctest: +SKIP
    """

    def __init__(self, engine: EngineOptions | None = None) -> None:
        """Choose device and threads. Raises OptionError where there is no such device, or it lacks what is asked."""
        engine = engine or EngineOptions()
        configure_torch(engine.threads, cudnn=engine.cudnn, exact=engine.precision == "exact")
        self.device = resolve_device(engine.device)
        self._home, self._precision = home_folder(engine.home), engine.precision
        self.networks = Loader(
            home=self._home, device=self.device, compile=engine.compile, half=in_half(engine.precision, self.device)
        )
        """What it has loaded, for an Engine of one's own."""
        _log.debug("device %s, data folder %s", self.device, self._home)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the memory of all networks; a later call loads them again."""
        self.networks.pool.clear()

    def stats(self) -> ConverterStats:
        """What was loaded so far, and the memory that it takes."""
        pool = self.networks.pool
        return ConverterStats(
            model_loads=pool.loads(), resident_bytes=pool.resident_bytes, peak_memory_mb=peak_memory_mb()
        )

    def resolve(self, options: Asked | None = None) -> Request:
        """Look up all that options name; every method takes the result in their place. Raises MenuraError."""
        request = options if isinstance(options, Request) else resolve(options or ConversionOptions(), self._home)
        return dataclasses.replace(request, precision=self._precision)

    def preload(self, options: Asked | None = None) -> None:
        """Load what a request needs ahead of it. Raises MenuraError."""
        self.networks.load(self.resolve(options))

    @overload
    def convert(
        self,
        source: Source,
        output: None = None,
        options: Asked | None = None,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> tuple[FloatArray, int]: ...

    @overload
    def convert(
        self,
        source: Source,
        output: FilePath | BinaryIO,
        options: Asked | None = None,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> FileResult: ...

    def convert(
        self,
        source: Source,
        output: FilePath | BinaryIO | None = None,
        options: Asked | None = None,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> FileResult | tuple[FloatArray, int]:
        """Convert one recording.

        Args:
            source: a file's path, an open binary file, (samples, sample rate) with samples (samples,) or
                (samples, channels), or an object with `name` and `open` as in `menura.pipeline.recording.Recording`.
            output: a file's path, whose ending gives the format unless `options.format` does; an open binary file,
                wav unless `options.format` says otherwise; or None for samples.
            options: what is asked for.
            on_progress: called after every block.
            cancel: ends the conversion once it is set.

        Returns:
            What was written, or (samples,) float32, (samples, channels) if channels are kept, and their rate in Hz.

        Raises:
            CancelledError: `cancel` was set.
            MenuraError: nothing was written; the message says what to do.
        """
        request = self.resolve(options)
        with contextlib.ExitStack() as stack:
            recording = stack.enter_context(_opened(source))
            sink = _sink(output, recording, request.options, stack)
            sink.check()
            self.networks.load(request)
            one = [(recording, sink)]
            (end,) = run_batch(
                self.networks, one, request, on_progress=on_progress, on_result=_log_result, cancel=cancel
            )
            if isinstance(end, Failed):
                raise end.error
            if isinstance(sink, MemorySink):
                samples = sink.joined()
                peak = float(np.max(np.abs(samples), initial=0.0))
                gain, _ = final_gain(request.options, peak, [samples], sink.sample_rate, sink.match)
                samples *= np.float32(gain)
                return samples, sink.sample_rate
            if output is None or isinstance(output, (str, os.PathLike)):
                return end.result
            with cast("Path", sink.path).open("rb") as converted:
                shutil.copyfileobj(converted, output, 1 << 20)
            return dataclasses.replace(end.result, output=None)

    def convert_files(
        self,
        items: Sequence[tuple[FilePath, FilePath]],
        options: Asked | None = None,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        on_result: Callable[[int, FileResult], None] | None = None,
        cancel: threading.Event | None = None,
        divided: bool = True,
    ) -> RunReport:
        """Convert many files; one that fails stops nothing.

        Reading and writing go on beside computing, and short recordings of equal length share forward passes. What
        becomes of a file doesn't depend on the others.

        `items` are (input, output) pairs. `on_progress` is called after every block with what is done, `on_result` with
        an item's place and result as soon as its file is complete, from any thread but not twice at once; what it
        raises is raised. Setting `cancel` ends the conversions: those that aren't complete fail.
        `divided=False` keeps no parts of long recordings: where files are temporary, no later call would find them.

        Raises DeviceError where a GPU does nothing more for this process; files that are complete stay.
        """

        def ended(number: int, result: FileResult) -> None:
            _log_result(number, result)
            if on_result is not None:
                on_result(number, result)

        pairs = [(Path(source), Path(output)) for source, output in items]
        start = time.perf_counter()
        try:
            request = self.resolve(options)
            self.preload(request)
        except DeviceError:
            raise
        except (MenuraError, OSError) as error:  # of the request, so of every recording
            files = [failed_result(source, details_of(error)) for source, _ in pairs]
        else:
            keep = frozenset(_identities(source for source, _ in pairs))
            batch = [
                (
                    FileRecording(source),
                    FileSink(output, request.options, source=source, keep=keep, divided=divided),
                )
                for source, output in pairs
            ]
            ends = run_batch(self.networks, batch, request, on_progress=on_progress, on_result=ended, cancel=cancel)
            files = [end.result for end in ends]
        wall_s, stats = time.perf_counter() - start, self.stats()
        return RunReport(
            files=tuple(files), wall_s=wall_s, peak_memory_mb=stats.peak_memory_mb, model_loads=stats.model_loads
        )

    def stream(
        self, source: Source, options: Asked | None = None, *, cancel: threading.Event | None = None
    ) -> Iterator[AudioBlock]:
        """Convert block by block, as the sound becomes final.

        The blocks are contiguous, and as long as the recording together. Their peak and loudness are known only at the
        end, so they are not scaled down to 0.99 as by `convert`, whose arguments these are, and are as loud as the
        voice makes them.

        Raises:
            MenuraError: at once where the request can't be carried out, else while iterating.
        """
        request = self.resolve(options).streamed()
        self.networks.load(request)
        return self._blocks(source, request, cancel)

    def explain(self, source: Source, options: Asked | None = None) -> Explanation:
        """Say what would be done with a recording on this device, and why. Raises MenuraError."""
        request = self.resolve(options)
        with _opened(source) as recording:
            return explain(recording, request, machine_of(self.device))

    def _blocks(self, source: Source, request: Request, cancel: threading.Event | None) -> Iterator[AudioBlock]:
        sink = MemorySink()
        with _opened(source) as recording, Engine(self.networks) as engine:
            engine.submit(recording, request, sink, cancel=cancel)
            while not engine.idle:
                for event in engine.step():
                    if isinstance(event, Failed):
                        raise event.error
                yield from sink.take()


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[Recording]:
    """A source as a Recording."""
    if isinstance(source, (str, os.PathLike)):
        yield FileRecording(Path(source))
    elif isinstance(source, tuple):
        yield ArrayRecording(*source)
    elif hasattr(source, "read"):
        with spooled_input(cast("BinaryIO", source)) as path:
            try:
                yield FileRecording(path, label="<stream>")
            except MenuraError as error:
                raise error.about({str(path): "<stream>"}) from None
    elif hasattr(source, "open"):
        yield source
    else:
        what = type(source).__name__
        raise DecodeError(None, f"a {what} is not a recording", "Give a path, a file or (samples, rate)")


def _sink(
    output: FilePath | BinaryIO | None, recording: Recording, options: ConversionOptions, stack: contextlib.ExitStack
) -> Sink:
    """Where `convert` puts its sound: for an open file first into a temporary one."""
    if output is None:
        return MemorySink()
    file = recording.path if isinstance(recording, FileRecording) else None
    if isinstance(output, (str, os.PathLike)):
        return FileSink(Path(output), options, source=file, keep=frozenset(_identities([file] if file else [])))
    if not hasattr(output, "write"):
        raise EncodeError(None, f"a {type(output).__name__} is not an output", "Give a path or a file")
    copy = stack.enter_context(temporary_folder()) / f"output.{options.format or 'wav'}"
    return FileSink(copy, options, source=file, divided=False)


def _identities(paths: Iterable[Path]) -> Iterator[tuple[int, int]]:
    """Of files on disk, links followed: they are inputs, so that no output may replace them."""
    for path in paths:
        with contextlib.suppress(OSError, ValueError):  # the recording's own reader says what is wrong with the name
            status = path.stat()
            yield status.st_dev, status.st_ino


def _log_result(_number: int, result: FileResult) -> None:
    if result.error is not None:
        _log.info("%s: %s", result.state.value, result.error)
    if result.output_rate:
        _log.info("%s: %.2f s converted in %.2f s", result.input, result.audio_s, result.wall_s)
        _log.debug("%s: %s", result.input, result.stages)
