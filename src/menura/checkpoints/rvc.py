"""Voice files: RVC's .pth as RVC WebUI, Applio and rvc-next write it, and the same weights as .safetensors."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from menura.checkpoints.pickles import load_tensors, reading, save_tensors
from menura.checkpoints.voice import LoadedVoice, VoiceMetadata, check_config, checked_voice
from menura.errors import CheckpointError, EncodeError
from menura.models.config import HIFI_GAN, MRF_HIFI_GAN, REFINE_GAN, SynthesizerConfig
from menura.models.weights import State
from menura.system.files import replacing
from menura.system.text import printable

_HEADER_KEY = "rvc"
"""Key of the .safetensors header under which, as JSON, all that a .pth holds beside its weights stands."""

_CONFIG = dataclasses.fields(SynthesizerConfig)[:18]
"""In the order of RVC's list."""
_TEXTS = {f.name: f.name for f in dataclasses.fields(VoiceMetadata) if f.type == "str"} | {"name": "model_name"}
"""Fields of VoiceMetadata by Applio's names."""
_WRAPPERS = re.compile(r"^(?:module\.)+|_orig_mod\.")
"""What DataParallel and torch.compile put into names."""
_NAMED_RATES = {"24k": 24_000, "32k": 32_000, "40k": 40_000, "44k": 44_100, "44.1k": 44_100, "48k": 48_000}
_MAX_TEXT = 1000
_MAX_LISTED = 64
_VERSIONS = {256: "v1", 768: "v2"}
"""By the width of the content, which decides: blended files sometimes state the wrong version or none."""
_DTYPES = {"float16": torch.float16, "float32": torch.float32}


def load_voice(path: Path) -> LoadedVoice:
    """Read a voice: an RVC .pth file, or a .safetensors file with the same weights.

    Fields that older files lack get RVC's defaults.

    Raises:
        UnsafeCheckpointError: the file holds more than weights.
        CheckpointError: missing, damaged, or not an RVC voice; the message says which.
    """
    fields, state = _contents(path, "cpu")
    _check_extent(path, state)
    return checked_voice(path, _config(path, fields, state), state, _metadata(fields))


def read_config(path: Path) -> SynthesizerConfig:
    """A voice's architecture, without reading its weights or building its network. Raises as `load_voice` does."""
    fields, state = _contents(path, "meta")
    config = _config(path, fields, state)
    check_config(path, config)
    return config


def _contents(path: Path, device: Literal["cpu", "meta"]) -> tuple[Mapping[Any, Any], State]:
    """A voice file's fields and its weights; on 'meta' no values are read (safetensors map theirs anyway)."""
    weights: object
    if path.suffix.lower() == ".safetensors":
        fields, weights = _read_safetensors(path)
    else:
        fields = load_tensors(path, device=device)
        weights = fields.get("weight") if isinstance(fields, dict) else None
        if isinstance(fields, dict) and weights is None and "model" in fields:
            raise _training_checkpoint(path, fields["model"])
    if not isinstance(fields, dict) or not isinstance(weights, dict):
        raise CheckpointError(path, "not an RVC voice: it lacks 'weight' or 'config'")
    for name, tensor in weights.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            what = printable(name, 80) if isinstance(name, str) else type(name).__name__
            raise CheckpointError(path, f"not an RVC voice: '{what}' isn't a weight")
    return fields, {_WRAPPERS.sub("", name): tensor for name, tensor in weights.items()}


def _read_safetensors(path: Path) -> tuple[object, State]:
    with reading(path, "safetensors"), safe_open(path, framework="pt", device="cpu") as file:
        fields = json.loads((file.metadata() or {}).get(_HEADER_KEY, "null"))
        # Not read unless it is a voice: other networks' files can be large.
        names = file.keys() if isinstance(fields, dict) else ()
        return fields, {name: file.get_tensor(name) for name in names}


def _training_checkpoint(path: Path, model: object) -> CheckpointError:
    generator = isinstance(model, dict) and any("dec." in str(name) for name in model)
    return CheckpointError(
        path,
        f"a training checkpoint ({'generator' if generator else 'discriminator'}), not a voice",
        "Use the voice that training exported, or export it with 'menura train export'",
    )


def _check_extent(path: Path, state: State) -> None:
    """Refuse tensors that take more memory than their file: with strides of zero a few bytes can claim any size."""
    storages = {storage._cdata: storage.nbytes() for storage in (t.untyped_storage() for t in state.values())}
    if sum(tensor.numel() * tensor.element_size() for tensor in state.values()) > sum(storages.values()):
        raise CheckpointError(path, "its weights claim to be larger than the file", "Fetch it again")


def _config(path: Path, fields: Mapping[Any, Any], state: State) -> SynthesizerConfig:
    try:
        return parse_config(fields, state)
    except (TypeError, ValueError, LookupError, OverflowError, RuntimeError) as error:
        raise CheckpointError(path, "its config can't be read", "The file is damaged or not an RVC voice") from error


def parse_config(content: Mapping[Any, Any], state: State) -> SynthesizerConfig:
    """RVC's ordered list by name, corrected by what the weights themselves say, in any form.

    Raises:
        TypeError, ValueError, LookupError, OverflowError: the fields are no RVC config.
    """
    content_dim = int(state["enc_p.emb_phone.weight"].shape[1])
    listed = zip(_CONFIG, content["config"], strict=True)
    values = {field.name: _FROM_LIST[str(field.type)](value) for field, value in listed}
    # RVC's own loader takes the number of speakers from the embedding: files state 109 and hold fewer.
    values["n_speakers"] = int(state["emb_g.weight"].shape[0])
    return SynthesizerConfig(
        **values,
        content_dim=content_dim,
        version=_VERSIONS.get(content_dim) or _text(content.get("version")) or "v2",
        has_f0="enc_p.emb_pitch.weight" in state,
        vocoder=_vocoder(content.get("vocoder"), state),
        content_encoder=_text(content.get("embedder_model")) or "contentvec",
    )


def _whole(value: Any) -> int:
    """40000, or a rate as '40k'."""
    return (_NAMED_RATES.get(value.lower()) if isinstance(value, str) else None) or int(value)


def _integers(values: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in _bounded(values))


def _bounded(values: Any) -> Any:
    if len(values) > _MAX_LISTED:
        raise ValueError("too many entries")
    return values


def _vocoder(value: Any, state: State) -> str:
    """Applio's field, or what the names of the weights show where files lack it."""
    if any(name.startswith("dec.mrfs.") for name in state):
        return MRF_HIFI_GAN
    if any(name.startswith("dec.downsample_blocks.") for name in state):
        return REFINE_GAN
    return _text(value) or HIFI_GAN


def _metadata(content: Mapping[Any, Any]) -> VoiceMetadata:
    return VoiceMetadata(
        **{ours: _text(content.get(theirs)) for ours, theirs in _TEXTS.items()},
        epoch=_integer(content.get("epoch")),
        step=_integer(content.get("step")),
        speaker_names=_speaker_names(content.get("speaker_info")),
    )


def _text(value: object) -> str:
    return printable(str(value), _MAX_TEXT) if isinstance(value, (str, int, float)) else ""


_FROM_LIST: Mapping[str, Callable[[Any], Any]] = {
    "int": _whole,
    "float": float,
    "str": _text,
    "tuple[int, ...]": _integers,
    "tuple[tuple[int, ...], ...]": lambda rows: tuple(_integers(row) for row in _bounded(rows)),
}
"""By the types of SynthesizerConfig."""


def _integer(value: object) -> int | None:
    try:
        return int(value) if isinstance(value, (int, float, str)) else None
    except (ValueError, OverflowError):
        return None


def _speaker_names(value: object) -> tuple[str, ...]:
    """rvc-next's [{id, name}], by id."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, dict) for item in value):
        return ()
    numbered = {_integer(item.get("id")): _text(item.get("name")) for item in value}
    return tuple(numbered.get(i, "") for i in range(len(numbered)))


def save_voice(path: Path, voice: LoadedVoice, *, dtype: str = "float16") -> None:
    """Write a voice, whole or not at all.

    Args:
        path: replaced if it exists; a .pth file is one of RVC and Applio, a .safetensors file has config and metadata
            as JSON in its header.
        voice: its weights may be in any form and contain the posterior encoder, which is left out.
        dtype: 'float16' as RVC stores, or 'float32'.

    Raises:
        CheckpointError: the weights don't fit the config.
        EncodeError: the file can't be written.
    """
    checked = checked_voice(path, voice.config, voice.state, voice.metadata)
    state = {name: tensor.to(_DTYPES[dtype]).clone() for name, tensor in checked.state.items()}
    fields = _fields(voice)
    with replacing(path, EncodeError) as partial:
        if path.suffix.lower() == ".pth":
            save_tensors({"weight": OrderedDict(state), **fields}, partial)
        else:
            partial.write_bytes(save(state, {_HEADER_KEY: json.dumps(fields, ensure_ascii=False)}))


def _fields(voice: LoadedVoice) -> dict[str, Any]:
    """What a voice file says beside its weights: Applio's fields, and RVC WebUI's `info`."""
    config, metadata = voice.config, voice.metadata
    texts = {theirs: getattr(metadata, ours) for ours, theirs in _TEXTS.items()}
    fields: dict[str, Any] = {
        "config": [_listed(getattr(config, field.name)) for field in _CONFIG],
        "epoch": metadata.epoch,
        "step": metadata.step,
        "sr": config.sample_rate,
        "f0": int(config.has_f0),
        "version": config.version,
        "embedder_model": config.content_encoder,
        "speakers_id": config.n_speakers,
        "vocoder": config.vocoder,
        **{name: text for name, text in texts.items() if text or name not in ("licence", "source")},
    }
    if metadata.speaker_names:
        fields["speaker_info"] = [{"id": i, "name": name} for i, name in enumerate(metadata.speaker_names)]
    return fields


def _listed(value: object) -> object:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value
