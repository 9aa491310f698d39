"""Voices and their files: RVC's .pth as RVC WebUI, Applio and rvc-next write it, and the same as .safetensors."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from dataclasses import fields as fields_of
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from menura.checkpoints.pickles import load_tensors, reading, save_tensors
from menura.errors import CheckpointError, EncodeError
from menura.models.config import HIFI_GAN, MRF_HIFI_GAN, REFINE_GAN, SOURCE_FILTER, SynthesizerConfig
from menura.models.source_filter import FINE_STEPS, WINDOW_HOPS
from menura.models.synthesizer import VOCODERS, Synthesizer
from menura.models.weights import State, classic, folded, unfolded, without_weights
from menura.system.files import replacing
from menura.system.text import printable
from menura.units import FRAME_RATE_HZ

_MAX_LAYERS, _MAX_CHANNELS, _MAX_SPEAKERS = 64, 16_384, 65_536
_MAX_RATE, _MAX_SAMPLE_RATE_HZ = 1_000, 192_000


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceMetadata:
    """What a voice file says beside its weights; empty where it says nothing."""

    name: str = ""
    author: str = ""
    info: str = ""
    """RVC's free text, such as '100epoch'."""
    epoch: int | None = None
    step: int | None = None
    creation_date: str = ""
    model_hash: str = ""
    dataset_length: str = ""
    """Hours, minutes, seconds of the recordings it was trained on, as Applio writes it: '00:10:00'."""
    speaker_names: tuple[str, ...] = ()
    """By speaker id, where the file names them."""
    licence: str = ""
    source: str = ""
    """Where the training recordings came from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedVoice:
    """A voice on the CPU."""

    config: SynthesizerConfig
    state: State
    """float32 weights under RVC's names (`weight_g`, `weight_v`), without the posterior encoder."""
    metadata: VoiceMetadata


_HEADER_KEY = "rvc"
"""Key of the .safetensors header under which, as JSON, all that a .pth holds beside its weights stands."""

SHARED_WEIGHTS = "shared.safetensors"
"""Beside the folder of starter voices, which are trained together and differ in some kilobytes."""
_SHARED = "shared"
"""Field of a file that holds only what differs."""

_CONFIG = fields_of(SynthesizerConfig)[:18]
"""In the order of RVC's list."""
_TEXTS = {f.name: f.name for f in fields_of(VoiceMetadata) if f.type == "str"} | {"name": "model_name"}
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
    """Read a voice: an RVC .pth file, or a .safetensors file with the same weights; older files get RVC's defaults.

    Raises UnsafeCheckpointError where it holds more than weights, CheckpointError where it is no RVC voice.
    """
    fields, state, config = _contents(path, "cpu")
    # With strides of zero a few bytes can claim any size.
    storages = {storage._cdata: storage.nbytes() for storage in (t.untyped_storage() for t in state.values())}
    if sum(tensor.nbytes for tensor in state.values()) > sum(storages.values()):
        raise CheckpointError(path, "its weights claim to be larger than the file", "Fetch it again")
    return checked_voice(path, config, state, _metadata(fields))


def weights_bytes(path: Path) -> int:
    """Of all of a voice's weights, with those that starter voices share. Raises as `load_voice` does."""
    return sum(tensor.nbytes for tensor in _contents(path, "cpu")[1].values())


def read_config(path: Path) -> SynthesizerConfig:
    """A voice's architecture, without reading its weights or building its network. Raises as `load_voice` does."""
    return _described(path)[0]


def read_metadata(path: Path) -> VoiceMetadata:
    """What a voice's file says beside its weights, without reading these. Raises as `load_voice` does."""
    return _described(path)[1]


def _described(path: Path) -> tuple[SynthesizerConfig, VoiceMetadata]:
    known = path.stat() if path.is_file() else None
    return _read(path, known and (known.st_size, known.st_mtime_ns, known.st_ino))


@lru_cache(64)  # a service is asked again and again
def _read(path: Path, _as_it_is: tuple[int, int, int] | None) -> tuple[SynthesizerConfig, VoiceMetadata]:
    fields, _, config = _contents(path, "meta")
    check_config(path, config)
    return config, _metadata(fields)


def _contents(path: Path, device: Literal["cpu", "meta"]) -> tuple[Mapping[Any, Any], State, SynthesizerConfig]:
    """A voice file's fields, weights and architecture; on 'meta' no values are read (safetensors map theirs anyway)."""
    weights: object
    if path.suffix.lower() == ".safetensors":
        with reading(path, "safetensors"), safe_open(path, framework="pt", device="cpu") as file:
            fields = json.loads((file.metadata() or {}).get(_HEADER_KEY, "null"))
            # Not read unless it is a voice: other networks' files can be large.
            names = file.keys() if isinstance(fields, dict) else ()
            weights = {name: file.get_tensor(name) for name in names}
        if isinstance(fields, dict) and fields.get(_SHARED):
            weights = {**_shared_weights(path.resolve().parent.parent.parent / SHARED_WEIGHTS), **weights}
    else:
        fields = load_tensors(path, device=device)
        weights = fields.get("weight") if isinstance(fields, dict) else None
        if isinstance(fields, dict) and weights is None and "model" in fields:
            model = fields["model"]
            generator = isinstance(model, dict) and any("dec." in str(name) for name in model)
            what = f"a training checkpoint ({'generator' if generator else 'discriminator'}), not a voice"
            advice = "Use the voice that training exported, or export it with 'menura train export'"
            raise CheckpointError(path, what, advice)
    if not isinstance(fields, dict) or not isinstance(weights, dict):
        raise CheckpointError(path, "not an RVC voice: it lacks 'weight' or 'config'")
    for name, tensor in weights.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            what = printable(name, 80) if isinstance(name, str) else type(name).__name__
            raise CheckpointError(path, f"not an RVC voice: '{what}' isn't a weight")
    state = {_WRAPPERS.sub("", name): tensor for name, tensor in weights.items()}
    try:
        return fields, state, parse_config(fields, state)
    except (TypeError, ValueError, LookupError, OverflowError, RuntimeError) as error:
        raise CheckpointError(path, "its config can't be read", "The file is damaged or not an RVC voice") from error


def _shared_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        problem = "the weights that starter voices share are missing"
        raise CheckpointError(path, problem, "Give the voice by its name, or as 'menura voices export' writes it")
    with reading(path, "safetensors"), safe_open(path, framework="pt", device="cpu") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it's no dict


def parse_config(content: Mapping[Any, Any], state: State) -> SynthesizerConfig:
    """RVC's ordered list by name, corrected by what the weights themselves say, in any form."""
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
    """Write a voice, whole or not at all: a .pth file of RVC and Applio, or .safetensors.

    Its weights may be in any form; the posterior encoder is left out. 'float16' is as RVC stores them; 'exact' is that
    where it loses nothing, else 'float32'.
    Raises CheckpointError where they don't fit the config, EncodeError where the file can't be written.
    """
    checked = checked_voice(path, voice.config, voice.state, voice.metadata)
    if dtype == "exact":
        dtype = "float16" if fits_half(checked.state) else "float32"
    state = {name: tensor.to(_DTYPES[dtype]).clone() for name, tensor in checked.state.items()}
    fields = _fields(voice)
    with replacing(path, EncodeError) as partial:
        if path.suffix.lower() == ".pth":
            save_tensors({"weight": OrderedDict(state), **fields}, partial)
        else:
            partial.write_bytes(save(state, {_HEADER_KEY: json.dumps(fields, ensure_ascii=False)}))


def fits_half(state: State) -> bool:
    """Whether float16 holds the weights exactly."""
    return all(bool((tensor.half().float() == tensor).all()) for tensor in state.values())


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


def build_synthesizer(voice: LoadedVoice) -> Synthesizer:
    """The voice's network for inference: weight norm folded, no gradients, on the CPU."""
    with without_weights():
        network = Synthesizer(voice.config)
    # Assigned, not copied: no second set of weights is ever made.
    network.load_state_dict(folded(voice.state), assign=True)
    return network.requires_grad_(False).eval()


@lru_cache(maxsize=32)
def expected_shapes(config: SynthesizerConfig) -> dict[str, tuple[int, ...]]:
    """Every weight of a voice with that architecture under RVC's name, in the order of its file."""
    with without_weights():
        network = Synthesizer(config, training=True)
    del network.enc_q
    return {name: tuple(tensor.shape) for name, tensor in classic(network.state_dict()).items()}


def checked_voice(
    path: Path, config: SynthesizerConfig, state: Mapping[str, Tensor], metadata: VoiceMetadata
) -> LoadedVoice:
    """A LoadedVoice from weights in any form, possibly with the posterior encoder.

    Raises CheckpointError: impossible architecture, or weights missing, unknown, of other shape, or not finite.
    """
    check_config(path, config)
    expected = expected_shapes(config)
    stored = {name: t for name, t in state.items() if not name.startswith("enc_q.")}  # which only training needs
    weights = unfolded(stored, [name for name in expected if name.endswith(".weight_g")])
    missing = [name for name in expected if name not in weights]
    unknown = [name for name in weights if name not in expected]
    if missing or unknown:
        what = f"lacks {_some(missing)}" if missing else f"has unknown weights {_some(unknown)}"
        raise CheckpointError(path, f"unsupported RVC voice: it {what}")
    wrong = [name for name, shape in expected.items() if tuple(weights[name].shape) != shape]
    if wrong:
        found = tuple(weights[wrong[0]].shape)
        raise CheckpointError(path, f"inconsistent: {wrong[0]} is {found}, its config says {expected[wrong[0]]}")
    # Only now, with sizes known to be sane, is anything allocated.
    loaded = {name: weights[name].detach().to(torch.float32).contiguous() for name in expected}
    broken = next((name for name, tensor in loaded.items() if not bool(tensor.isfinite().all())), None)
    if broken is not None:
        raise CheckpointError(path, f"{broken} contains NaN or Inf", "Training of this voice failed; use another one")
    return LoadedVoice(config=config, state=loaded, metadata=metadata)


def check_config(path: Path, config: SynthesizerConfig) -> None:
    """Raise CheckpointError for an architecture that can't be built, or would be absurdly large."""
    if config.vocoder not in VOCODERS:
        raise CheckpointError(path, f"unsupported vocoder '{config.vocoder}'; supported: {', '.join(VOCODERS)}")
    problem = config_problem(config)
    if problem:
        raise CheckpointError(path, f"its config has {problem}", "The file is damaged or not an RVC voice")


def config_problem(config: SynthesizerConfig) -> str | None:
    """Why such a network can't be built, as in "it has ..."; None if it can."""
    widths = (
        config.spec_channels, config.inter_channels, config.hidden_channels, config.filter_channels,
        config.upsample_initial_channel, config.gin_channels, config.content_dim, config.kernel_size,
        config.segment_size_frames, config.n_heads,
    )  # fmt: skip
    steps = (*config.upsample_rates, *config.upsample_kernel_sizes, *config.resblock_kernel_sizes)
    dilations = [d for row in config.resblock_dilation_sizes for d in row]
    stages = len(config.upsample_rates)
    upsampling = list(zip(config.upsample_kernel_sizes, config.upsample_rates, strict=False))
    frame_rates_agree = config.frame_samples * FRAME_RATE_HZ == config.sample_rate
    narrowing = 2 ** (stages + 1 if config.vocoder == REFINE_GAN else stages)
    checks = {
        "widths out of range": all(0 < width <= _MAX_CHANNELS for width in widths),
        "no layers, or too many": 0 < config.n_layers <= _MAX_LAYERS and 0 < stages <= _MAX_LAYERS,
        "no residual layers, or too many": 0 < len(dilations) <= _MAX_LAYERS and all(config.resblock_dilation_sizes),
        "rates or kernels out of range": all(0 < step <= _MAX_RATE for step in (*steps, *dilations)),
        "an impossible number of speakers": 0 < config.n_speakers <= _MAX_SPEAKERS,
        "a dropout outside 0 to 1": 0 <= config.p_dropout <= 1,
        "a sample rate out of range": 0 < config.sample_rate <= _MAX_SAMPLE_RATE_HZ,
        "an unknown kind of residual block": config.resblock in ("1", "2"),
        "not as many upsampling kernels as rates": stages == len(config.upsample_kernel_sizes),
        "upsampling kernels shorter than their rates": all(k >= r for k, r in upsampling),
        "even upsampling kernels at a rate of 1": all(r > 1 or k % 2 == 1 for k, r in upsampling),
        "even residual kernels": all(k % 2 == 1 for k in config.resblock_kernel_sizes),
        "residual kernels without dilations": len(config.resblock_kernel_sizes) == len(config.resblock_dilation_sizes),
        "too many upsampling stages for its width": config.upsample_initial_channel % narrowing == 0,
        "heads that don't divide the width": config.n_heads > 0 and config.hidden_channels % config.n_heads == 0,
        "filters of a layout that Menura doesn't know": config.vocoder != SOURCE_FILTER or _draws_filters(config),
        "an odd number of latent channels": config.inter_channels % 2 == 0,
        "no F0, which its vocoder needs": config.has_f0 or config.vocoder == HIFI_GAN,
        f"upsampling that doesn't give {FRAME_RATE_HZ} frames a second": frame_rates_agree,
    }
    return next((problem for problem, fine in checks.items() if not fine), None)


def _draws_filters(config: SynthesizerConfig) -> bool:
    rates, kernels = config.upsample_rates, config.upsample_kernel_sizes
    return len(rates) == 2 and rates[0] == FINE_STEPS and kernels == (2 * FINE_STEPS, WINDOW_HOPS * rates[1])


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(printable(name, 80) for name in names[:3]) + more
