"""Writing files whole or not at all, and what to do where a disk is full. Loads no torch."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from menura.errors import ResourceError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What fails in this block fails for want of space or rights for that file, which errors of writing don't name.

    Raises:
        ResourceError: an OSError came; says what to do.
    """
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> ResourceError:
    """What to do where a file can't be written."""
    reason = error.strerror or str(error)
    advice = "Free space on that disk" if error.errno in _FULL else "Make that place one that can be written"
    return ResourceError(
        f"{path}: can't be written: {reason}. {advice} and repeat the command: what is complete, such as the last "
        "checkpoint, is kept."
    )


def append_whole(path: Path, data: bytes) -> None:
    """Add to a file's end, all or nothing.

    Raises:
        ResourceError: there is no room, or no right to write.
    """
    # Unbuffered: a buffer would be written at last when the file is closed, after what is half there was taken back.
    with writing(path), path.open("ab", buffering=0) as file:
        before, rest = file.tell(), memoryview(data)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except BaseException:
            file.truncate(before)
            raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all: what the block writes to the name it gets becomes the file at its end.

    Raises:
        ResourceError: there is no room, or no right to write.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
