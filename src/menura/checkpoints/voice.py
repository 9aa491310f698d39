"""A voice as read from a file: architecture, weights, and what the file says of its origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from menura.errors import CheckpointError
from menura.models.config import HIFI_GAN, REFINE_GAN, SOURCE_FILTER, SynthesizerConfig
from menura.models.source_filter import FINE_STEPS, WINDOW_HOPS
from menura.models.synthesizer import VOCODERS, Synthesizer
from menura.models.weights import State, classic, folded, unfolded, without_weights
from menura.system.text import printable
from menura.units import FRAME_RATE_HZ

_POSTERIOR_PREFIX = "enc_q."
"""The posterior encoder is needed in training only and left out of voices."""

_MAX_LAYERS = 64
_MAX_CHANNELS = 16_384
_MAX_RATE = 1_000
_MAX_SAMPLE_RATE_HZ = 192_000
_MAX_SPEAKERS = 65_536


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
    state = classic(network.state_dict())
    return {name: tuple(t.shape) for name, t in state.items() if not name.startswith(_POSTERIOR_PREFIX)}


def checked_voice(
    path: Path, config: SynthesizerConfig, state: Mapping[str, Tensor], metadata: VoiceMetadata
) -> LoadedVoice:
    """A LoadedVoice from weights in any form, possibly with the posterior encoder.

    Raises:
        CheckpointError: impossible architecture, or weights that are missing, unknown, of other shape, or not finite.
    """
    check_config(path, config)
    expected = expected_shapes(config)
    stored = {name: t for name, t in classic(state).items() if not name.startswith(_POSTERIOR_PREFIX)}
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
