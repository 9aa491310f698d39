"""How a recording of some length is taken on some machine, and why: one function that every path asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from menura.errors import ErrorDetails
from menura.pipeline.budget import whole_bytes
from menura.pipeline.windows import (
    ATTENTION_REACH_FRAMES,
    CROSSFADE_FRAMES,
    SEAM_SEARCH_FRAMES,
    SEGMENT_CONTEXT_FRAMES,
    SEGMENT_FRAMES,
    WIDEST_WINDOW_FRAMES,
    seconds,
)
from menura.system.memory import available_memory_bytes

if TYPE_CHECKING:
    import torch

    from menura.models.config import SynthesizerConfig
    from menura.options import ConversionOptions

CUDNN_STEPS = 65_535
"""Steps that cuDNN's recurrent layers take: 10.9 minutes at 10 ms."""

_SHARE_OF_MEMORY = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the decision depends on besides the request."""

    device: str
    """cpu, cuda or mps."""
    cudnn: bool
    """Whether cuDNN may be used there."""
    free_bytes: int
    """Of the device's memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What will be done with a recording."""

    strategy: Literal["stream", "whole"]
    reach_frames: int | None
    """How far the text encoder's attention reaches; None for the whole window."""
    widest_frames: int
    """Frames of the widest window that a network sees."""
    reasons: tuple[str, ...]
    refusal: ErrorDetails | None = None
    """Why it can't be done, and what can; None if it can."""


def machine_of(device: torch.device) -> Machine:
    """The facts about a device now."""
    if device.type != "cuda":
        return Machine(device=device.type, cudnn=False, free_bytes=available_memory_bytes())
    import torch

    return Machine(
        device="cuda", cudnn=torch.backends.cudnn.enabled, free_bytes=int(torch.cuda.mem_get_info(device)[0])
    )


def decide(options: ConversionOptions, frames: int, config: SynthesizerConfig, machine: Machine) -> Decision:
    """Choose how to take a recording.

    Args:
        options: what is asked for.
        frames: of the recording's timeline, its reflected ends included.
        config: the voice's.
        machine: where it will run.
    """
    compat = options.compat != "menura"
    if not compat and options.strategy != "whole":
        return _streamed(frames, asked=options.strategy == "stream")
    why = (
        f"compat={options.compat} converts each recording in one pass, as that program does" if compat else "asked for"
    )
    reach = None if compat else ATTENTION_REACH_FRAMES
    needed, free = whole_bytes(frames, config, reach), machine.free_bytes
    reasons = (
        f"{why}: one pass of {seconds(frames):.1f} s ({frames} steps)",
        f"about {_gb(needed)} of {_gb(free)} free memory needed on {machine.device}",
        _steps_reason(machine),
    )
    return Decision(
        strategy="whole",
        reach_frames=reach,
        widest_frames=frames,
        reasons=reasons,
        refusal=_refusal(frames, needed, machine, instead="Leave out {compat}" if compat else "Use {strategy=stream}"),
    )


def _streamed(frames: int, *, asked: bool) -> Decision:
    widest = min(frames, WIDEST_WINDOW_FRAMES)
    reasons = [
        "asked for: memory is bounded whatever the length" if asked else "memory is bounded whatever the length",
        f"no network sees more than {widest} steps, so that cuDNN's limit of {CUDNN_STEPS} is out of reach",
    ]
    if frames > SEGMENT_FRAMES:
        context = seconds(SEAM_SEARCH_FRAMES + SEGMENT_CONTEXT_FRAMES)
        reasons.append(
            f"segments of {seconds(SEGMENT_FRAMES):.0f} s with {context:.1f} s of real context a side are cut where it "
            f"is quiet and joined over {10 * CROSSFADE_FRAMES} ms"
        )
    return Decision(
        strategy="stream", reach_frames=ATTENTION_REACH_FRAMES, widest_frames=widest, reasons=tuple(reasons)
    )


def _steps_reason(machine: Machine) -> str:
    if machine.device == "cuda" and machine.cudnn:
        return f"cuDNN is on: at most {CUDNN_STEPS} steps"
    return f"no limit of steps: {'cuDNN is off' if machine.device == 'cuda' else 'no cuDNN on ' + machine.device}"


def _refusal(frames: int, needed: int, machine: Machine, *, instead: str) -> ErrorDetails | None:
    if machine.device == "cuda" and machine.cudnn and frames > CUDNN_STEPS:
        return ErrorDetails(
            kind="resource",
            problem=f"{seconds(frames) / 60:.1f} minutes in one pass are {frames} steps, and cuDNN takes {CUDNN_STEPS}",
            advice=f"{instead} (any length), or turn cuDNN off with {{cudnn=false}}",
        )
    if needed > _SHARE_OF_MEMORY * machine.free_bytes:
        free = _gb(machine.free_bytes)
        return ErrorDetails(
            kind="resource",
            problem=f"{seconds(frames):.0f} s in one pass need about {_gb(needed)} of memory, and {free} are free",
            advice=f"{instead} (any length), or split the recording",
        )
    return None


def _gb(count: int) -> str:
    return f"{count / 2**30:.1f} GB"
