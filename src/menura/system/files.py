"""Writing files whole or not at all, and what to do where one can't be written. Loads no torch."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from menura.errors import MenuraError, ResourceError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_STREAMS = ("/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/")
"""Names of open files: what stands there may be a regular file, but replacing it wouldn't reach its reader."""
_PARTIAL = ".part"
_TEMPORARY = ".tmp"
_PARTS = ".parts"
CLAIM = ".lock"
"""The file by which a `claimed_folder` is locked: folders themselves can't be, on Windows and on NFS."""
_GOES_WHEN_CLOSED = getattr(os, "O_TEMPORARY", 0)
"""Of files on Windows, also where their process is killed."""
_LONGEST_PREFIX = 40


class NewFile:
    """A file that gets its name when it is complete: open beside it until then, under a name of its own.

    While it is open it is locked, so that `remove_abandoned` knows what killed processes left. A link's target is
    replaced, the link stays. Call `publish` or `discard` once. All functions raise OSError.
    """

    def __init__(self, path: Path) -> None:
        self.target = Path(os.path.realpath(path))
        self.target.parent.mkdir(parents=True, exist_ok=True)
        while True:
            self.path = self.target.with_name(f"{_prefix(self.target)}{os.urandom(4).hex()}{_PARTIAL}")
            self.file: BinaryIO = self.path.open("x+b")  # with an ordinary new file's permissions
            if _claim(self.path, self.file.fileno()):
                break
            self.file.close()

    def publish(self) -> None:
        """Close it and give it its name."""
        self.file.flush()
        self.file.close()  # Windows renames no open file
        self.path.replace(self.target)

    def discard(self) -> None:
        """Leave nothing; does nothing after `publish`, and raises nothing."""
        with suppress(OSError):
            self.file.close()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path, kind: type[MenuraError] = ResourceError) -> Iterator[Path]:
    """Write a file whole or not at all: what the block writes to the name it gets becomes the file at its end.

    Where the file can't be written, an error of that kind is raised; so it is by the functions below.
    """
    check_writable(path, kind)
    with writing(path, kind):
        partial = NewFile(path)
        try:
            yield partial.path
            partial.publish()
        finally:
            partial.discard()


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file whole or not at all; devices and pipes are written through."""
    if not _is_stream(path):
        remove_unfinished([path])
        with replacing(path) as partial:
            partial.write_bytes(data)
        return
    with writing(path), open(os.open(path, os.O_WRONLY | os.O_APPEND), "wb") as stream:
        stream.write(data)


def append_whole(path: Path, data: bytes, kind: type[MenuraError] = ResourceError) -> None:
    """Add to a file's end, all or nothing."""
    # Unbuffered: a buffer would be written at last when the file is closed, after what is half there was taken back.
    with writing(path, kind), path.open("ab", buffering=0) as file:
        before, rest = file.tell(), memoryview(data)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except BaseException:
            file.truncate(before)
            raise


def check_writable(path: Path, kind: type[MenuraError] = ResourceError) -> None:
    """Refuse, before any work, a name that no complete file could get: a folder's, a device's, in a closed folder."""
    if os.path.isdir(path):  # unlike Path.is_dir it takes any name
        raise kind(path, "is a folder", "Name a file in it")
    if _is_stream(path):
        raise kind(path, "is a device or a pipe, not a file", "Name a regular file")
    folder = Path(os.path.realpath(path)).parent
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    if not os.path.isdir(folder):
        raise kind(path, f"can't be written: {folder} is not a folder", "Choose another folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise kind(path, f"can't be written: no write permission for {folder}", "Choose a writable folder")


@contextmanager
def writing(path: Path, kind: type[MenuraError] = ResourceError) -> Iterator[None]:
    """Any OSError in this block means that this file can't be written; errors of writing don't name theirs."""
    try:
        yield
    except OSError as error:
        other = "point TMPDIR at another" if path == Path(tempfile.gettempdir()) else "choose another folder"
        advice = f"Free space on that disk, or {other}" if error.errno in _FULL else "Choose a writable folder"
        raise kind(path, f"can't be written: {error.strerror or error}", advice) from error


def remove_unfinished(paths: Iterable[Path]) -> None:
    """Delete what killed processes left of these files."""
    prefixes: dict[Path, set[str]] = {}
    for path in paths:
        target = Path(os.path.realpath(path))
        prefixes.setdefault(target.parent, set()).add(_prefix(target))
    for folder, wanted in prefixes.items():
        with suppress(OSError):
            entries = [Path(entry.path) for entry in os.scandir(folder) if entry.name.endswith(_PARTIAL)]
            remove_abandoned(path for path in entries if f"{path.name[: -len(_PARTIAL)].rpartition('.')[0]}." in wanted)


def remove_abandoned(paths: Iterable[Path]) -> None:
    """Delete those of these files and folders that no process has: as a NewFile, `temporary_folder`, claimed folder."""
    for path in paths:
        with suppress(OSError, ResourceError):
            is_folder = path.is_dir()
            if is_folder and path.suffix == _PARTS:
                _remove_claimable(path)
                continue
            mode = os.O_RDONLY if is_folder else os.O_RDWR  # NFS locks only what may be written
            number = os.open(path, mode | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
            try:
                _lock(number)
                shutil.rmtree(path) if is_folder else path.unlink()
            finally:
                os.close(number)


def _remove_claimable(folder: Path) -> None:
    with claimed_folder(folder) as ours:
        if ours:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def temporary_folder(prefix: str = "menura-", parent: Path | None = None) -> Iterator[Path]:
    """A folder that is gone when the block ends; those that killed processes left go when it begins."""
    parent = parent or Path(tempfile.gettempdir())
    with suppress(OSError):
        names = re.compile(re.escape(prefix) + rf"[0-9a-f]{{16}}{re.escape(_TEMPORARY)}")
        remove_abandoned(path for path in parent.iterdir() if names.fullmatch(path.name))
    while True:
        folder = parent / f"{prefix}{os.urandom(8).hex()}{_TEMPORARY}"
        folder.mkdir(mode=0o700)
        with suppress(FileNotFoundError):  # another process took it for abandoned
            number = os.open(folder, os.O_RDONLY) if os.name == "posix" else None  # Windows opens no folders
            if number is None or _claim(folder, number):
                break
            os.close(number)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if number is not None:
            os.close(number)


def parts_folder(path: Path) -> Path:
    """Where the finished parts of an output wait for the others, beside it."""
    target = Path(os.path.realpath(path))
    return target.with_name(f"{_prefix(target)[:-1]}{_PARTS}")


@contextmanager
def claimed_folder(folder: Path, kind: type[MenuraError] = ResourceError) -> Iterator[bool]:
    """A folder that stays for a later run, made if it isn't there, for this block alone; False if another has it.

    It goes at the end if nothing but CLAIM is in it.
    """
    claim = folder / CLAIM
    with writing(folder, kind):
        folder.mkdir(parents=True, exist_ok=True)
        number = _claimed(claim)
    try:
        yield number is not None
    finally:
        if number is not None:
            with suppress(OSError):
                if not _GOES_WHEN_CLOSED and os.listdir(folder) == [CLAIM]:
                    claim.unlink()
            os.close(number)
            with suppress(OSError):
                folder.rmdir()


def _claimed(claim: Path) -> int | None:
    """The claim's file, open; None where another process has it. Raises OSError."""
    flags = os.O_RDWR | os.O_CREAT | (_GOES_WHEN_CLOSED and _GOES_WHEN_CLOSED | os.O_EXCL)
    try:
        number = os.open(claim, flags, 0o666)
    except (FileExistsError, PermissionError):
        if not _GOES_WHEN_CLOSED:
            raise
        return None
    if _claim(claim, number):
        return number
    os.close(number)
    return None


def _claim(path: Path, number: int) -> bool:
    """Lock what was just opened; False if another process has it, or took it for abandoned before."""
    try:
        _lock(number)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks, where nothing is removed either
        return True
    with suppress(FileNotFoundError):
        return os.name != "posix" or os.path.samestat(os.fstat(number), path.stat())
    return False


def _lock(number: int) -> None:
    """Raises BlockingIOError where another process has it, OSError where there are no locks."""
    try:
        import fcntl
    except ImportError:  # Windows, where what is open can't be deleted
        return
    fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_stream(path: Path) -> bool:
    special = os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)
    return special or os.path.abspath(path).startswith(_STREAMS)


def _prefix(path: Path) -> str:
    """Of the names that a file has until it is complete; another file's in the same folder is another."""
    name = path.name
    if len(name) > _LONGEST_PREFIX:  # a file system's names are bounded
        name = f"{name[:_LONGEST_PREFIX]}~{zlib.crc32(os.fsencode(name)):08x}"
    return f".{name}."


def read_small(path: Path, most_bytes: int) -> bytes:
    """Read a whole regular file; OSError for others, without waiting for a pipe, and for longer ones."""
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        with open(number, "rb", closefd=False) as file:
            data = file.read(most_bytes + 1)
    finally:
        os.close(number)
    if len(data) > most_bytes:
        raise OSError(errno.EFBIG, f"larger than {most_bytes} bytes", str(path))
    return data


def read_json(path: Path, most_bytes: int = 1 << 20) -> object:
    """What a small JSON file holds. Raises OSError as `read_small`; ValueError: no JSON, or nested too deeply."""
    try:
        return json.loads(read_small(path, most_bytes).decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def sha256_of(path: Path) -> str:
    """A file's SHA-256, in hexadecimal digits. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


FETCH_AGAIN = "Fetch it again by its download link, or with 'git lfs pull'"


def stand_in(path: Path) -> str | None:
    """What a download left in place of a file: a Git LFS pointer or a web page; None for anything else."""
    with path.open("rb") as file:
        head = file.read(64).lstrip().lower()
    if head.startswith(b"version ") and b"git-lfs" in head:
        return "a Git LFS pointer, a short text that stands for it"
    return "a web page" if head.startswith((b"<!doctype", b"<html", b"<?xml")) else None
