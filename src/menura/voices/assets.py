"""Weights that Menura doesn't ship: what they are for, where they come from, where they belong. Loads no torch.

The catalogue has hub addresses as of 2026, and sizes and SHA-256 where public documents give them. The files' own names
are those that Applio and RVC WebUI use.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from menura.errors import AssetMissingError, MenuraError
from menura.system.text import printable
from menura.voices.library import VoiceEntry, list_voices

HOME_VARIABLE = "MENURA_HOME"
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHIPPED = "menura-starter"
"""The one content encoder that comes with Menura."""
_UNKNOWN = "the content of this voice; Menura knows no source of it"
_ASK = "Ask the voice's author for these files (HuBERT base in transformers' layout)"
_CATALOGUE = Path(__file__).resolve().parent.parent / "assets" / "catalogue.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetFile:
    """One file of an asset, as it was published."""

    path: str
    """Relative to the assets folder. In place of a pytorch_model.bin there may be a model.safetensors."""
    url: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    others: tuple[str, ...] = ()
    """SHA-256 of other forms in which it was published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """Weights of one network: a file, or a folder of files."""

    name: str
    purpose: str
    files: tuple[AssetFile, ...]
    package: str | None = None
    """A Python package that carries the file, and where in it: 'package/inner/path'."""
    advice: str = ""
    substitute: str = ""
    """How to do without it, as an error's advice."""

    @property
    def size_bytes(self) -> int:
        """Of all files of which it is known."""
        return sum(file.size_bytes or 0 for file in self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetStatus:
    """Whether an asset is there, and where."""

    asset: Asset
    path: Path | None
    missing: tuple[AssetFile, ...] = ()
    note: str = ""


@functools.cache
def catalogue() -> dict[str, Asset]:
    """Every known asset by its name."""
    document = json.loads(_CATALOGUE.read_text(encoding="utf-8"))
    return {
        name: Asset(name=name, **entry | {"files": tuple(AssetFile(**file) for file in entry["files"])})
        for name, entry in document.items()
    }


def home_folder(home: Path | None = None) -> Path:
    """Menura's data folder: the given one, else $MENURA_HOME, else the platform's user data folder.

    Where a user has no home, it is a folder that isn't there: built-in voices work, writing says why it fails.
    """
    if given := home or os.environ.get(HOME_VARIABLE):
        return Path(os.path.expanduser(given))
    from platformdirs import user_data_dir

    with suppress(RuntimeError):
        if (folder := Path(user_data_dir("menura", appauthor=False))).is_absolute():
            return folder
    return Path("/nonexistent/set-MENURA_HOME")


def cache_folder(home: Path) -> Path:
    """Has `kernels` with packed weights and `bench` with benchmarks' recordings; all can be removed at any time."""
    return home / "cache"


def find_asset(name: str, home: Path | None = None) -> Path:
    """Where the file, or the folder of files, of an asset or of a voice's content encoder is.

    Raises:
        AssetMissingError: it is not installed; the message says what to fetch, from where, and where to put it.
    """
    home = home_folder(home)
    status = status_of(name, home)
    if status.path is not None:
        return status.path
    asset, steps = status.asset, "; ".join(fetch_steps(status, home))
    take = "Or take it from Applio or RVC WebUI: menura assets import FOLDER"
    advice = filter(None, (steps[0].upper() + steps[1:], take, asset.advice, asset.substitute))
    raise AssetMissingError(asset.name, f"not installed; it is for {asset.purpose}", ". ".join(advice))


def needed_by(home: Path, voices: Sequence[VoiceEntry] | None = None) -> dict[str, list[str]]:
    """The content encoders of these voices, by default of the installed ones, and the voices' names."""
    voices = [voice for voice in list_voices(home) if not voice.builtin] if voices is None else voices
    if not voices:
        return {}
    from menura.checkpoints.voice import read_config

    needed: dict[str, list[str]] = {}
    for voice in voices:
        with suppress(MenuraError):  # a damaged voice needs nothing
            encoder = read_config(voice.path).content_encoder
            if encoder != _SHIPPED and SAFE_NAME.fullmatch(encoder):
                needed.setdefault(encoder, []).append(voice.name)
    return needed


def asset_status(home: Path | None = None, others: Iterable[str] = ()) -> tuple[AssetStatus, ...]:
    """Every known asset and whether it is there, in the catalogue's order; then other encoders."""
    return tuple(status_of(name, home_folder(home)) for name in dict.fromkeys([*catalogue(), *others]))


def status_of(name: str, home: Path) -> AssetStatus:
    """Of a known asset, or of an encoder that a voice names and Menura doesn't know: the user may have its files."""
    if name not in catalogue() and not SAFE_NAME.fullmatch(name):
        raise AssetMissingError(None, f"the voice's content encoder, {printable(name, 80)!r}, can't be a folder's name")
    files = (AssetFile(path=f"{name}/config.json"), AssetFile(path=f"{name}/pytorch_model.bin"))
    asset = catalogue().get(name) or Asset(name=name, purpose=_UNKNOWN, files=files, advice=_ASK)
    folder = home / "assets"
    if missing := tuple(file for file in asset.files if not _is_there(folder / file.path)):
        packaged = _packaged(asset.package) if asset.package else None
        note = "in an installed package" if packaged else ""
        return AssetStatus(asset=asset, path=packaged, missing=() if packaged else missing, note=note)
    first = folder / asset.files[0].path
    if len(asset.files) > 1:
        return AssetStatus(asset=asset, path=first.parent)
    size = first.stat().st_size
    odd = asset.size_bytes not in (0, size)
    note = f"{first.name} has {size} bytes, the published file {asset.size_bytes}" if odd else ""
    return AssetStatus(asset=asset, path=first, note=note)


def _is_there(path: Path) -> bool:
    return path.is_file() or (path.name == "pytorch_model.bin" and path.with_name("model.safetensors").is_file())


def _packaged(place: str) -> Path | None:
    """A file inside an installed package, found without importing it."""
    package, _, inner = place.partition("/")
    spec = importlib.util.find_spec(package)
    roots = (spec.submodule_search_locations or ()) if spec else ()
    return next((path for root in roots if (path := Path(root) / inner).is_file()), None)


def fetch_steps(status: AssetStatus, home: Path) -> list[str]:
    steps = [f"run 'menura assets fetch {status.asset.name}'"] if any(file.url for file in status.missing) else []
    for file in status.missing:
        size = f" ({file.size_bytes / 1e6:.0f} MB)" if file.size_bytes and file.size_bytes > 1e6 else ""
        fetch = f"or fetch {file.url}{size} and put it" if file.url else f"put it{size}"
        steps.append(f"{fetch} at {home / 'assets' / file.path}")
    return steps
