"""What earlier runs finished in an output folder: one line of JSON for each output, appended when it is complete.

An output counts as done only if it is the file that was written then (size and time of change), made from the input as
it is now (path, size and time of change), for the same request. Lines that can't be read, such as one cut off when the
process was killed, count for nothing. Loads no torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import threading
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from menura.audio.places import FileStamp, read_notes, write_note
from menura.errors import EncodeError
from menura.jobs.document import from_document, to_document
from menura.system.files import append_whole, writing
from menura.types import FileResult, Place, Url

JOURNAL_NAME = ".menura-journal.jsonl"
_REMOTE_NAME = ".menura-journal"
_FORMAT = 3


class Journal:
    """An output folder's journal, which is made if it isn't there. Several runs may share it, and threads.

    In a folder that is a URL each line is a file of its own, because most such stores can't append.

    Raises:
        EncodeError: the folder can't be written.
    """

    def __init__(self, folder: Place) -> None:
        self._folder = folder
        self._entries: dict[str, dict[str, Any]] = {}
        self._shifts: dict[str, tuple[float, ...]] = {}
        self._writing = threading.Lock()
        for line in _read(folder):
            with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                entry = json.loads(line)
                if entry["menura_journal"] == _FORMAT and "shifts" in entry:
                    self._shifts[entry["request"]] = tuple(map(float, entry["shifts"]))
                elif entry["menura_journal"] == _FORMAT:
                    self._entries[entry["output"]["path"]] = entry

    def finished(self, source: FileStamp | None, output: Place, request: str) -> FileResult | None:
        """The result of an earlier run, if its output still stands for this input and request."""
        entry = self._entries.get(str(output.resolve()))
        if entry is None or source is None:
            return None
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            ours = (entry["source"], entry["request"]) == (asdict(source), request)
            stamp = FileStamp.of(output) if ours else None
            if stamp is not None and entry["output"] == asdict(stamp):
                return dataclasses.replace(from_document(entry["result"]), output=output, resumed=True)
        return None

    def record(self, source: FileStamp | None, result: FileResult, request: str) -> None:
        """Write down that an output is complete, made of `source` as it was before it was read. Raises EncodeError.

        What failed is not written down: it will be tried again.
        """
        output = None if result.output is None else FileStamp.of(result.output, fresh=True)
        if source is None or output is None:
            return
        stamps = {"source": asdict(source), "output": asdict(output)}
        self._write(output.path, {**stamps, "request": request, "result": to_document(result)})

    def shifts(self, request: str) -> tuple[float, ...] | None:
        """The shifts of pitch by which an earlier run moved what belongs together, for this request."""
        return self._shifts.get(request)

    def keep_shifts(self, request: str, shifts: tuple[float, ...]) -> None:
        """Have later runs move recordings as this one does. Raises EncodeError."""
        self._write(f"shifts of {request}", {"request": request, "shifts": shifts})

    def _write(self, about: str, fields: dict[str, Any]) -> None:
        """A line, in place of an earlier one about the same."""
        line = json.dumps({"menura_journal": _FORMAT, **fields}).encode() + b"\n"
        with self._writing:
            if isinstance(self._folder, Url):
                name = hashlib.sha256(about.encode(errors="surrogateescape")).hexdigest()[:32]
                write_note(self._folder / _REMOTE_NAME, name, line)
            else:
                append_whole(self._folder / JOURNAL_NAME, line, EncodeError)


def _read(folder: Place) -> Iterable[bytes]:
    """All lines; makes the folder."""
    if isinstance(folder, Url):
        return read_notes(folder / _REMOTE_NAME)
    path = folder / JOURNAL_NAME
    with writing(path, EncodeError):
        folder.mkdir(parents=True, exist_ok=True)
        path.touch()
        if not path.is_file():
            raise OSError(errno.EINVAL, "not a regular file")
        lines = path.read_bytes().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):  # the last writer was killed: what follows is a line of its own
            append_whole(path, b"\n", EncodeError)
    return lines
