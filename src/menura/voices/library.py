"""The library of voices: the built-in ones and those in MENURA_HOME/voices; found, imported, removed. Loads no torch.

An installed voice is a folder of that name with the voice's weights, and optionally its index and a `card.json`; a
weights file lying directly in the `voices` folder counts too. Voices, archives and cards come from strangers: cards
are read within bounds, weights without running code, and nothing of an archive is unpacked under a name of its own.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from menura.errors import CheckpointError, MenuraError, OptionError, ResourceError, VoiceExistsError, VoiceNotFoundError
from menura.system.files import read_json, remove_abandoned, temporary_folder, writing
from menura.system.text import printable

if TYPE_CHECKING:
    from menura.checkpoints.voice import LoadedVoice

VOICE_SUFFIXES = (".safetensors", ".pth")
"""Of a voice's weights; the first is preferred where both are there."""
WEIGHTS_NAME = "voice.safetensors"
CARD_NAME = "card.json"
MAX_ARCHIVE_ENTRIES, MAX_MEMBER_BYTES, MAX_CARD_BYTES = 10_000, 4 * 2**30, 1 << 18
_MAX_TEXT, _MAX_ENTRIES, _MAX_DEPTH = 1000, 64, 4

TRAINING_FILE = re.compile(r"(?:[GD]_\d+|(?:f0)?[GD]\d\dk\w*)\.pth")
"""Names of checkpoints of training and of what it begins with."""
_BUILTIN_FOLDER = Path(__file__).resolve().parent.parent / "assets" / "starter" / "voices"
_NAME = re.compile(
    r'(?![-. ]|(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?\Z)[^\x00-\x1f\x7f/\\:*?"<>|]{1,100}(?<![. ])', re.IGNORECASE
)
"""What can be a folder's name on every system: Windows has devices of some names."""
_EPOCH = re.compile(r"(.+?)(?:_(\d+)e(?:_(\d+)s)?|_e(\d+)(?:_s(\d+))?)(?:_best_epoch)?")
"""How Applio and RVC WebUI name a voice's epochs: singer_100e_2500s, singer_e100_s2500."""

TEMPORARY = ".import-"
"""What folders of unfinished voices begin with."""
_UNPACK = "Unpack it and import its .pth file"

AnyPath = TypeVar("AnyPath", bound=PurePath)
Members: TypeAlias = "Mapping[PurePath, Path | zipfile.ZipInfo]"
"""The files of a source by their names in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceEntry:
    """A voice that can be converted into."""

    name: str
    path: Path
    """Its weights."""
    index_path: Path | None
    builtin: bool
    source: str
    """Where it comes from: 'kokoro:af_heart' for a starter voice, the imported file's name for others."""
    f0_median_hz: float | None = None
    f0_range_hz: tuple[float, float] | None = None
    """5th and 95th percentile, around the median."""
    note: str = ""
    """Which index was found beside it, or why none is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceCard:
    """What `card.json` beside a voice says; empty where there is none that can be read."""

    name: str = ""
    source: str = ""
    f0_median_hz: float | None = None
    f0_range_hz: tuple[float, float] | None = None
    fields: Mapping[str, object] = field(default_factory=dict)
    """All of it; texts are one line each."""


def read_card(path: Path) -> VoiceCard:
    fields: object = None
    with suppress(OSError, ValueError):
        fields = _cleaned(read_json(path, MAX_CARD_BYTES))
    if not isinstance(fields, dict):
        return VoiceCard()
    name, source, median = fields.get("name"), fields.get("source"), _hertz(fields.get("f0_median_hz"))
    ends = fields.get("f0_range_hz")
    low, high = map(_hertz, ends) if isinstance(ends, list) and len(ends) == 2 else (None, None)
    return VoiceCard(
        name=name if isinstance(name, str) else "",
        source=source if isinstance(source, str) else "",
        f0_median_hz=median,
        f0_range_hz=(low, high) if low and median and high and low < median < high else None,
        fields=fields,
    )


def _hertz(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and 20 <= value <= 2000 else None


def _cleaned(value: object, depth: int = 0) -> object:
    if isinstance(value, str):
        return printable(value, _MAX_TEXT)
    if depth == _MAX_DEPTH and isinstance(value, (list, dict)):
        return "…"
    if isinstance(value, list):
        return [_cleaned(item, depth + 1) for item in value[:_MAX_ENTRIES]]
    if isinstance(value, dict):
        return {printable(key, 80): _cleaned(item, depth + 1) for key, item in list(value.items())[:_MAX_ENTRIES]}
    return value


def list_voices(home: Path) -> tuple[VoiceEntry, ...]:
    """Every known voice, the built-in ones first, each group by name."""
    voices: dict[str, VoiceEntry] = {}
    for folder, builtin in ((_BUILTIN_FOLDER, True), (home / "voices", False)):
        for voice in sorted(_voices_in(folder, builtin=builtin), key=lambda voice: (voice.name, voice.path)):
            voices.setdefault(voice.name, voice)
    return tuple(voices.values())


def find_voice(name_or_path: str, home: Path) -> VoiceEntry:
    """The voice of that name, in any case if that is unambiguous, or the weights file at that path.

    Raises:
        VoiceNotFoundError: neither; the error names the known voices.
    """
    voices = {voice.name: voice for voice in list_voices(home)}
    if name_or_path in voices:
        return voices[name_or_path]
    path = Path(os.path.expanduser(name_or_path))  # Path's own raises where there is no home
    if os.path.isfile(path):  # unlike Path's it takes any name
        card, files = read_card(path.parent / CARD_NAME), _files(path.parent)
        voice = _entry(path, path.stem, files, card if card.name == path.stem else VoiceCard())
        return replace(voice, note=match_index(path, files)[1])
    alike = [voice for name, voice in voices.items() if name.casefold() == name_or_path.casefold()]
    if len(alike) == 1:
        return alike[0]
    if name_or_path and os.path.isdir(path):
        raise VoiceNotFoundError(name_or_path, "is a folder", "Name the .pth file in it", option="voice")
    if path.suffix.lower() in VOICE_SUFFIXES or len(path.parts) > 1:
        raise VoiceNotFoundError(name_or_path, "no such voice file", "Check the path", option="voice")
    close = difflib.get_close_matches(name_or_path, voices, n=1)
    hint = f"Did you mean '{printable(close[0])}'? " if close else ""
    listed = printable(", ".join(voices), 500) or "none"
    advice = f"{hint}Known: {listed}. Give one of them or a .pth file, or install one: menura voices import FILE"
    raise VoiceNotFoundError(None, f"voice '{printable(name_or_path)}' is not known", advice, option="voice")


def remove_voice(name: str, home: Path) -> VoiceEntry:
    """Delete an installed voice with its index and card.

    Raises:
        VoiceNotFoundError: no voice of that name.
        OptionError: the voice is built in, or lies elsewhere.
        ResourceError: its files can't be deleted.
    """
    voice, voices = find_voice(name, home), home / "voices"
    folder = voice.path.parent
    if voice.builtin:
        raise OptionError(name, "is built in and can't be removed")
    if voices not in voice.path.parents:
        raise OptionError(name, "is a file, not an installed voice", "Delete the file yourself")
    try:
        if folder == voices:
            voice.path.unlink()
            voice.path.with_suffix(".index").unlink(missing_ok=True)
        elif folder.is_symlink():
            folder.unlink()
        else:
            shutil.rmtree(folder)
    except OSError as error:
        raise ResourceError(voice.path, f"can't be removed ({error.strerror})", "Check its permissions") from error
    return voice


def check_name(name: str) -> str:
    """The name, if it can be a folder's on every system. Raises OptionError."""
    if not _NAME.fullmatch(name):
        problem = f"'{printable(name)}' can't be a voice's name"
        raise OptionError(None, problem, "Use letters, digits, spaces, - and _", option="name")
    return name


def card_of(voice: VoiceEntry) -> VoiceCard:
    """A voice's own card; one beside a file of many is another's."""
    own = voice.builtin or voice.path.parent.name == voice.name
    return read_card(voice.path.parent / CARD_NAME) if own else VoiceCard()


def rights_of(voice: VoiceEntry) -> str | None:
    """What allows a voice's use, as its maker or importer says in its card."""
    card = card_of(voice).fields
    return next((text for text in map(card.get, ("licence", "license", "rights")) if isinstance(text, str)), None)


def speaker_names(voice: VoiceEntry) -> tuple[str, ...]:
    """A voice's speakers by id, as its card names them, else its file; empty where neither does."""
    from menura.checkpoints.voice import read_metadata

    listed = card_of(voice).fields.get("speakers")
    return tuple(map(str, listed)) if isinstance(listed, list) else read_metadata(voice.path).speaker_names


def free_name(name: str, home: Path, own: str = "") -> str:
    """The name, if a voice can be given it, who may be called `own` already. Raises OptionError."""
    taken = {voice.name.casefold() for voice in list_voices(home) if voice.name != own}
    respelt = name != own and name.casefold() == own.casefold()  # one folder, where case doesn't count
    if check_name(name).casefold() in taken or (os.path.lexists(home / "voices" / name) and not respelt):
        raise _taken(name)
    return name


def epoch_of(stem: str) -> tuple[str, tuple[float, float]]:
    """A voice file's name without its epoch, and its epoch and step; a name without them is the final voice's."""
    found = _EPOCH.fullmatch(stem)
    if found is None:
        return stem, (float("inf"), 0)
    return found[1], (int(found[2] or found[4]), int(found[3] or found[5] or 0))


def match_index(weights: AnyPath, files: Sequence[AnyPath]) -> tuple[AnyPath | None, str]:
    """The index among the files of a voice's folder that is this voice's, and a note: which, or why none of several.

    One of its own name goes before RVC's `added_IVF256_Flat_nprobe_1_<name>_v2.index`; one of another name is taken
    only where the folder has no other index and no other voice. `trained_*.index` are empty.
    """
    indexes = [f for f in files if f.suffix.lower() == ".index" and not f.name.startswith("trained_")]
    if not indexes:
        return None, ""
    names = {weights.stem.casefold(), epoch_of(weights.stem)[0].casefold(), weights.parent.name.casefold()} - {""}
    stems, ends = {f: re.sub("_v[12]$", "", f.stem.casefold()) for f in indexes}, tuple(f"_{name}" for name in names)
    others = [f for f in files if f.suffix.lower() in VOICE_SUFFIXES and not TRAINING_FILE.fullmatch(f.name)]
    fitting = (
        [f for f in indexes if f.stem == weights.stem]
        or [f for f in indexes if f.stem.casefold() in names]
        or [f for f, stem in stems.items() if stem.startswith("added_") and stem.endswith(ends)]
        or (indexes if len({epoch_of(f.stem)[0] for f in others}) == 1 else [])
    )
    if len(fitting) == 1:
        return fitting[0], f"Index found beside the voice: {printable(fitting[0].name)}."
    shown = ", ".join(printable(f.name) for f in indexes[:3])
    return None, f"No index is used: none beside the voice is clearly its own ({shown})."


def _voices_in(folder: Path, *, builtin: bool) -> Iterator[VoiceEntry]:
    entries = []
    with suppress(OSError):  # nothing installed yet
        entries = [Path(entry.path) for entry in os.scandir(folder) if not entry.name.startswith(".")]
    for entry in entries:
        with suppress(OSError):  # one that can't be read doesn't hide the others
            if entry.is_dir():
                files = _files(entry)
                if weights := [f for f in files if f.suffix.lower() in VOICE_SUFFIXES]:
                    first = min(weights, key=lambda f: (f.name != WEIGHTS_NAME, VOICE_SUFFIXES.index(f.suffix.lower())))
                    yield _entry(first, entry.name, files, read_card(entry / CARD_NAME), builtin=builtin)
            elif entry.suffix.lower() in VOICE_SUFFIXES and entry.is_file():
                files = [file for file in (entry, entry.with_suffix(".index")) if file.is_file()]
                yield _entry(entry, entry.stem, files, VoiceCard())


def _entry(path: Path, name: str, files: Sequence[Path], card: VoiceCard, *, builtin: bool = False) -> VoiceEntry:
    index, note = match_index(path, files)
    return VoiceEntry(
        name=name,
        path=path,
        index_path=index,
        builtin=builtin,
        source=card.source or path.name,
        f0_median_hz=card.f0_median_hz,
        f0_range_hz=card.f0_range_hz,
        note="" if index else note,
    )


def _files(folder: Path) -> list[Path]:
    with suppress(OSError):
        return sorted(folder / name for name in os.listdir(folder) if os.path.isfile(folder / name))
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """What to install."""

    source: Path
    """A .pth or .safetensors file, or a folder or .zip with voices."""
    below: tuple[str, ...] = (".",)
    home: Path
    name: str | None = None
    """What to call the one voice; by default as its file is called."""
    index: Path | None = None
    """The one voice's retrieval index; by default the one found beside it."""
    rights: str | None = None
    """Whose voice it is and what allows its use; kept in the card."""
    url: str | None = None
    """Where the source was fetched, and what it was: kept in the card."""
    sha256: str | None = None
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
        found = [PurePath(source.name)] if single else voices_among(members, every_epoch=request.every_epoch)
        if not found:
            raise CheckpointError(source, "holds no voice (.pth or .safetensors)")
        if len(found) > 1 and (request.name is not None or index is not None):
            listed = printable(", ".join(map(str, found[:5])))
            raise OptionError(source, f"holds {len(found)} voices ({listed})", "Name one of its files")
        with temporary_folder(TEMPORARY, voices) as temporary:
            for weights in found:
                yield _result(request, members, weights, temporary)


def remove_imports(home: Path) -> None:
    """Delete what killed imports left in the voices folder."""
    remove_abandoned((home / "voices").glob(f"{TEMPORARY}*"))


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

            advice = "Give a .pth, .safetensors or .zip file, or a folder with voices"
            is_zip = source.suffix.lower() == ".zip"
            raise unreadable(source, "zip") if is_zip else CheckpointError(source, "not a voice", advice)
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


def voices_among(names: Iterable[AnyPath], *, every_epoch: bool) -> list[AnyPath]:
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
    from menura.checkpoints.voice import load_voice

    def file(name: PurePath, most_bytes: int = MAX_MEMBER_BYTES) -> Path:
        member = members[name]
        return member if isinstance(member, Path) else _unpacked(member, request.source, temporary, most_bytes)

    name = free_name(request.name or weights.stem, request.home)
    target = request.home / "voices" / name
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
    if card.name != weights.stem and len(voices_among(beside, every_epoch=True)) != 1:  # another's
        card = VoiceCard()
    fields = {**card.fields, "name": name, "source": card.source or request.source.name}
    given = {"rights": request.rights, "url": request.url, "sha256": request.sha256}
    fields |= {key: value for key, value in given.items() if value is not None}
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
    from menura.checkpoints.voice import save_voice

    made.mkdir()
    try:  # RVC stores float16; files with finer weights keep them
        save_voice(made / WEIGHTS_NAME, voice, dtype="exact")
    except MenuraError as error:
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
