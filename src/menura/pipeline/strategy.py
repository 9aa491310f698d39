"""How a recording of some length is cut on some machine, and why: one function that every path asks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from menura.errors import ErrorDetails
from menura.pipeline.windows import Windowing
from menura.system.memory import available_memory_bytes
from menura.units import FRAME_RATE_HZ

if TYPE_CHECKING:
    import torch

    from menura.models.config import SynthesizerConfig
    from menura.options import ConversionOptions

CUDNN_STEPS = 65_535
"""Steps that cuDNN's recurrent layers take: 10.9 minutes at 10 ms."""

_SHARE_OF_MEMORY = 0.8

_ATTENTION_COPIES = 5
"""Score-sized tensors alive at once in the text encoder's relative attention."""

_BYTES_A_FRAME = 4 * 40_000
"""Everything that grows with the length itself: features, latent, source, sound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the decision depends on besides the request: cpu, cuda or mps, cuDNN if it may be used, free memory."""

    device: str
    cudnn: bool
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What will be done with a recording."""

    windowing: Windowing
    reasons: tuple[str, ...]
    refusal: ErrorDetails | None = None
    """Why it can't be done, and what can; None if it can."""


def machine_of(device: torch.device) -> Machine:
    if device.type != "cuda":
        return Machine(device=device.type, cudnn=False, free_bytes=available_memory_bytes())
    import torch

    return Machine(
        device="cuda", cudnn=torch.backends.cudnn.enabled, free_bytes=int(torch.cuda.mem_get_info(device)[0])
    )


def decide(
    options: ConversionOptions,
    frames: int,
    config: SynthesizerConfig,
    machine: Machine,
    windowing: Windowing | None = None,
) -> Decision:
    """Choose how to cut a timeline of so many frames: into segments, unless one pass over all of it is asked for."""
    windowing = windowing or Windowing()
    compat = options.compat != "menura"
    if not compat and options.strategy != "whole":
        return Decision(windowing=windowing, reasons=_segment_reasons(frames, windowing))
    whole = replace(
        windowing,
        whole=True,
        whole_f0=compat,
        attention_frames=None if compat else windowing.attention_frames,
    )
    needed, free = _whole_bytes(frames, config, whole.attention_frames), machine.free_bytes
    why = f"compat={options.compat} converts each recording in one pass" if compat else "asked for"
    return Decision(
        windowing=whole,
        reasons=(
            f"{why}: one pass of {frames / FRAME_RATE_HZ:.1f} s ({frames} steps)",
            f"needs about {_gb(needed)} of the {_gb(free)} of memory that are free on {machine.device}",
        ),
        refusal=_refusal(frames, needed, machine, "leave out {compat}" if compat else "use {strategy=auto}"),
    )


def _segment_reasons(frames: int, windowing: Windowing) -> tuple[str, ...]:
    if frames <= windowing.segment_frames:
        return ("short enough for one segment",)
    length_s, context_s = windowing.segment_frames / FRAME_RATE_HZ, windowing.margin_frames / FRAME_RATE_HZ
    return (
        "bounded memory at any length",
        f"segments of {length_s:.0f} s, each with {context_s:.1f} s of context on both sides, cut at quiet places and "
        f"joined by crossfades of {10 * windowing.crossfade_frames} ms",
    )


def _refusal(frames: int, needed: int, machine: Machine, instead: str) -> ErrorDetails | None:
    if machine.device == "cuda" and machine.cudnn and frames > CUDNN_STEPS:
        return ErrorDetails(
            kind="resource",
            problem=f"{frames / FRAME_RATE_HZ / 60:.1f} minutes in one pass are {frames} steps, and cuDNN takes at "
            f"most {CUDNN_STEPS}",
            advice=f"To convert any length, {instead}; or turn cuDNN off with {{cudnn=false}}",
        )
    if needed > _SHARE_OF_MEMORY * machine.free_bytes:
        return ErrorDetails(
            kind="resource",
            problem=f"{frames / FRAME_RATE_HZ:.0f} s in one pass need about {_gb(needed)} of memory, and only "
            f"{_gb(machine.free_bytes)} are free",
            advice=f"To convert any length, {instead}",
        )
    return None


def _whole_bytes(frames: int, config: SynthesizerConfig, reach_frames: int | None) -> int:
    """About how much memory one window takes. Attention over all of it has scores that grow with its square."""
    scores = frames * frames if reach_frames is None else 0
    return _ATTENTION_COPIES * 4 * config.n_heads * scores + _BYTES_A_FRAME * frames


def _gb(count: int) -> str:
    return f"{count / 2**30:.1f} GB"
