"""Voices by name: those that come with the package, and those installed under $MENURA_HOME/voices.

An installed voice is a folder of that name with the voice's weights, and optionally its index and a `card.json`; a
weights file lying directly in the `voices` folder counts too. Loads no torch.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from menura.errors import OptionError, ResourceError, VoiceNotFoundError

VOICE_SUFFIXES = (".safetensors", ".pth")
"""Of a voice's weights; the first is preferred where both are there."""

CARD_NAME = "card.json"
WEIGHTS_NAME = "voice.safetensors"
MAX_NAME_CHARACTERS = 100

_BUILTIN_FOLDER = Path(__file__).resolve().parent.parent / "assets" / "starter" / "voices"
_NOT_IN_NAMES = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')
_WINDOWS_DEVICES = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE)


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


def list_voices(home: Path) -> tuple[VoiceEntry, ...]:
    """Every known voice, the built-in ones first, each group by name.

    Args:
        home: Menura's data folder.
    """
    voices: dict[str, VoiceEntry] = {}
    for folder, builtin in ((_BUILTIN_FOLDER, True), (home / "voices", False)):
        for voice in sorted(_voices_in(folder, builtin=builtin), key=lambda voice: (voice.name, voice.path)):
            voices.setdefault(voice.name, voice)
    return tuple(voices.values())


def find_voice(name_or_path: str, home: Path) -> VoiceEntry:
    """The voice of that name, or the weights file at that path (with no index of its own).

    Args:
        name_or_path: a known voice's name, or the path of a .pth or .safetensors file.
        home: Menura's data folder.

    Raises:
        VoiceNotFoundError: neither; the message names the known voices.
    """
    voices = list_voices(home)
    for voice in voices:
        if voice.name == name_or_path:
            return voice
    path = Path(name_or_path).expanduser()
    if path.is_file():
        card = read_card(path.parent)
        median = _median_of(card) if card.get("name") == path.stem else None
        return VoiceEntry(
            name=path.stem, path=path, index_path=None, builtin=False, source=path.name, f0_median_hz=median
        )
    if path.suffix.lower() in VOICE_SUFFIXES or len(path.parts) > 1:
        what = "is a folder; name the .pth file in it" if path.is_dir() else "no such voice file; check the path"
        raise VoiceNotFoundError(f"{name_or_path}: {what}.")
    raise VoiceNotFoundError(_not_found(name_or_path, [voice.name for voice in voices]))


def remove_voice(name: str, home: Path) -> VoiceEntry:
    """Delete an installed voice with its index and card.

    Raises:
        VoiceNotFoundError: no voice of that name.
        OptionError: the voice is built in, or lies elsewhere.
        ResourceError: its files can't be deleted.
    """
    voice = find_voice(name, home)
    if voice.builtin:
        raise OptionError(f"voice: '{name}' is built in and can't be removed.")
    folder = home / "voices"
    if folder not in voice.path.parents:
        raise OptionError(f"voice: '{name}' is a file, not an installed voice; delete it yourself.")
    try:
        if voice.path.parent == folder:
            for path in filter(None, (voice.path, voice.index_path)):
                path.unlink()
        elif voice.path.parent.is_symlink():
            voice.path.parent.unlink()
        else:
            shutil.rmtree(voice.path.parent)
    except OSError as error:
        raise ResourceError(f"{voice.path}: can't be removed ({error.strerror}); check its permissions.") from error
    return voice


def check_name(name: str) -> str:
    """The name, if it can be a folder's on every system.

    Raises:
        OptionError: it can't.
    """
    bad = (
        not 0 < len(name) <= MAX_NAME_CHARACTERS
        or _NOT_IN_NAMES.search(name)
        or name[0] in ".- "
        or name[-1] in ". "
        or _WINDOWS_DEVICES.fullmatch(name)
    )
    if bad:
        raise OptionError(f"name: '{name}' can't be a voice's name; use letters, digits, spaces, - and _.")
    return name


def read_card(folder: Path) -> Mapping[str, object]:
    """What a voice's `card.json` says; empty where there is none that can be read."""
    try:
        card = json.loads((folder / CARD_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return card if isinstance(card, dict) else {}


def find_index(folder: Path, name: str) -> Path | None:
    """A voice folder's retrieval index: `<name>.index`, else RVC's `added_*.index`; never the empty `trained_*`."""
    named = folder / f"{name}.index"
    if named.is_file():
        return named
    return next(iter(sorted(folder.glob("added_*.index"))), None)


def _voices_in(folder: Path, *, builtin: bool) -> Iterator[VoiceEntry]:
    try:
        entries = [Path(entry.path) for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError:
        return  # nothing installed yet
    for entry in entries:
        if entry.is_dir():
            voice = _voice_of_folder(entry, builtin=builtin)
        elif entry.suffix.lower() in VOICE_SUFFIXES:
            beside = entry.with_suffix(".index")
            index = beside if beside.is_file() else None
            voice = VoiceEntry(name=entry.stem, path=entry, index_path=index, builtin=builtin, source=entry.name)
        else:
            continue
        if voice is not None:
            yield voice


def _voice_of_folder(folder: Path, *, builtin: bool) -> VoiceEntry | None:
    files = [path for suffix in VOICE_SUFFIXES for path in sorted(folder.glob(f"*{suffix}"))]
    if not files:
        return None
    preferred = folder / WEIGHTS_NAME
    path = preferred if preferred in files else files[0]
    card = read_card(folder)
    source = card.get("source")
    return VoiceEntry(
        name=folder.name,
        path=path,
        index_path=find_index(folder, folder.name),
        builtin=builtin,
        source=source if isinstance(source, str) else path.name,
        f0_median_hz=_median_of(card),
    )


def _median_of(card: Mapping[str, object]) -> float | None:
    median = card.get("f0_median_hz")
    return float(median) if isinstance(median, (int, float)) and 20 <= median <= 2000 else None


def _not_found(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    listed = ", ".join(known) if known else "none"
    return (
        f"voice '{name}' is not known.{hint} Known: {listed}. "
        "Give one of them or a .pth file, or install one: menura voices import FILE."
    )
