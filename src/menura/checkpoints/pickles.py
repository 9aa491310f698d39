"""Reads files of weights without running anything in them; writes torch files, and says why where it can't.

A .pth file is a pickle, and a pickle can call any function. Before torch sees the file, every function it names is
compared with the few that tensors and plain values need; then torch reads it in its weights-only mode.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import pickletools
import re
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, ClassVar, Literal, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from menura.errors import CheckpointError, UnsafeCheckpointError
from menura.system.files import FETCH_AGAIN, stand_in
from menura.system.text import printable

MAX_FILE_BYTES = 4 * 2**30
"""Larger than any voice or content encoder."""
_MAX_ZIP_ENTRIES, _MAX_PICKLE_BYTES = 20_000, 64 * 2**20
_MAX_LEGACY_PICKLES = 5
"""Files of torch before 1.6: magic number, version, system, object, storage keys."""
_MAX_TUPLES = 50_000
"""Ten times what a voice's checkpoint has. Hashing a million, one in another, overflows the C stack."""

_ZIP_NAME_LENGTH_AT = 26
"""Where a zip entry's own header has the lengths of its name and of what follows, two bytes each."""
_ALIGNMENT_BYTES = 64
"""Of the tensors in torch's files."""

_OF_TENSORS = re.compile(
    r"collections OrderedDict"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|tensor_v3|parameter)"
    r"|torch (Size|device|\w*Storage|u?int\d+|float\d+|float8_\w+|bfloat16|complex\d+|bool)"
    r"|torch\.storage (Untyped|Typed)Storage"
    r"|torch\.nn\.parameter Parameter"
    r"|torch\.serialization _get_layout"
)
_OF_VALUES = re.compile(r"collections Counter|(__builtin__|builtins) (set|bytearray|complex)|_codecs encode")
_READ_ERRORS = (
    pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError, AssertionError,
    OverflowError, RecursionError, OSError, struct.error, zipfile.BadZipFile, zlib.error, SafetensorError,
)  # fmt: skip
"""What reading a damaged file of weights raises."""


def load_tensors(path: Path, *, mapped: bool = False, device: Literal["cpu", "meta"] = "cpu") -> object:
    """Read a torch file that holds only tensors and plain values; on 'meta' their shapes and types only.

    `mapped` leaves tensors in the file, mapped into memory, where its form allows it: for tensors that nobody changes.
    Raises UnsafeCheckpointError where it names other functions or classes, else as `reading`.
    """
    with reading(path, "torch"):
        foreign = sorted(_foreign_names(path))
        if not foreign:
            return torch.load(path, map_location=device, weights_only=True, mmap=mapped and _mappable(path))
    raise UnsafeCheckpointError(
        path,
        f"holds more than weights: {printable(', '.join(foreign[:3]))}",
        "Nothing in it was run. Ask its author for a file with weights only",
    )


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read named tensors, mapped into memory where possible: safetensors, or what `load_tensors` reads."""
    if path.suffix == ".safetensors":
        with reading(path, "safetensors"):
            return load_file(path)
    loaded = load_tensors(path, mapped=True)
    if not isinstance(loaded, dict) or not all(isinstance(t, Tensor) for t in loaded.values()):
        raise CheckpointError(path, "holds something other than named tensors", "Fetch it again")
    return loaded


def load_as_data(path: Path) -> object:
    """Read a torch file that holds objects beside its weights; a `Something` stands in place of each."""
    with reading(path, "torch"):
        _foreign_names(path)  # for its bounds
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_DATA)


class Something:
    """Stands for an object of a class that isn't loaded. Takes what a pickle gives it, and keeps its attributes."""

    fields: object = None

    def _take(self, *_: object, **__: object) -> None:
        pass

    __init__ = __setitem__ = append = extend = _take


class _DataUnpickler(pickle._Unpickler):
    """Python's own unpickler (not C's, whose `load_build` can't be replaced): only tensors' functions are real."""

    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)
    stack: list[object]

    def find_class(self, module: str, name: str) -> Any:
        if _OF_TENSORS.fullmatch(f"{module} {name}"):
            return super().find_class(module, name)
        return type(name, (Something,), {})

    def load_build(self) -> None:
        fields, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Something):
            target.fields = fields
        elif type(target) is not OrderedDict:  # whose attributes say nothing; others' would change what code here uses
            raise pickle.UnpicklingError("attributes for what has none")

    dispatch[pickle.BUILD[0]] = load_build


_DATA = SimpleNamespace(
    __name__="data", Unpickler=_DataUnpickler, load=lambda file, **options: _DataUnpickler(file, **options).load()
)
"""In place of the module `pickle`, as torch.load takes it."""


@contextmanager
def reading(path: Path, kind: Literal["torch", "safetensors"]) -> Iterator[None]:
    """Raises CheckpointError where a file is missing, empty, too large, or the block can't read it as of this kind."""
    try:
        size = path.stat().st_size if path.is_file() else None
    except OSError as error:
        raise CheckpointError(path, f"can't be read ({error.strerror})") from error
    if size is None:
        raise CheckpointError(path, "no such file", "Check the path")
    if size == 0:
        raise CheckpointError(path, "the file is empty", "Fetch it again")
    if size > MAX_FILE_BYTES:
        raise CheckpointError(path, f"{size / 2**30:.1f} GB is more than any voice has ({MAX_FILE_BYTES // 2**30} GB)")
    try:
        yield
    except _READ_ERRORS as error:
        raise unreadable(path, kind) from error


def unreadable(path: Path, kind: str) -> CheckpointError:
    """The error for a file that can't be read as the kind it should be: what it is instead, where that can be seen."""
    try:
        found = stand_in(path)
    except OSError as error:
        return CheckpointError(path, f"can't be read ({error.strerror})")
    if found is not None:
        return CheckpointError(path, f"not a {kind} file but {found}", FETCH_AGAIN)
    return CheckpointError(path, f"cut off, damaged, or not a {kind} file", "Fetch it again")


def _mappable(path: Path) -> bool:
    """Whether a file's tensors lie in it as they are in memory: not where somebody packed it anew, with compression."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for entry in archive.infolist():
            file.seek(entry.header_offset + _ZIP_NAME_LENGTH_AT)
            begin = sum(struct.unpack("<HH", file.read(4))) + file.tell()
            aligned = begin % _ALIGNMENT_BYTES == 0 or "/data/" not in entry.filename
            if entry.compress_type != zipfile.ZIP_STORED or not aligned:
                return False
    return True


def save_tensors(content: object, path: Path) -> None:
    """Write a torch file, down to the disk. Raises OSError."""
    with path.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch only says that it isn't where it thought to be
                raise error.__context__ from None
            raise
        file.flush()
        os.fsync(file.fileno())


def _foreign_names(path: Path) -> set[str]:
    """Functions and classes that the file's pickles name beyond the harmless ones.

    Raises one of _READ_ERRORS where a pickle can't be read to its end: names found in other bytes mean nothing.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:2] == b"PK":
            names = _names_in_zip(path)
        else:
            names = set()
            for _ in range(_MAX_LEGACY_PICKLES):
                names.update(_names_in_pickle(content))
                if content.tell() == len(content):
                    break
    return {name.replace(" ", ".") for name in names if not (_OF_TENSORS.fullmatch(name) or _OF_VALUES.fullmatch(name))}


def _names_in_zip(path: Path) -> set[str]:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        pickles = [entry for entry in entries if entry.filename.endswith(".pkl")]
        whole, code = (sum(entry.file_size for entry in each) for each in (entries, pickles))
        if len(entries) > _MAX_ZIP_ENTRIES or whole > MAX_FILE_BYTES or code > _MAX_PICKLE_BYTES:
            raise CheckpointError(path, "the archive holds more than any voice has")
        names = {"TorchScript program" for entry in entries if "/code/" in entry.filename}
        for entry in pickles:
            names.update(_names_in_pickle(io.BytesIO(archive.read(entry))))
        return names


def _names_in_pickle(file: IO[bytes] | mmap.mmap) -> Iterator[str]:
    """'module name' of every global that one pickle refers to."""
    recent: list[str] = []
    tuples = 0
    for opcode, argument, _ in pickletools.genops(cast("IO[bytes]", file)):
        tuples += opcode.name.startswith("TUPLE")
        if tuples > _MAX_TUPLES:
            raise ValueError("tuples that could be nested deeper than Python's hashes reach")
        if opcode.name in ("GLOBAL", "INST"):
            yield str(argument)
        elif opcode.name == "STACK_GLOBAL":
            yield " ".join(recent[-2:])
        elif opcode.name in ("EXT1", "EXT2", "EXT4"):
            yield f"extension {argument}"
        elif isinstance(argument, str):
            recent = [*recent[-1:], argument]
