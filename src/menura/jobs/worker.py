"""One worker of a shared batch: converts file after file with networks that stay loaded, and tells how far it is.

It runs in a process of this machine or in an actor of a cluster; only what its messages travel through differs.
Loads no torch by itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from menura import __version__
from menura.audio.remote import fetched, publish
from menura.errors import MenuraError, details_of
from menura.loading.request import Asked, Request
from menura.options import EngineOptions
from menura.types import FileResult, Place, Progress, State, Url

if TYPE_CHECKING:
    from menura.converter import Converter


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A file to convert."""

    number: int
    """Its place in the batch."""
    source: Place
    output: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The worker's networks are loaded."""

    version: str
    host: str
    process: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The request can't be carried out."""

    error: MenuraError


@dataclass(frozen=True, slots=True, kw_only=True)
class Advanced:
    """So much of the file's sound is final."""

    audio_done_s: float
    audio_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What became of the file; the worker has nothing to do."""

    result: FileResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Farewell:
    """A worker's last words."""

    model_loads: Mapping[str, int]
    peak_memory_mb: float


Message = Ready | Refused | Advanced | Finished | Farewell


class Channel(Protocol):
    """The worker's end of what joins it to the scheduler."""

    def send(self, message: Message, /) -> None:
        """Tell the scheduler."""
        ...

    def recv(self) -> Task | None:
        """The next file; None when there is nothing more."""
        ...


def serve(channel: Channel, asked: Asked, engine: EngineOptions) -> None:
    """Convert what comes until there is nothing more.

    Args:
        channel: to the scheduler.
        asked: what is asked for, the same for all files; options are resolved on this machine.
        engine: what the process runs with.
    """
    try:
        from menura.converter import Converter

        converter = Converter(engine)
        request = converter.resolve(asked)
        converter.preload(request)
    except MenuraError as error:
        channel.send(Refused(error=error))
        return
    channel.send(Ready(version=__version__, host=platform.node(), process=os.getpid()))
    while (task := channel.recv()) is not None:
        result = _convert(converter, task, request, lambda progress: channel.send(_advanced(progress)))
        channel.send(Finished(result=result))
    last = converter.convert_files([], request)
    channel.send(Farewell(model_loads=last.model_loads, peak_memory_mb=last.peak_memory_mb))


def _convert(converter: Converter, task: Task, request: Request, on_progress: Callable[[Progress], None]) -> FileResult:
    """Convert a file; what is remote is fetched before and put there afterwards."""
    with contextlib.ExitStack() as stack:
        source, output = task.source, task.output
        try:
            local = stack.enter_context(fetched(source)) if isinstance(source, Url) else source
            if isinstance(output, Url):
                made = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="menura-"))) / output.name
            else:
                made = output
            (result,) = converter.convert_files([(local, made)], request, on_progress=on_progress).files
            if isinstance(output, Url) and result.output is not None:
                publish(made, output)
        except (MenuraError, OSError) as error:
            return FileResult(input=str(source), output=None, state=State.FAILED, error=details_of(error))
    told = result.error and result.error.about({str(local): str(source), str(made): str(output)})
    return dataclasses.replace(result, input=str(source), output=None if result.output is None else output, error=told)


def _advanced(progress: Progress) -> Advanced:
    return Advanced(audio_done_s=progress.audio_done_s, audio_s=progress.audio_s or 0.0)
