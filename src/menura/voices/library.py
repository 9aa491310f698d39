"""Voices by name or path: the built-in ones and those in MENURA_HOME/voices. Loads no torch.

An installed voice is a folder of that name with the voice's weights, and optionally its index and a `card.json`; a
weights file lying directly in the `voices` folder counts too. Cards come from strangers, and are read within bounds.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import TypeVar

from menura.errors import OptionError, ResourceError, VoiceNotFoundError
from menura.system.files import read_json
from menura.system.text import printable

VOICE_SUFFIXES = (".safetensors", ".pth")
"""Of a voice's weights; the first is preferred where both are there."""
WEIGHTS_NAME = "voice.safetensors"
CARD_NAME = "card.json"
MAX_CARD_BYTES = 1 << 18
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

AnyPath = TypeVar("AnyPath", bound=PurePath)


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceEntry:
    """A voice that can be converted into."""

    name: str
    path: Path
    """Its weights."""
    index_path: Path | None
    """Its retrieval index, where there is one."""
    builtin: bool
    source: str
    """Where it comes from: 'kokoro:af_heart' for a starter voice, the imported file's name for others."""
    f0_median_hz: float | None = None
    """The voice's own pitch, where its card says it."""
    note: str = ""
    """Which index was found beside it, or why none is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceCard:
    """What `card.json` beside a voice says; empty where there is none that can be read."""

    name: str = ""
    source: str = ""
    f0_median_hz: float | None = None
    fields: Mapping[str, object] = field(default_factory=dict)
    """All of it; texts are one line each."""


def read_card(path: Path) -> VoiceCard:
    """Read a card's file."""
    try:
        fields = _cleaned(read_json(path, MAX_CARD_BYTES))
    except (OSError, ValueError):
        fields = None
    if not isinstance(fields, dict):
        return VoiceCard()
    name, source, median = (fields.get(key) for key in ("name", "source", "f0_median_hz"))
    return VoiceCard(
        name=name if isinstance(name, str) else "",
        source=source if isinstance(source, str) else "",
        f0_median_hz=float(median) if isinstance(median, (int, float)) and 20 <= median <= 2000 else None,
        fields=fields,
    )


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
    try:
        entries = [Path(entry.path) for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError:
        return  # nothing installed yet
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
        note="" if index else note,
    )


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(folder / name for name in os.listdir(folder) if os.path.isfile(folder / name))
    except OSError:
        return []
