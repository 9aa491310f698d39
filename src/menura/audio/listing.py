"""Finding the recordings that files, folders and globs on a command line stand for."""

from __future__ import annotations

import fnmatch
import glob
import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from menura.errors import ErrorDetails
from menura.types import Place

_BASE = "wav wave w64 rf64 flac ogg oga opus mp3 aif aiff aifc au snd caf"
_MEDIA = "m4a m4b mp4 mov m4v aac webm weba mkv mka wma wmv asf ac3 eac3 3gp amr mp2 avi flv ts wv ape"

# File endings pick files out of folders; they never decide how a file is decoded.
BASE_SUFFIXES = frozenset(f".{name}" for name in _BASE.split())
"""Read by the base install (libsndfile)."""
MEDIA_SUFFIXES = frozenset(f".{name}" for name in _MEDIA.split())
"""Read with the extra `media` (PyAV)."""
AUDIO_SUFFIXES = BASE_SUFFIXES | MEDIA_SUFFIXES


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
    matches slashes too; one that ends in a slash means all below that folder. Upper and lower case differ.
    """

    recursive: bool = False
    include: tuple[str, ...] = ()
    """If there are any, at least one must match."""
    exclude: tuple[str, ...] = ()
    """None may match."""

    def takes(self, relative: Path) -> bool:
        """Whether a file at that path below its folder is taken; hidden ones and other endings never are."""
        if relative.suffix.lower() not in AUDIO_SUFFIXES or any(part.startswith(".") for part in relative.parts):
            return False
        if self.include and not any(_matches(relative, pattern) for pattern in self.include):
            return False
        return not any(_matches(relative, pattern) for pattern in self.exclude)


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
        names = path.rglob("*") if selection.recursive else path.glob("*")
        return _chosen(names, path, selection) or [nothing_in(path, "folder", selection)]
    # A file whose name has brackets is a file first.
    if os.path.exists(path) or not glob.has_magic(str(path)):
        return [InputFile(path=path, relative=Path(path.name))]
    folder = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
    matches = (Path(name) for name in glob.iglob(str(path), recursive=True))
    return _chosen(matches, folder, selection) or [nothing_in(path, "pattern", selection)]


def _chosen(names: Iterable[Path], folder: Path, selection: Selection) -> list[InputFile]:
    return [
        InputFile(path=name, relative=name.relative_to(folder))
        for name in sorted(names)
        if selection.takes(name.relative_to(folder)) and name.is_file()
    ]


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
    return any(fnmatch.fnmatchcase(name, glob + ("*" if glob.endswith("/") else "")) for glob in patterns)
