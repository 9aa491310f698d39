"""Which inputs are meant, and what their outputs are called. Touches no audio, loads no torch."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from menura.audio.listing import InputFile, Selection, audio_files
from menura.audio.remote import is_url, place_of, remote_files
from menura.options import BatchOptions
from menura.types import Place, Url
from menura.voices.library import VOICE_SUFFIXES

STANDARD = "-"
"""Standard input or output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One recording and where its conversion goes."""

    source: Place
    """`-` for standard input."""
    output: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What the arguments came to."""

    items: tuple[InputFile, ...]
    many: bool
    """True if outputs go to a folder: several arguments, one that stands for any number of files, or URLs."""
    missing: tuple[InputFile, ...]
    """Arguments that stand for nothing, with what to do."""


def expand(arguments: Sequence[str], output: str | None, batch: BatchOptions | None = None) -> Inputs:
    """Find the recordings that arguments stand for, each once.

    Args:
        arguments: files, folders (taken with all below them), patterns with * ? [ ], URLs of these, `-` for standard
            input.
        output: the output as given; what lies in that folder is no input of another.
        batch: which of the recordings in folders and patterns are taken.
    """
    batch = batch or BatchOptions()
    selection = Selection(recursive=batch.recursive, include=batch.include, exclude=batch.exclude)
    urls = [argument for argument in arguments if is_url(argument)]
    local = [argument for argument in arguments if not is_url(argument)]
    entries = audio_files(local, selection)
    named: set[Place] = {Path(argument) for argument in local}
    made = place_of(output or STANDARD)
    many = len(arguments) > 1 or any(entry.path not in named or entry.error for entry in entries)
    entries += {entry.path: entry for url in urls for entry in remote_files(url, selection)}.values()
    entries = [e for e in entries if e.error or e.path in named or not _within(e.path, made, named)]
    return Inputs(
        items=tuple(entry for entry in entries if entry.error is None),
        many=many or bool(urls) or isinstance(made, Url),
        missing=tuple(entry for entry in entries if entry.error is not None),
    )


def single_output(item: InputFile, output: str | None, voice: str, ending: str) -> Path:
    """Where one recording's conversion goes.

    Args:
        item: the recording.
        output: a file, an existing folder, a new one if it ends with a slash, or None for beside the recording.
        voice: the voice asked for, which names the output where nothing else does.
        ending: with its dot, where the output's name doesn't give one.
    """
    assert isinstance(item.path, Path)  # with URLs outputs go to a folder
    if output is None:
        return item.path.with_name(f"{item.relative.stem}.{voice_label(voice)}{ending}")
    if Path(output).is_dir() or output.endswith(("/", os.sep)):
        return Path(output) / _renamed(Path(item.relative.name), ending)
    return Path(output)


def folder_outputs(items: Sequence[InputFile], folder: Place, ending: str) -> list[Job]:
    """Where many recordings' conversions go: the same tree below a folder, no two under one name.

    Of recordings that would share a name, the one that has the output's ending keeps it (else the first). The others
    get their own ending into it (a.wav and a.mp3 become a.wav and a-mp3.wav), or a number where that is the same.
    """
    claims: dict[str, InputFile] = {}
    for item in items:
        key = _key(_renamed(item.relative, ending))
        if key not in claims or (
            item.relative.suffix.lower() == ending and claims[key].relative.suffix.lower() != ending
        ):
            claims[key] = item
    taken, plain = set(claims), {id(item) for item in claims.values()}
    jobs = []
    for item in items:
        relative = _renamed(item.relative, ending)
        if id(item) not in plain:
            winner = claims[_key(relative)].relative
            relative = next(name for name in _other_names(item.relative, winner, ending) if _key(name) not in taken)
            taken.add(_key(relative))
        jobs.append(Job(source=item.path, output=folder / relative))
    return jobs


def check_outputs(jobs: Iterable[Job]) -> None:
    """Refuse to write over an input.

    Raises:
        click.UsageError: an output is an input.
    """
    jobs = list(jobs)
    sources = {_resolved(job.source) for job in jobs if str(job.source) != STANDARD}
    for job in jobs:
        if _resolved(job.output) in sources:
            raise click.UsageError(f"{job.output} would be written over the recording itself; give another -o.")


def voice_label(voice: str) -> str:
    """A voice in a file name: its own name, or its file's."""
    path = Path(voice)
    return path.stem if path.suffix.lower() in VOICE_SUFFIXES else path.name


def _resolved(place: Place) -> Place:
    return place.resolve() if isinstance(place, Path) else place


def _within(place: Place, made: Place, named: set[Place]) -> bool:
    """Whether something lies in the output folder, where that is inside an input folder."""
    if isinstance(place, Url) or isinstance(made, Url):
        return str(place).startswith(f"{made}/")
    folders = {folder.resolve() for folder in named if isinstance(folder, Path) and folder.is_dir()}
    inside = made.resolve()
    return inside in place.resolve().parents and not folders.isdisjoint(inside.parents)


def _renamed(relative: Path, ending: str) -> Path:
    return relative.with_name(("stdin" if str(relative) == STANDARD else relative.stem) + ending)


def _other_names(relative: Path, winner: Path, ending: str) -> Iterator[Path]:
    stem = relative.stem
    if relative.suffix.lower() != winner.suffix.lower() and relative.suffix:
        stem += f"-{relative.suffix.lower()[1:]}"
        yield relative.with_name(stem + ending)
    for number in itertools.count(2):
        yield relative.with_name(f"{stem}-{number}{ending}")


def _key(path: Path) -> str:
    """What may exist once: many file systems don't tell cases apart."""
    return path.as_posix().casefold()
