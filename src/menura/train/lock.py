"""One run at a time in an experiment's folder: two would overwrite each other's checkpoints and mix their logs."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from menura.errors import TrainingError

LOCK = ".lock"
_TAKEN = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other runs out while this one works; the system lets go of it however this process ends.

    File systems without locks, and folders that can't be written, keep nobody out.

    Args:
        folder: the experiment's, which exists.

    Raises:
        TrainingError: another run is at work there.
    """
    try:
        file = (folder / LOCK).open("ab")
    except OSError:
        yield  # what is written next says what is wrong with the folder
        return
    with file:
        try:
            _take(file)
        except OSError as error:
            if error.errno in _TAKEN:
                raise TrainingError(
                    f"{folder}: another run is at work on this experiment; wait for its end, or stop it."
                ) from error
        yield


def _take(file: IO[bytes]) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
