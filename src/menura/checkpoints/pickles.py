"""Reads torch files without running anything in them; writes them, and says why where it can't.

A .pth file is a pickle, and a pickle can call any function. Before torch sees the file, every function it names is
compared with the few that tensors need; then torch reads it in its weights-only mode.
"""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import re
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import torch

from menura.errors import CheckpointError, UnsafeCheckpointError

MAX_FILE_BYTES = 4 * 2**30
"""Larger than any voice or content encoder."""
MAX_ZIP_ENTRIES = 20_000
MAX_PICKLE_BYTES = 64 * 2**20
MAX_LEGACY_PICKLES = 5
"""Files of torch before 1.6: magic number, version, system, object, storage keys."""

_ZIP_NAME_LENGTH_AT = 26
"""Where a zip entry's own header has the lengths of its name and of what follows, two bytes each."""
_ALIGNMENT_BYTES = 64
"""Of the tensors in torch's files."""

_HARMLESS = re.compile(
    r"collections OrderedDict"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|parameter)"
    r"|torch (Size|\w*Storage|float16|float32|float64|bfloat16|int8|int16|int32|int64|uint8|bool)"
    r"|torch\.storage (Untyped|Typed)Storage"
    r"|torch\.nn\.parameter Parameter"
    r"|torch\.serialization _get_layout"
)
_READ_ERRORS = (
    pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError, AssertionError,
    OverflowError, OSError,
)  # fmt: skip


def load_tensors(path: Path, *, mapped: bool = False) -> object:
    """Read a torch file that holds only tensors and plain containers.

    Args:
        path: the file, in torch's zip form or the older one.
        mapped: leave tensors in the file, mapped into memory, where its form allows it (the zip form does). For files
            that nobody writes to and tensors that nobody changes.

    Returns:
        What was saved, on the CPU.

    Raises:
        CheckpointError: missing, empty, too large, cut off, or no torch file.
        UnsafeCheckpointError: it names functions or classes beyond those of tensors.
    """
    check_size(path)
    try:
        foreign = sorted(_foreign_names(path))
        if not foreign:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and _mappable(path))
    except (*_READ_ERRORS, struct.error, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: cut off, damaged, or no torch file. Fetch it again.") from error
    raise UnsafeCheckpointError(
        f"{path}: carries code ({', '.join(foreign[:3])}), which Menura never runs. "
        "Ask its author for a file with weights only."
    )


def _mappable(path: Path) -> bool:
    """Whether a file's tensors lie in it as they are in memory: not where somebody packed it anew, with compression."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for entry in archive.infolist():
            file.seek(entry.header_offset + _ZIP_NAME_LENGTH_AT)
            name_length, extra_length = struct.unpack("<HH", file.read(4))
            begin = entry.header_offset + _ZIP_NAME_LENGTH_AT + 4 + name_length + extra_length
            aligned = begin % _ALIGNMENT_BYTES == 0 or "/data/" not in entry.filename
            if entry.compress_type != zipfile.ZIP_STORED or not aligned:
                return False
    return True


def save_tensors(content: object, path: Path) -> None:
    """Write a torch file, down to the disk.

    Raises:
        OSError: it can't be written. torch itself would only say that it is not where it thought to be in the file.
    """
    with path.open("wb") as file:
        output = _Output(file)
        try:
            torch.save(content, cast("IO[bytes]", output))
        except RuntimeError as error:
            raise (output.error or error) from error
        file.flush()
        os.fsync(file.fileno())


class _Output:
    """A file that remembers why it could not be written: torch doesn't pass it on."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def check_size(path: Path) -> None:
    """Raise CheckpointError for a file that is missing, empty or far too large."""
    try:
        size = path.stat().st_size if path.is_file() else None
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror}).") from error
    if size is None:
        raise CheckpointError(f"{path}: no such file. Check the path.")
    if size == 0:
        raise CheckpointError(f"{path}: the file is empty. Fetch it again.")
    if size > MAX_FILE_BYTES:
        raise CheckpointError(f"{path}: {size / 2**30:.1f} GB is no voice (at most {MAX_FILE_BYTES // 2**30} GB).")


def _foreign_names(path: Path) -> set[str]:
    """Functions and classes that the file's pickles name beyond the harmless ones."""
    if zipfile.is_zipfile(path):
        names = _names_in_zip(path)
    else:
        with path.open("rb") as file:
            names = {name for _ in range(MAX_LEGACY_PICKLES) for name in _names_in_pickle(file)}
    return {name.replace(" ", ".") for name in names if not _HARMLESS.fullmatch(name)}


def _names_in_zip(path: Path) -> set[str]:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if len(entries) > MAX_ZIP_ENTRIES or sum(entry.file_size for entry in entries) > MAX_FILE_BYTES:
            raise CheckpointError(f"{path}: the archive holds too much for a voice.")
        names = {"TorchScript program" for entry in entries if "/code/" in entry.filename}
        for entry in entries:
            if entry.filename.endswith(".pkl"):
                if entry.file_size > MAX_PICKLE_BYTES:
                    raise CheckpointError(f"{path}: the archive holds too much for a voice.")
                names.update(_names_in_pickle(io.BytesIO(archive.read(entry))))
        return names


def _names_in_pickle(file: IO[bytes]) -> Iterator[str]:
    """'module name' of every global that one pickle refers to; stops quietly where the file is no pickle."""
    recent: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name in ("GLOBAL", "INST"):
                yield str(argument)
            elif opcode.name == "STACK_GLOBAL":
                yield " ".join(recent[-2:])
            elif opcode.name in ("EXT1", "EXT2", "EXT4"):
                yield f"extension {argument}"
            elif isinstance(argument, str):
                recent.append(argument)
    except (ValueError, IndexError, KeyError, OverflowError):
        return
