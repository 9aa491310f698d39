"""Finding recordings, here or where fsspec reaches (s3://, gs://, sftp:// and the like; the extra `remote`).

Nothing remote is read or written in place: a recording is fetched whole, because it is read twice, and an output is
moved to its name when it is complete. Every file system has errors of its own, so that all are taken here.
"""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import hashlib
import itertools
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from menura.errors import DecodeError, EncodeError, ErrorDetails, OptionError
from menura.system.files import remove_unfinished, temporary_folder
from menura.types import Place, Url

_BASE = "wav wave w64 rf64 flac ogg oga opus mp3 aif aiff aifc au snd caf"
_MEDIA = "m4a m4b mp4 mov m4v aac webm weba mkv mka wma wmv asf ac3 eac3 3gp amr mp2 avi flv ts wv ape"

# File endings pick files out of folders; they never decide how a file is decoded.
BASE_SUFFIXES = frozenset(f".{name}" for name in _BASE.split())
"""Read by the base install (libsndfile)."""
MEDIA_SUFFIXES = frozenset(f".{name}" for name in _MEDIA.split())
"""Read with the extra `media` (PyAV)."""
AUDIO_SUFFIXES = BASE_SUFFIXES | MEDIA_SUFFIXES

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFile:
    """One recording, or one argument that stands for none."""

    path: Place
    relative: Path
    """Where its output belongs below the output folder: the path below the folder it was found in, or its name."""
    error: ErrorDetails | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which recordings of folders and patterns are taken.

    A glob without a slash is compared with a file's name, one with a slash with its path below the folder, where `*`
    matches slashes too; one that ends in a slash means all below that folder. Upper and lower case differ. One of
    `include`, if there are any, must match, and none of `exclude`.
    """

    recursive: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def takes(self, relative: Path) -> bool:
        """Whether a file at that path below its folder is taken; hidden ones and other endings never are."""
        if relative.suffix.lower() not in AUDIO_SUFFIXES or any(part.startswith(".") for part in relative.parts):
            return False
        included = not self.include or any(_matches(relative, pattern) for pattern in self.include)
        return included and not any(_matches(relative, pattern) for pattern in self.exclude)


def audio_files(paths: Sequence[Path | str], selection: Selection | None = None) -> list[InputFile]:
    """Expand files, folders and globs (`*`, `?`, `[...]`, `**`) into recordings, each once, in the order given.

    Folders are sorted; in them and in globs hidden files and endings that aren't audio are left out, while a file that
    is named is taken whatever it is called. An argument that matches nothing gives an entry with `error` set.
    """
    found: dict[Path, InputFile] = {}
    for given in paths:
        for entry in _expand(Path(given), selection or Selection()):
            found.setdefault(Path(os.path.abspath(str(entry.path))), entry)
    return list(found.values())


def _expand(path: Path, selection: Selection) -> list[InputFile]:
    if os.path.isdir(path):  # unlike Path.is_dir it takes any name
        kind, folder = "folder", path
        names: Iterable[Path] = path.rglob("*") if selection.recursive else path.glob("*")
    elif os.path.exists(path) or not glob.has_magic(str(path)):  # a file whose name has brackets is a file first
        return [InputFile(path=path, relative=Path(path.name))]
    else:
        kind, folder = "pattern", Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
        names = map(Path, glob.iglob(str(path), recursive=True))
    chosen = [
        InputFile(path=name, relative=relative)
        for name in sorted(names)
        if selection.takes(relative := name.relative_to(folder)) and name.is_file()
    ]
    return chosen or [nothing_in(path, kind, selection)]


def nothing_in(place: Place, kind: str, selection: Selection) -> InputFile:
    """What a folder or pattern comes to that stands for no recording."""
    problem = "the pattern matches no recordings" if kind == "pattern" else "the folder contains no recordings"
    advice = "Check {include} and {exclude}" if selection.include or selection.exclude else None
    return failed_input(place, problem, advice)


def failed_input(place: Place, problem: str, advice: str | None = None) -> InputFile:
    """An argument that stands for no recording, and why."""
    error = ErrorDetails(kind="decode", subject=str(place), problem=problem, advice=advice)
    return InputFile(path=place, relative=Path(place.name), error=error)


def _matches(relative: Path, pattern: str) -> bool:
    name = relative.as_posix() if "/" in pattern else relative.name
    patterns = {pattern, pattern.removeprefix("**/")}  # `**/` is any number of folders, none among them
    return any(fnmatch.fnmatchcase(name, known + "*" * known.endswith("/")) for known in patterns)


def place_of(text: str) -> Place:
    return Url(text.rstrip("/")) if is_url(text) else Path(text)


def is_url(text: str) -> bool:
    return _URL.match(text) is not None


def remote_files(text: str, selection: Selection) -> list[InputFile]:
    """Expand a URL of a file, folder or pattern into recordings, by the rules of `audio_files`."""
    url = Url(text.rstrip("/"))
    system, path = _reach(url)
    base, folder = Url(_fixed_part(url.text)), _fixed_part(path)
    try:
        if folder != path:
            found = system.glob(path)
        elif system.isfile(path):
            return [InputFile(path=url, relative=Path(url.name))]
        else:
            found = system.find(path) if selection.recursive else system.ls(path, detail=False)
        relatives = [Path(name[len(folder) :].strip("/")) for name in sorted(found)]
        entries = [InputFile(path=base / name, relative=name) for name in relatives if selection.takes(name)]
        if not found:
            system.info(folder)  # listings leave errors out
    except Exception as error:  # noqa: BLE001  (see the module)
        return [failed_input(url, _unreachable(error))]
    return entries or [nothing_in(url, "folder" if folder == path else "pattern", selection)]


def _fixed_part(text: str) -> str:
    """Folder of a pattern above its first wildcard; anything else as it is."""
    before, *wild = _WILD.split(text, maxsplit=1)
    return before.rpartition("/")[0] if wild else text


def _unreachable(error: Exception) -> str:
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and (cause is None or getattr(cause, "status", None) in (404, 410)):
        return "no such file or folder"
    return f"can't be reached: {_why(cause or error)}"


def file_facts(place: Place, *, fresh: bool = False) -> tuple[int, int] | None:
    """A file's size in bytes, and the time of its last change in ns; None if there is none.

    Where a remote file system has no times, the second is a number that changes with what it has; a `fresh` answer
    heeds no listing that the process remembers.
    """
    if isinstance(place, Path):
        with contextlib.suppress(OSError, ValueError):  # the latter of a name with a null byte
            facts = place.stat()
            return facts.st_size, facts.st_mtime_ns
        return None
    system, path = _reach(place)
    with contextlib.suppress(Exception):  # what can't be asked for isn't known
        if fresh:
            system.invalidate_cache(path.rpartition("/")[0])
        size = int(system.info(path)["size"] or 0)
        try:
            return size, int(system.modified(path).timestamp() * 1e9)
        except NotImplementedError:
            return size, int(hashlib.sha256(str(system.ukey(path)).encode()).hexdigest()[:15], 16)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStamp:
    """A file as it is now."""

    path: str
    size_bytes: int
    modified_ns: int

    @classmethod
    def of(cls, place: Place, *, fresh: bool = False) -> FileStamp | None:
        """The stamp of a file, None if there is none; `fresh` asks a remote store anew."""
        facts = file_facts(place, fresh=fresh)
        return facts and cls(path=str(place.resolve()), size_bytes=facts[0], modified_ns=facts[1])


def size_bytes(place: Place) -> int:
    """Of a recording here or at a URL; 0 where it isn't known."""
    return (file_facts(place) or (0, 0))[0]


@contextlib.contextmanager
def local_input(place: Place) -> Iterator[Path]:
    """A recording as a local file: itself, or a copy of a remote one, gone when the block ends."""
    if isinstance(place, Path):
        yield place
        return
    with temporary_folder() as folder:
        local = folder / f"recording{PurePosixPath(place.name).suffix}"
        system, path = _reach(place)
        try:
            system.get_file(path, str(local))
        except Exception as error:
            raise DecodeError(place.text, _unreachable(error)) from error
        yield local


@contextlib.contextmanager
def local_output(place: Place) -> Iterator[Path]:
    """A local name to write to: itself, or one whose file, if there is one, is put at the URL when the block ends."""
    if isinstance(place, Path):
        yield place
        return
    with temporary_folder() as temporary:
        local = temporary / place.name
        yield local
        if not local.is_file():
            return
        system, path = _reach(place)
        folder, _, name = path.rpartition("/")
        partial = f"{folder}/.{name}.{secrets.token_hex(4)}.part"
        with _writing(place):
            try:
                system.makedirs(folder, exist_ok=True)
                system.put_file(str(local), partial)
                system.mv(partial, path)
                system.invalidate_cache(folder)
            except Exception:
                with contextlib.suppress(Exception):
                    system.rm_file(partial)
                raise


def remove_partial(place: Place) -> None:
    """Delete what a killed process left of this output."""
    if isinstance(place, Path):
        remove_unfinished([place])
        return
    system, path = _reach(place)
    folder, _, name = path.rpartition("/")
    with contextlib.suppress(Exception):  # a stray hidden file harms nobody
        system.invalidate_cache(folder)
        for entry in system.ls(folder, detail=False):
            if re.fullmatch(re.escape(f".{name}.") + r"[0-9a-f]{8}\.part", entry.rpartition("/")[2]):
                system.rm_file(entry)


def read_notes(folder: Url) -> list[bytes]:
    """The small texts that `write_note` put into a folder; those that can't be read are left out."""
    system, path = _reach(folder)
    with contextlib.suppress(Exception):  # mostly there is no such folder yet
        system.invalidate_cache(path)
        names = [name for name in system.ls(path, detail=False) if name.endswith(".json")]
        return list(system.cat(names, on_error="omit").values()) if names else []
    return []


def write_note(folder: Url, name: str, text: bytes) -> None:
    """Write or replace a small text; stores that can't append can hold them too."""
    system, path = _reach(folder)
    with _writing(folder):
        system.makedirs(path, exist_ok=True)
        system.pipe_file(f"{path}/{name}.json", text)


@contextlib.contextmanager
def _writing(url: Url) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise EncodeError(url.text, f"can't be written: {_why(error)}", "Choose a writable folder") from error


def _reach(url: Url) -> tuple[Any, str]:
    """The file system, and the path there."""
    try:
        import fsspec
    except ImportError as error:
        raise OptionError(url.text, "URLs need fsspec", "Run pip install 'menura[remote]'") from error
    try:
        reached: tuple[Any, str] = fsspec.core.url_to_fs(str(url))
    except (ImportError, ValueError) as error:  # fsspec names the package that is missing
        raise OptionError(url.text, _why(error)) from error
    return reached


def _why(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__).rstrip(".")
