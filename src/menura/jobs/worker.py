"""One worker of a shared batch: converts file after file with networks that stay loaded. Loads no torch by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from menura import __version__
from menura.audio.remote import local_input, local_output
from menura.errors import MenuraError, details_of
from menura.loading.request import Asked
from menura.options import EngineOptions
from menura.types import ConverterStats, FileResult, Item, Progress, failed_result


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The worker's networks are loaded."""

    version: str = __version__
    host: str = ""
    process: int = 0


Message = Ready | MenuraError | Progress | FileResult | ConverterStats
"""Ready, or why the request can't be carried out; of a file its progress, then its result; at the end the counters."""


class Worker:
    """A converter of single files.

    Args:
        asked: the request, the same for all files; options are resolved on this machine.
        engine: what the process runs with.

    Raises:
        MenuraError: the request can't be carried out.
    """

    def __init__(self, asked: Asked, engine: EngineOptions) -> None:
        from menura.converter import Converter

        self._converter = Converter(engine)
        self._request = self._converter.resolve(asked)
        self._converter.preload(self._request)

    def convert(self, item: Item, on_progress: Callable[[Progress], None] | None = None) -> FileResult:
        """Convert a file; what is remote is fetched before, and put there afterwards."""
        try:
            with local_input(item.source) as source, local_output(item.output) as output:
                report = self._converter.convert_files([(source, output)], self._request, on_progress=on_progress)
        except (MenuraError, OSError) as error:  # of a remote file system
            return failed_result(item.source, details_of(error))
        return with_names(report.files[0], item, Item(source=source, output=output))

    def stats(self) -> ConverterStats:
        return self._converter.stats()


def with_names(result: FileResult, item: Item, local: Item) -> FileResult:
    """The result of an item's local copies, with the item's own names."""
    names = {str(local.source): str(item.source), str(local.output): str(item.output)}
    return dataclasses.replace(
        result,
        input=str(item.source),
        output=None if result.output is None else item.output,
        error=result.error and result.error.about(names),
    )
