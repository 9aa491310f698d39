"""What earlier runs finished in an output folder: one line of JSON for each output, appended when it is complete.

An output counts as done only if it is the file that was written then (size and time of change), made from the input as
it is now (path, size and time of change), for the same request (options, voice, index and networks). Lines that can't
be read, such as one cut off when the process was killed, count for nothing. Loads no torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from menura.audio.remote import RemoteNotes, facts_of
from menura.errors import EncodeError, ErrorDetails
from menura.types import FileResult, StageTimes, State, Url

if TYPE_CHECKING:
    from types import TracebackType

    from menura.types import Place

JOURNAL_NAME = ".menura-journal.jsonl"
REMOTE_JOURNAL_NAME = ".menura-journal"
_FORMAT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStamp:
    """A file as it is now."""

    path: str
    size_bytes: int
    modified_ns: int

    @classmethod
    def of(cls, place: Place, *, fresh: bool = False) -> FileStamp | None:
        """The stamp of a file, None if there is none; `fresh` asks a remote store anew."""
        if isinstance(place, Url):
            found = facts_of(place, fresh=fresh)
            return found and cls(path=str(place), size_bytes=found[0], modified_ns=found[1])
        try:
            facts = place.stat()
            return cls(path=_key(place), size_bytes=facts.st_size, modified_ns=facts.st_mtime_ns)
        except OSError:
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    source: FileStamp
    made: FileStamp
    request: str
    result: FileResult


class Journal:
    """An output folder's journal, held open during a run; use it as a context manager.

    Several runs may share a folder. The first one there removes what killed runs left half-written. In a folder that is
    a URL each line is a file of its own, because most such stores can't append; there what is half-written stays.

    Args:
        folder: the output folder; made if it isn't there.
        outputs: what this run will write.

    Raises:
        EncodeError: on entering, where the folder can't be written.
    """

    def __init__(self, folder: Place, outputs: Iterable[Place]) -> None:
        self._lines: _LineFile | _LineNotes
        if isinstance(folder, Url):
            self._lines = _LineNotes(folder / REMOTE_JOURNAL_NAME)
        else:
            self._lines = _LineFile(folder / JOURNAL_NAME, [path for path in outputs if isinstance(path, Path)])
        self._entries: dict[str, _Entry] = {}
        self._writing = threading.Lock()

    def __enter__(self) -> Journal:
        """Read what is there."""
        for line in self._lines.open():
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                entry = _entry(json.loads(line))
                self._entries[entry.made.path] = entry
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of the folder."""
        self._lines.close()

    def finished(self, source: FileStamp | None, output: Place, request: str) -> FileResult | None:
        """The result of an earlier run, if its output still stands for this input and request."""
        entry = self._entries.get(_key(output))
        if source is None or entry is None or (entry.source, entry.request) != (source, request):
            return None
        if entry.made != FileStamp.of(output):
            return None
        return dataclasses.replace(entry.result, output=output, resumed=True)

    def record(self, source: FileStamp | None, result: FileResult, request: str) -> None:
        """Write down that an output is complete. What failed is not written down: it will be tried again.

        Args:
            source: the input as it was before it was read.
            result: what became of it.
            request: identity of what was asked for.

        Raises:
            EncodeError: the journal can't be written.
        """
        made = None if result.output is None else FileStamp.of(result.output, fresh=True)
        if source is None or made is None:
            return
        line = _line(_Entry(source=source, made=made, request=request, result=result))
        with self._writing:
            self._lines.append(made.path, line)


class _LineFile:
    """Lines of one local file."""

    def __init__(self, path: Path, outputs: list[Path]) -> None:
        self._path, self._outputs = path, outputs
        self._file: IO[bytes] | None = None

    def open(self) -> list[bytes]:
        """The lines that are there."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a+b")
            _lock(self._file, self._sweep)
            self._file.seek(0)
            lines = self._file.read().splitlines(keepends=True)
            if lines and not lines[-1].endswith(b"\n"):  # the last writer was killed: what follows is a line of its own
                self._file.write(b"\n")
        except OSError as error:
            raise _unwritable(self._path, error) from error
        return lines

    def append(self, _path: str, line: bytes) -> None:
        """Add a line."""
        if self._file is None:
            return
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()

    def _sweep(self) -> None:
        from menura.system.files import remove_unfinished

        remove_unfinished(self._outputs)


class _LineNotes:
    """Lines in files of a remote folder, named after what was made."""

    def __init__(self, folder: Url) -> None:
        self._notes = RemoteNotes(folder)

    def open(self) -> list[bytes]:
        """The lines that are there."""
        return self._notes.read()

    def append(self, path: str, line: bytes) -> None:
        """Write the line about an output in place of an earlier one."""
        self._notes.write(hashlib.sha256(path.encode()).hexdigest()[:32], line)

    def close(self) -> None:
        """Nothing is held open."""


def _key(place: Place) -> str:
    """What a stamp of it calls it."""
    return str(place) if isinstance(place, Url) else str(place.resolve())


def _line(entry: _Entry) -> bytes:
    result = dataclasses.asdict(entry.result)
    del result["output"], result["resumed"]
    fields = {
        "menura_journal": _FORMAT,
        "source": dataclasses.asdict(entry.source),
        "made": dataclasses.asdict(entry.made),
        "request": entry.request,
        "result": {**result, "state": entry.result.state.value},
    }
    return json.dumps(fields).encode() + b"\n"


def _entry(fields: dict[str, Any]) -> _Entry:
    if fields["menura_journal"] != _FORMAT:
        raise ValueError("another format")
    given: dict[str, Any] = dict(fields["result"])
    given |= {name: tuple(given[name]) for name in ("notes", "seams_s")}
    given |= {"state": State(given["state"]), "stages": StageTimes(**given["stages"])}
    given |= {"error": given["error"] and ErrorDetails(**given["error"])}
    return _Entry(
        source=FileStamp(**fields["source"]),
        made=FileStamp(**fields["made"]),
        request=fields["request"],
        result=FileResult(**given, output=None),
    )


def _lock(file: IO[bytes], sweep: Any) -> None:
    """Share the folder with other runs; `sweep` first if there are none."""
    try:
        import fcntl
    except ImportError:  # Windows: files that are open can't be deleted there anyway
        sweep()
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    except OSError:
        return  # a file system without locks: better to leave a stray file than to delete another run's
    else:
        sweep()
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_SH)


def _unwritable(path: Path, error: OSError) -> EncodeError:
    reason = error.strerror or os.strerror(error.errno or 0)
    return EncodeError(path, f"can't be written: {reason}", "Choose a writable output folder")
