"""Takes networks and voices over from a folder of Applio or RVC WebUI, found by its layout."""

from __future__ import annotations

import json
import os
import re
import shutil
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
from menura.models.hubert import Hubert, HubertConfig
from menura.system.files import replacing, write_whole
from menura.voices.assets import SAFE_NAME, status_of
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

    Raises:
        OptionError: nothing in the folder is known.
        ResourceError: the data folder can't be written.
    """
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
    fcpe = partial(
        _check_parts, parts=("config_dict", "model"), problem="an FCPE file of another kind than torchfcpe's"
    )
    for file, places, install in (
        ("contentvec", _FAIRSEQ, _convert_encoder),
        ("rmvpe.pt", _RMVPE, partial(_copy, check=load_weights)),
        ("fcpe.pt", _FCPE, partial(_copy, check=fcpe)),
    ):
        name = file.removesuffix(".pt")
        if source := _first(folder, places):
            present = status_of(name, home).path is not None
            yield _taken(name, source, partial(install, source, home / "assets" / file), present=present)


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


def _first(folder: Path, places: tuple[str, ...]) -> Path | None:
    return next((folder / place for place in places if (folder / place).is_file()), None)
