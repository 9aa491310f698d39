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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING

from menura.errors import CheckpointError, EncodeError, MenuraError, OptionError, VoiceExistsError
from menura.system.files import remove_abandoned, temporary_folder, writing
from menura.system.text import printable
from menura.voices.card import CARD_NAME, MAX_CARD_BYTES, VoiceCard, read_card
from menura.voices.library import (
    VOICE_SUFFIXES,
    WEIGHTS_NAME,
    VoiceEntry,
    check_name,
    epoch_of,
    find_voice,
    is_training_file,
    list_voices,
    match_index,
)

if TYPE_CHECKING:
    from menura.checkpoints.voice import LoadedVoice

MAX_ARCHIVE_ENTRIES = 10_000
MAX_MEMBER_BYTES = 4 * 2**30
_COPY_BYTES = 1 << 20
_TEMPORARY = ".import-"


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
    index, voices = request.index, request.home / "voices"
    if index is not None and not os.path.isfile(index):
        raise OptionError(index, "no such index file", "Check the path", option="index")
    with writing(voices):
        voices.mkdir(parents=True, exist_ok=True)
        remove_imports(request.home)
        bundle = _opened(request)
        found = _newest(bundle.weights, every_epoch=request.every_epoch)
        if not found:
            raise CheckpointError(request.source, "holds no voice (.pth or .safetensors)")
        if len(found) > 1 and (request.name is not None or index is not None):
            listed = printable(", ".join(map(str, found[:5])))
            raise OptionError(request.source, f"holds {len(found)} voices ({listed})", "Name one of its files")
        with temporary_folder(_TEMPORARY, voices) as temporary:
            for weights in found:
                yield _result(request, bundle, weights, temporary)


def remove_imports(home: Path) -> None:
    """Delete what killed imports left in the voices folder."""
    remove_abandoned((home / "voices").glob(f"{_TEMPORARY}*"))


class _Folder:
    """Files below a folder; or one file, with what lies beside it."""

    def __init__(self, source: Path, below: Iterable[str]) -> None:
        self.source = source
        self.root = source if source.is_dir() else source.parent
        if source.is_dir():
            walked = (found for part in below for found in os.walk(source / part))
            files = [Path(folder, name) for folder, _, names in walked for name in names]
        else:
            files = [self.root / name for name in os.listdir(self.root)]
        self.names = _visible(PurePath(file.relative_to(self.root)) for file in files if os.path.isfile(file))
        self.weights = _voices_among(self.names) if source.is_dir() else [PurePath(source.name)]

    def file(self, name: PurePath, _temporary: Path, _most_bytes: int) -> Path:
        return self.root / name


class _Archive:
    """Files in a zip archive, copied out one by one.

    Raises:
        CheckpointError: it isn't safe, or damaged.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        with self._open() as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        if len(entries) > MAX_ARCHIVE_ENTRIES:
            raise CheckpointError(source, f"{len(entries)} files are too many", "Unpack it and import its .pth file")
        for entry in entries:
            _check_member(entry.filename, source)
        self._entries: dict[PurePath, zipfile.ZipInfo] = {PurePosixPath(entry.filename): entry for entry in entries}
        self.names = _visible(self._entries)
        self.weights = _voices_among(self.names)

    def file(self, name: PurePath, temporary: Path, most_bytes: int) -> Path:
        """A copy of a member; its bytes are counted, as what its header says of its size need not be true."""
        target, copied = temporary / f"{os.urandom(8).hex()}{name.suffix.lower()}", 0
        with self._open() as archive, archive.open(self._entries[name]) as packed, target.open("wb") as unpacked:
            while block := packed.read(_COPY_BYTES):
                copied += len(block)
                if copied > most_bytes:
                    raise CheckpointError(self.source, f"'{printable(str(name))}' is larger than any voice")
                unpacked.write(block)
        return target

    @contextmanager
    def _open(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self.source) as archive:
                yield archive
        except (zipfile.BadZipFile, zlib.error, LookupError, NotImplementedError, RuntimeError, EOFError) as error:
            problem = "the archive is damaged or encrypted"
            raise CheckpointError(self.source, problem, "Unpack it and import its .pth file") from error


def _check_member(name: str, source: Path) -> None:
    """Refuse archives that try to write elsewhere; what makes them is not to be trusted with the rest either."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
        raise CheckpointError(source, f"unsafe path in archive: '{printable(name)}'", "Get the voice elsewhere")


def _opened(request: ImportRequest) -> _Folder | _Archive:
    from menura.checkpoints.pickles import unreadable

    source = request.source
    if not (os.path.isdir(source) or os.path.isfile(source)):
        raise OptionError(source, "no such file", "Give a voice's .pth, .safetensors, .zip, or a folder with voices")
    try:
        if source.is_dir() or source.suffix.lower() in VOICE_SUFFIXES:
            return _Folder(source, request.below)
        if zipfile.is_zipfile(source):
            return _Archive(source)
    except OSError as error:
        raise CheckpointError(source, f"can't be read ({error.strerror})") from error
    if source.suffix.lower() == ".zip":
        raise unreadable(source, "zip")
    raise CheckpointError(source, "not a voice", "Give a .pth, .safetensors or .zip file, or a folder with voices")


def _visible(names: Iterable[PurePath]) -> list[PurePath]:
    return [name for name in names if not any(part.startswith((".", "__MACOSX")) for part in name.parts)]


def _voices_among(names: Iterable[PurePath]) -> list[PurePath]:
    """Of a voice in both forms, the safetensors; nothing of training."""
    found: dict[PurePath, PurePath] = {}
    for suffix in reversed(VOICE_SUFFIXES):
        for name in names:
            if name.suffix.lower() == suffix and not is_training_file(name.name):
                found[name.with_suffix("")] = name
    return sorted(found.values())


def _newest(weights: list[PurePath], *, every_epoch: bool) -> list[PurePath]:
    """Of each voice the newest epoch, or every one."""
    voices: dict[tuple[PurePath, str], PurePath] = {}
    for name in sorted(weights, key=lambda name: epoch_of(name.stem)[1]):
        voices[name.parent, name.stem if every_epoch else epoch_of(name.stem)[0]] = name
    return sorted(voices.values())


def _result(request: ImportRequest, bundle: _Folder | _Archive, weights: PurePath, temporary: Path) -> ImportResult:
    file, name = str(weights), request.name or weights.stem
    try:
        return ImportResult(file=file, name=name, voice=_import(request, bundle, weights, temporary))
    except MenuraError as error:  # names what the user gave, not our copies
        copied = error.subject is not None and error.subject.startswith(str(temporary))
        about = error.about({str(error.subject): str(request.source)}) if copied else error
        return ImportResult(file=file, name=name, error=about)


def _import(request: ImportRequest, bundle: _Folder | _Archive, weights: PurePath, temporary: Path) -> VoiceEntry:
    from menura.checkpoints.rvc import load_voice

    name = _free_name(request.name or weights.stem, request.home)
    beside = [other for other in bundle.names if other.parent == weights.parent]
    index, note = request.index, ""
    if index is None:
        found, note = match_index(weights, beside)
        if found is None:  # perhaps in another folder
            found, note = match_index(weights, bundle.names)
        index = None if found is None else bundle.file(found, temporary, MAX_MEMBER_BYTES)
    voice = load_voice(bundle.file(weights, temporary, MAX_MEMBER_BYTES))
    if index is not None:
        _check_index(index, voice.config.content_dim)
    card, place = VoiceCard(), weights.with_name(CARD_NAME)
    if place in beside:
        card = read_card(bundle.file(place, temporary, MAX_CARD_BYTES))
        if len(_voices_among(beside)) != 1 and card.name != weights.stem:  # another's
            card = VoiceCard()
    fields = {**card.fields, "name": name, "source": card.source or request.source.name}
    _install(voice, index, fields, temporary / name, request.home / "voices" / name)
    return replace(find_voice(name, request.home), note=note)


def _check_index(index: Path, content_dim: int) -> None:
    from menura.retrieval.faiss_index import FaissIndex

    FaissIndex.load(index).check_dim(content_dim)


def _free_name(name: str, home: Path) -> str:
    taken = {voice.name.casefold() for voice in list_voices(home)}
    if check_name(name).casefold() in taken or os.path.lexists(home / "voices" / name):
        raise _taken(name)
    return name


def _taken(name: str) -> VoiceExistsError:
    problem = f"a voice named '{name}' exists already"
    return VoiceExistsError(None, problem, "Give another {name}, or remove it first", option="name")


def _install(voice: LoadedVoice, index: Path | None, card: dict[str, object], made: Path, target: Path) -> None:
    """Make the voice's folder, then give it its place."""
    from menura.checkpoints.rvc import save_voice

    made.mkdir()
    try:
        save_voice(made / WEIGHTS_NAME, voice, dtype=_lossless_dtype(voice))
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


def _lossless_dtype(voice: LoadedVoice) -> str:
    """RVC stores float16; files with finer weights keep them."""
    halves = all(bool((tensor.half().float() == tensor).all()) for tensor in voice.state.values())
    return "float16" if halves else "float32"
