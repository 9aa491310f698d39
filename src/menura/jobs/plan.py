"""Which recordings are meant, and where their conversions go. Reads no audio, loads no torch."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from menura.audio.places import InputFile, Selection, audio_files, failed_input, is_url, place_of, remote_files
from menura.errors import OptionError
from menura.options import FORMATS, BatchOptions, ConversionOptions
from menura.system.files import check_writable
from menura.types import FileResult, Item, Place, Url, failed_result
from menura.voices.library import VOICE_SUFFIXES

STANDARD = "-"
"""Standard input or output, as a source or output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What the arguments came to."""

    arguments: tuple[str, ...]
    items: tuple[InputFile, ...]
    missing: tuple[FileResult, ...]
    """Of arguments that stand for nothing, with what to do."""
    many: bool
    """True if outputs go to a folder: several arguments, one that stands for any number of files, or URLs."""


def find_inputs(arguments: Sequence[str], output: str | None, batch: BatchOptions | None = None) -> Inputs:
    """Find the recordings that arguments stand for, each once.

    An argument is a file, a folder, a pattern with * ? [ ], a URL of these, or `-` for standard input. What lies in the
    output's folder is no input of another.

    Raises:
        OptionError: an argument is empty, or all recordings lie in the output folder.
    """
    if "" in arguments:  # an unset variable, say; as a path it would be the current folder
        raise OptionError(None, "an input's name is empty", "Name a file, a folder or a pattern")
    if output == "":
        raise OptionError(None, "the name is empty", option="output")
    batch = batch or BatchOptions()
    selection = Selection(recursive=batch.recursive, include=batch.include, exclude=batch.exclude)
    local = [argument for argument in arguments if not is_url(argument)]
    entries, named, target = audio_files(local, selection), set[Place](map(Path, local)), place_of(output or STANDARD)
    many = len(arguments) > 1 or any(entry.path not in named or entry.error for entry in entries)
    remote = [entry for argument in arguments if is_url(argument) for entry in remote_files(argument, selection)]
    entries += {entry.path: entry for entry in remote}.values()
    entries = [e for e in entries if e.error or e.path in named or not _within(e.path, target, named)]
    if not entries:
        raise OptionError(None, "all recordings lie in the output folder", "Choose another {output}", "output")
    entries = [_looked_at(entry) for entry in entries]
    return Inputs(
        arguments=tuple(arguments),
        items=tuple(entry for entry in entries if entry.error is None),
        missing=tuple(failed_result(entry.path, entry.error) for entry in entries if entry.error is not None),
        many=many or len(local) < len(arguments) or isinstance(target, Url),
    )


def plan_outputs(inputs: Inputs, output: str | None, options: ConversionOptions) -> list[Item]:
    """Where the conversions go.

    `output` is of one recording a file, an existing folder, a new one if it ends with a slash, `-` for standard output,
    or None for beside the recording; of several a folder. Format and voice name outputs where nothing else does.

    Raises:
        OptionError: the output doesn't suit the inputs, or is one of them.
    """
    ending = f".{options.format or 'wav'}"
    if options.spans is not None and len(inputs.items) + len(inputs.missing) > 1:
        raise OptionError(None, "spans are of one recording", "Convert each recording by a command of its own", "spans")
    if output == STANDARD:
        if inputs.many:
            raise OptionError(None, "standard output takes one recording", "Add {output=FOLDER}", "output")
        return [Item(source=item.path, output=Path(STANDARD)) for item in inputs.items]
    if inputs.many:
        options.check_format(options.format or "wav")
        jobs = folder_outputs(inputs.items, _folder(inputs, output), ending)
    else:
        voice = options.voice if options.spans is None else "dialogue"
        jobs = [Item(source=i.path, output=single_output(i, output, voice, ending)) for i in inputs.items]
        for job in jobs:
            options.check_format(_checked_format(job.output, options.format))
    check_outputs(jobs)
    for job in jobs[:1]:  # of many each other is told with its own file
        if isinstance(job.output, Path):
            check_writable(job.output, OptionError)
    return jobs


def single_output(item: InputFile, output: str | None, voice: str, ending: str) -> Path:
    """Where one recording's conversion goes; `ending` is used where the output's name doesn't give one."""
    assert isinstance(item.path, Path)  # with URLs outputs go to a folder
    if output is None:
        file = Path(voice)
        label = file.stem if file.suffix.lower() in VOICE_SUFFIXES else file.name
        return item.path.with_name(f"{item.relative.stem}.{label}{ending}")
    if Path(output).is_dir() or output.endswith(("/", os.sep)):
        return Path(output) / _renamed(Path(item.relative.name), ending)
    return Path(output)


def folder_outputs(items: Sequence[InputFile], folder: Place, ending: str) -> list[Item]:
    """Where many recordings' conversions go: the same tree below a folder, no two under one name.

    Of those that would share one, that with the output's ending keeps it (else the first). The others get their own
    ending into it (a.wav and a.mp3 become a.wav and a-mp3.wav), or a number where that is the same.
    """
    claims: dict[str, InputFile] = {}
    for item in sorted(items, key=lambda item: item.relative.suffix.lower() != ending):
        claims.setdefault(_key(_renamed(item.relative, ending)), item)
    taken, jobs = set(claims), list[Item]()
    for item in items:
        relative = _renamed(item.relative, ending)
        winner = claims[_key(relative)]
        if winner is not item:
            suffix = item.relative.suffix.lower()
            differs = suffix not in ("", winner.relative.suffix.lower())
            stem = f"{item.relative.stem}-{suffix[1:]}" if differs else item.relative.stem
            more = itertools.chain([""] * differs, (f"-{number}" for number in itertools.count(2)))
            names = (relative.with_name(stem + end + ending) for end in more)
            relative = next(name for name in names if _key(name) not in taken)
            taken.add(_key(relative))
        jobs.append(Item(source=item.path, output=folder / relative))
    return jobs


def check_outputs(jobs: Sequence[Item]) -> None:
    """Raise OptionError where an output is an input."""
    sources = {job.source.resolve() for job in jobs if str(job.source) != STANDARD}
    for job in jobs:
        if job.output.resolve() in sources:
            problem = "would overwrite the recording"
            raise OptionError(str(job.output), problem, "Choose another {output}", "output")


def _looked_at(entry: InputFile) -> InputFile:
    """The entry, or what is wrong where the file isn't there or is empty."""
    if entry.error or isinstance(entry.path, Url) or str(entry.path) == STANDARD:
        return entry
    try:
        found = entry.path.stat()
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        return failed_input(entry.path, "no such file" if missing else error.strerror or "can't be read")
    empty = stat.S_ISREG(found.st_mode) and not found.st_size
    return failed_input(entry.path, "the file is empty") if empty else entry


def _folder(inputs: Inputs, output: str | None) -> Place:
    """The folder that several outputs go to."""
    from menura.audio.encode import format_of

    last, missing = inputs.arguments[-1], {result.input for result in inputs.missing}
    if output is None:
        if len(inputs.arguments) > 1:
            if last in missing and format_of(Path(last)):
                raise OptionError(last, "no such file", f"Did you mean {{output={last}}}?", "output")
            raise OptionError(None, "several recordings need a folder", "Add {output=FOLDER}", "output")
        what = "a URL" if is_url(last) else "a folder" if os.path.isdir(last) else "a pattern"
        raise OptionError(last, f"{what} needs an output folder", "Add {output=FOLDER}", "output")
    folder = place_of(output)
    if isinstance(folder, Path) and folder.exists():
        if not folder.is_dir():
            raise OptionError(folder, "is a file, but several recordings need a folder", option="output")
        if any(Path(a).is_dir() and folder.samefile(a) for a in inputs.arguments if not is_url(a)):
            raise OptionError(folder, "is the folder of the recordings", "Choose another {output}", "output")
    elif not output.endswith(("/", os.sep)) and format_of(Path(folder.name)):
        advice = f"If it is to be a folder, end it in a slash: {{output={output}/}}"
        raise OptionError(output, "is named as a file, but several recordings need a folder", advice, "output")
    return folder


def _checked_format(output: Place, format: str | None) -> str:
    from menura.audio.encode import format_of

    assert isinstance(output, Path)
    by_name = format_of(output)
    if by_name is None and format is None:
        problem = f"unsupported format '{output.suffix}'" if output.suffix else "the name has no format"
        advice = f"End it in .{', .'.join(FORMATS)}, or in a slash for a folder, or add {{format}}"
        raise OptionError(output, problem, advice, "output")
    if by_name is not None and format is not None and by_name != format:
        raise OptionError(output, f"the name is for {by_name}, not {format}", "Change it or {format}", "format")
    return format or by_name or "wav"


def _within(place: Place, target: Place, named: set[Place]) -> bool:
    """Whether something lies in the output folder, where that is inside an input folder."""
    if isinstance(place, Url) or isinstance(target, Url):
        return str(place).startswith(f"{target}/")
    folders = {folder.resolve() for folder in named if isinstance(folder, Path) and folder.is_dir()}
    inside = target.resolve()
    return inside in place.resolve().parents and not folders.isdisjoint(inside.parents)


def _renamed(relative: Path, ending: str) -> Path:
    return relative.with_name(("stdin" if str(relative) == STANDARD else relative.stem) + ending)


def _key(path: Path) -> str:
    """What may exist once: many file systems don't tell cases apart."""
    return path.as_posix().casefold()
