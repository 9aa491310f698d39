"""Finding the recordings that files, folders and globs on a command line stand for."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from menura.audio.suffixes import AUDIO_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_GLOB_CHARACTERS = frozenset("*?[")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFile:
    """One recording, or one argument that stands for none."""

    path: Path
    relative: Path
    """Where its output belongs below the output folder: the path below the folder it was found in, or its name."""
    error: str | None = None


def audio_files(paths: Sequence[Path | str], recursive: bool = False) -> list[InputFile]:
    """Expand files, folders and globs into recordings, each once, in the order given, folders sorted.

    In folders and globs hidden files and endings that aren't audio are left out; a file that is named is taken
    whatever it is called. An argument that matches nothing gives an entry with `error` set.

    Args:
        paths: files, folders, or patterns with `*`, `?`, `[...]` and `**`.
        recursive: whether folders are searched with the folders in them.
    """
    found: dict[Path, InputFile] = {}
    for given in paths:
        for entry in _expand(Path(given), recursive):
            found.setdefault(Path(os.path.abspath(entry.path)), entry)
    return list(found.values())


def _expand(path: Path, recursive: bool) -> list[InputFile]:
    if os.path.isdir(path):  # unlike Path.is_dir it takes any name
        names = path.rglob("*") if recursive else path.glob("*")
        return _chosen(names, path) or [_nothing(path, "the folder holds no recordings")]
    # A file whose name has brackets is a file first.
    if not os.path.exists(path) and _GLOB_CHARACTERS & set(str(path)):
        matches = (Path(name) for name in glob.iglob(str(path), recursive=True))
        return _chosen(matches, _fixed_part(path)) or [_nothing(path, "the pattern matches no recordings")]
    return [InputFile(path=path, relative=Path(path.name))]


def _chosen(names: Iterable[Path], folder: Path) -> list[InputFile]:
    return [
        InputFile(path=name, relative=name.relative_to(folder))
        for name in sorted(names)
        if name.suffix.lower() in AUDIO_SUFFIXES
        and not any(part.startswith(".") for part in name.relative_to(folder).parts)
        and name.is_file()
    ]


def _fixed_part(pattern: Path) -> Path:
    """Folder of a pattern above its first wildcard."""
    parts = pattern.parts
    wild = next(index for index, part in enumerate(parts) if _GLOB_CHARACTERS & set(part))
    return Path(*parts[:wild])


def _nothing(path: Path, reason: str) -> InputFile:
    return InputFile(path=path, relative=Path(path.name), error=f"{path}: {reason}.")
