"""Installs voices from a weights file, a folder or a zip archive, as community voices are passed on.

Nothing of an archive is unpacked under a name of its own: the members wanted are copied into new files, with their
bytes counted. Weights are read without running code and stored as safetensors.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, TypeAlias

from menura.errors import CheckpointError, EncodeError, MenuraError, OptionError, VoiceExistsError
from menura.system.files import remove_abandoned, temporary_folder, writing
from menura.system.text import printable
from menura.voices.library import (
    CARD_NAME,
    MAX_CARD_BYTES,
    TRAINING_FILE,
    VOICE_SUFFIXES,
    WEIGHTS_NAME,
    VoiceCard,
    VoiceEntry,
    check_name,
    epoch_of,
    find_voice,
    list_voices,
    match_index,
    read_card,
)

if TYPE_CHECKING:
    from menura.checkpoints.voice import LoadedVoice

MAX_ARCHIVE_ENTRIES = 10_000
MAX_MEMBER_BYTES = 4 * 2**30
_TEMPORARY = ".import-"
_UNPACK = "Unpack it and import its .pth file"

Members: TypeAlias = "Mapping[PurePath, Path | zipfile.ZipInfo]"
"""The files of a source by their names in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """What to install."""

    source: Path
    """A .pth or .safetensors file, or a folder or .zip with voices."""
    below: tuple[str, ...] = (".",)
    """Where in a folder to look."""
    home: Path
    """Menura's data folder; voices go to `voices/<name>` in it."""
    name: str | None = None
    """What to call the one voice; by default as its file is called."""
    index: Path | None = None
    """The one voice's retrieval index; by default the one found beside it."""
    every_epoch: bool = False
    """Of several epochs of a voice take all, not only the newest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportResult:
    """What became of one voice of a source: it is installed, or there is an error."""

    file: str
    """Its weights' name in the source."""
    name: str
    voice: VoiceEntry | None = None
    error: MenuraError | None = None


def import_voices(request: ImportRequest) -> Iterator[ImportResult]:
    """Install all voices of a source, each completely or not at all.

    Raises:
        OptionError, CheckpointError, ResourceError: the source or the data folder as a whole can't be used.
    """
    source, index, voices = request.source, request.index, request.home / "voices"
    if index is not None and not os.path.isfile(index):
        raise OptionError(index, "no such index file", "Check the path", option="index")
    with writing(voices):
        voices.mkdir(parents=True, exist_ok=True)
        remove_imports(request.home)
        members = _members(source, request.below)
        single = source.suffix.lower() in VOICE_SUFFIXES and not source.is_dir()
        found = [PurePath(source.name)] if single else _voices_among(members, every_epoch=request.every_epoch)
        if not found:
            raise CheckpointError(source, "holds no voice (.pth or .safetensors)")
        if len(found) > 1 and (request.name is not None or index is not None):
            listed = printable(", ".join(map(str, found[:5])))
            raise OptionError(source, f"holds {len(found)} voices ({listed})", "Name one of its files")
        with temporary_folder(_TEMPORARY, voices) as temporary:
            for weights in found:
                yield _result(request, members, weights, temporary)


def remove_imports(home: Path) -> None:
    """Delete what killed imports left in the voices folder."""
    remove_abandoned((home / "voices").glob(f"{_TEMPORARY}*"))


def _members(source: Path, below: Iterable[str]) -> Members:
    """What isn't hidden below a folder, in an archive, or beside a voice's file."""
    if not (os.path.isdir(source) or os.path.isfile(source)):
        raise OptionError(source, "no such file", "Give a voice's .pth, .safetensors, .zip, or a folder with voices")
    found: Members
    try:
        if source.is_dir():
            walked = (entry for part in below for entry in os.walk(source / part))
            files = [Path(folder, name) for folder, _, names in walked for name in names]
            found = {file.relative_to(source): file for file in files if os.path.isfile(file)}
        elif source.suffix.lower() in VOICE_SUFFIXES:
            files = [source.parent / name for name in os.listdir(source.parent)]
            found = {PurePath(file.name): file for file in files if os.path.isfile(file)}
        elif zipfile.is_zipfile(source):
            found = _packed(source)
        else:
            from menura.checkpoints.pickles import unreadable

            if source.suffix.lower() == ".zip":
                raise unreadable(source, "zip")
            advice = "Give a .pth, .safetensors or .zip file, or a folder with voices"
            raise CheckpointError(source, "not a voice", advice)
    except OSError as error:
        raise CheckpointError(source, f"can't be read ({error.strerror})") from error
    shown = (name for name in found if not any(part.startswith((".", "__MACOSX")) for part in name.parts))
    return {name: found[name] for name in (*shown, PurePath(source.name)) if name in found}


def _packed(source: Path) -> Members:
    """Refuses archives that try to write elsewhere; what makes them is not to be trusted with the rest either."""
    with _archive(source) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    if len(entries) > MAX_ARCHIVE_ENTRIES:
        raise CheckpointError(source, f"{len(entries)} files are too many", _UNPACK)
    for name in (entry.filename for entry in entries):
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or "".join(path.parts[:1]).endswith(":"):
            raise CheckpointError(source, f"unsafe path in archive: '{printable(name)}'", "Get the voice elsewhere")
    return {PurePosixPath(entry.filename): entry for entry in entries}


@contextmanager
def _archive(source: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(source) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, LookupError, NotImplementedError, RuntimeError, EOFError) as error:
        raise CheckpointError(source, "the archive is damaged or encrypted", _UNPACK) from error


def _voices_among(names: Iterable[PurePath], *, every_epoch: bool) -> list[PurePath]:
    """Of each voice the newest epoch, or every one; of one in both forms, the safetensors; nothing of training."""
    ranks = {suffix: -rank for rank, suffix in enumerate(VOICE_SUFFIXES)}
    weights = [name for name in names if name.suffix.lower() in ranks and not TRAINING_FILE.fullmatch(name.name)]
    weights.sort(key=lambda name: (epoch_of(name.stem)[1], name.with_suffix(""), ranks[name.suffix.lower()]))
    return sorted({(n.parent, n.stem if every_epoch else epoch_of(n.stem)[0]): n for n in weights}.values())


def _result(request: ImportRequest, members: Members, weights: PurePath, temporary: Path) -> ImportResult:
    file, name = str(weights), request.name or weights.stem
    try:
        return ImportResult(file=file, name=name, voice=_import(request, members, weights, temporary))
    except MenuraError as error:  # names what the user gave, not our copies
        copied = error.subject is not None and error.subject.startswith(str(temporary))
        about = error.about({str(error.subject): str(request.source)}) if copied else error
        return ImportResult(file=file, name=name, error=about)


def _import(request: ImportRequest, members: Members, weights: PurePath, temporary: Path) -> VoiceEntry:
    from menura.checkpoints.rvc import load_voice

    def file(name: PurePath, most_bytes: int = MAX_MEMBER_BYTES) -> Path:
        member = members[name]
        return member if isinstance(member, Path) else _unpacked(member, request.source, temporary, most_bytes)

    name = check_name(request.name or weights.stem)
    target = request.home / "voices" / name
    if os.path.lexists(target) or name.casefold() in {voice.name.casefold() for voice in list_voices(request.home)}:
        raise _taken(name)
    beside = [other for other in members if other.parent == weights.parent]
    index, note = request.index, ""
    if index is None:
        found, note = match_index(weights, beside)
        if found is None:  # perhaps in another folder
            found, note = match_index(weights, list(members))
        index = None if found is None else file(found)
    voice = load_voice(file(weights))
    if index is not None:
        _check_index(index, voice.config.content_dim)
    card = read_card(file(place, MAX_CARD_BYTES)) if (place := weights.with_name(CARD_NAME)) in beside else VoiceCard()
    if card.name != weights.stem and len(_voices_among(beside, every_epoch=True)) != 1:  # another's
        card = VoiceCard()
    fields = {**card.fields, "name": name, "source": card.source or request.source.name}
    _install(voice, index, fields, temporary / name, target)
    return replace(find_voice(name, request.home), note=note)


def _unpacked(member: zipfile.ZipInfo, source: Path, temporary: Path, most_bytes: int) -> Path:
    """A copy of a member; its bytes are counted, as what its header says of its size need not be true."""
    target, copied = temporary / f"{os.urandom(8).hex()}{PurePosixPath(member.filename).suffix.lower()}", 0
    with _archive(source) as archive, archive.open(member) as packed, target.open("wb") as unpacked:
        while block := packed.read(1 << 20):
            copied += len(block)
            if copied > most_bytes:
                raise CheckpointError(source, f"'{printable(member.filename)}' is larger than any voice")
            unpacked.write(block)
    return target


def _check_index(index: Path, content_dim: int) -> None:
    from menura.retrieval.faiss_index import FaissIndex

    FaissIndex.load(index).check_dim(content_dim)


def _taken(name: str) -> VoiceExistsError:
    problem = f"a voice named '{name}' exists already"
    return VoiceExistsError(None, problem, "Give another {name}, or remove it first", option="name")


def _install(voice: LoadedVoice, index: Path | None, card: dict[str, object], made: Path, target: Path) -> None:
    """Make the voice's folder, then give it its place."""
    from menura.checkpoints.rvc import save_voice

    made.mkdir()
    # RVC stores float16; files with finer weights keep them.
    halves = all(bool((tensor.half().float() == tensor).all()) for tensor in voice.state.values())
    try:
        save_voice(made / WEIGHTS_NAME, voice, dtype="float16" if halves else "float32")
    except EncodeError as error:
        raise error.about({str(made / WEIGHTS_NAME): str(target)}) from error
    if index is not None:
        shutil.copyfile(index, made / f"{target.name}.index")
    (made / CARD_NAME).write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    try:
        os.replace(made, target)
    except OSError as error:
        if target.exists():  # another import was quicker
            raise _taken(target.name) from error
        raise
