"""Answers requests: one forward pass for those that fit together, and into memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias, Union, cast, get_args

import numpy as np
import torch

from menura.errors import ResourceError
from menura.models.source import advance_phase
from menura.pipeline.budget import FrameBudget
from menura.pipeline.noise import latent_noise, source_noise
from menura.pipeline.requests import ContentRequest, F0Request, NetworkRequest, SynthesisRequest
from menura.pipeline.windows import Windowing
from menura.system.memory import free_memory, is_out_of_memory, trim_heap
from menura.types import Prior
from menura.units import FRAME_RATE_HZ, ceil_div

if TYPE_CHECKING:
    from torch import Tensor

    from menura.pipeline.clock import Stage
    from menura.types import FloatArray

LATENT_SCALE = 0.66666
"""RVC's temperature of the latent."""


_CORE_STEP_FRAMES = 50
"""Cores are decoded in multiples of this: seams fall anywhere, and every new shape would have the CPU's convolution
library keep another prepared kernel, so that memory grew with the recording."""

_LONG_PASS_S = 0.5
"""After such a pass freed memory is worth giving back."""


_WIDEST_FRAMES = Windowing().widest_frames(1 << 40)

Answer: TypeAlias = Union["FloatArray", ResourceError]
"""What was asked for, or why it could not be had."""


class Executor:
    """Answers requests on a device, in passes that fit into its memory.

    Args:
        device: where the networks are.
        most_frames: of all rows of a pass together; one row is always tried.
    """

    def __init__(self, device: torch.device, most_frames: int | None = None) -> None:
        self._device = device
        self._budgets = {kind: FrameBudget(_CORE_STEP_FRAMES, most_frames) for kind in get_args(NetworkRequest)}

    def execute(self, requests: Sequence[NetworkRequest]) -> list[Answer]:
        """Answers in the order of the requests; those with equal `batch_key` share a forward pass.

        A row's answer doesn't depend on its companions beyond the rounding of the device's kernels, nor on how much
        fits into a pass: when memory runs out, half as much is tried from then on.
        """
        groups: dict[tuple[object, ...], list[int]] = {}
        for position, request in enumerate(requests):
            groups.setdefault(request.batch_key, []).append(position)
        answers: list[Answer | None] = [None] * len(requests)
        for positions in groups.values():
            members = [requests[p] for p in positions]
            for position, answer in zip(positions, self._group(members), strict=True):
                answers[position] = answer
        return cast("list[Answer]", answers)

    def _group(self, members: list[NetworkRequest]) -> list[Answer]:
        budget, frames = self._budgets[type(members[0])], members[0].frames
        answers: list[Answer] = []
        while len(answers) < len(members):
            left = members[len(answers) :]
            part = left[: budget.rows(len(left), frames)]
            found = self._pass(part, budget)
            if found is None and len(part) == 1 and not part[0].divisible:
                found = self._pass(part, budget)  # now that what was kept for reuse is free
            elif found is None and budget.halve(frames * len(part)):
                continue
            answers.extend(found or [_too_large(part[0], self._device)])
        return answers

    def _pass(self, members: list[NetworkRequest], budget: FrameBudget) -> list[FloatArray] | None:
        """One forward pass; None if it doesn't fit into memory."""
        start = time.perf_counter()
        try:
            with torch.inference_mode():
                stage, answers = _dispatch(members, self._device, budget)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            took_s = time.perf_counter() - start
            if took_s > _LONG_PASS_S:
                trim_heap()
            share = took_s / len(members)
            for member in members:
                member.clock.add(stage, share)
            return answers
        free_memory(self._device)  # only here, where the error no longer holds what was allocated
        return None


def _too_large(request: NetworkRequest, device: torch.device) -> ResourceError:
    in_one_pass = request.frames > _WIDEST_FRAMES
    return ResourceError(
        None,
        f"not enough memory on {device.type} to process {request.frames / FRAME_RATE_HZ:.1f} s at once",
        "Convert in segments: leave out {compat} and {strategy=whole}"
        if in_one_pass
        else "Close other programs, or use fewer {threads} or another {device}",
    )


def _dispatch(
    members: list[NetworkRequest], device: torch.device, budget: FrameBudget
) -> tuple[Stage, list[FloatArray]]:
    first = members[0]
    if isinstance(first, ContentRequest):
        return "content", _content(cast("list[ContentRequest]", members), device)
    if isinstance(first, F0Request):
        return "f0", _f0(cast("list[F0Request]", members), device)
    return "synthesis", _synthesis(cast("list[SynthesisRequest]", members), device, budget)


def _stack(rows: Sequence[FloatArray], device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack(rows)).to(device)


def _rows(batch: Tensor) -> list[FloatArray]:
    return list(batch.float().cpu().numpy())


def _content(members: list[ContentRequest], device: torch.device) -> list[FloatArray]:
    known = [m.statistics for m in members if m.statistics is not None]
    return _rows(members[0].encoder.encode(_stack([m.samples for m in members], device), known or None))


def _f0(members: list[F0Request], device: torch.device) -> list[FloatArray]:
    return _rows(members[0].estimator.estimate(_stack([m.samples for m in members], device)))


def _synthesis(members: list[SynthesisRequest], device: torch.device, budget: FrameBudget) -> list[FloatArray]:
    first = members[0]
    net, frames = first.synthesizer, len(first.features.content)
    content = _stack([m.features.content for m in members], device)
    coarse = _optional([m.features.f0_coarse for m in members], device)
    lengths = torch.full((len(members),), frames, dtype=torch.int64, device=device)
    g = net.condition(torch.tensor([m.speaker_id for m in members], device=device))
    prior = net.encode(content, coarse, lengths, first.reach_frames)
    sound = content.new_zeros(len(members), first.frames * net.config.frame_samples)
    for start, end in first.sounding:
        place = (start - first.core_start_frames, end - first.core_start_frames)
        _fill(sound, place, members, prior, g, budget)
    return _rows(sound)


def _fill(
    sound: Tensor,
    place: tuple[int, int],
    members: list[SynthesisRequest],
    prior: Prior,
    g: Tensor,
    budget: FrameBudget,
) -> None:
    """Put the sound of frames [start, end) of the core in its place, at most as much at a time as the budget allows."""
    first, frames = members[0], prior.mean.shape[-1]
    hop, offset = first.synthesizer.config.frame_samples, first.core_start_frames - first.features.start_frames
    start, end = place
    rounded = ceil_div(end - start, _CORE_STEP_FRAMES) * _CORE_STEP_FRAMES
    step = rounded if budget.frames is None else max(_CORE_STEP_FRAMES, budget.frames // len(members))
    for begin in range(start, end, step):
        stop = min(begin + step, start + rounded, frames - offset)
        part = _decoded(members, prior, g, (offset + begin, offset + stop), sound.device)
        wanted = min(stop, end) - begin
        sound[:, begin * hop : (begin + wanted) * hop] = part[:, : wanted * hop]


def _decoded(
    members: list[SynthesisRequest], prior: Prior, g: Tensor, core: tuple[int, int], device: torch.device
) -> Tensor:
    """Sound (batch, samples) of some frames; flow and decoder have a finite reach, so any cut gives the same."""
    first = members[0]
    net, frames = first.synthesizer, prior.mean.shape[-1]
    decoded = _widened(core, net.decode_context_frames, frames)
    flowed = _widened(decoded, net.flow_context_frames, frames)
    span = slice(*flowed)
    z_p = prior.mean[:, :, span]
    if first.noise_scale:
        noise = _latent_noise(members, flowed, net.config.inter_channels, device)
        z_p = z_p + torch.exp(prior.log_scale[:, :, span]) * noise * (LATENT_SCALE * first.noise_scale)
    mask = prior.mask[:, :, span]
    z = net.reverse_flow(z_p * mask, mask, g)[:, :, decoded[0] - flowed[0] : decoded[1] - flowed[0]]
    source = _source(members, decoded, device) if net.config.has_f0 else None
    return net.decode_tiled(z, g, source, (core[0] - decoded[0], core[1] - decoded[0]))


def _widened(span: tuple[int, int], context: int, frames: int) -> tuple[int, int]:
    return max(0, span[0] - context), min(frames, span[1] + context)


def _optional(rows: Sequence[np.ndarray | None], device: torch.device) -> Tensor | None:
    present = [row for row in rows if row is not None]
    return torch.from_numpy(np.stack(present)).to(device) if present else None


def _latent_noise(
    members: list[SynthesisRequest], span: tuple[int, int], channels: int, device: torch.device
) -> Tensor:
    make: Callable[[SynthesisRequest], FloatArray] = lambda m: latent_noise(  # noqa: E731
        m.seed, m.features.start_frames + span[0], span[1] - span[0], channels
    )
    return _stack([make(m) for m in members], device)


def _source(members: list[SynthesisRequest], span: tuple[int, int], device: torch.device) -> Tensor:
    first = members[0]
    net, hop = first.synthesizer, first.synthesizer.config.frame_samples
    f0 = _stack([_f0_hz(m)[span[0] : span[1]] for m in members], device)
    begun = torch.tensor([m.features.phase_cycles for m in members], dtype=torch.float64)
    before = torch.from_numpy(np.stack([_f0_hz(m)[: span[0]] for m in members]))
    phase = advance_phase(begun, before, 1 / FRAME_RATE_HZ)
    noise = None
    if first.noise_scale or net.needs_noise:
        count = (span[1] - span[0]) * hop
        rows = [source_noise(m.seed, (m.features.start_frames + span[0]) * hop, count) for m in members]
        noise = _stack(rows, device)
    return net.source(f0, phase, noise, first.noise_scale)


def _f0_hz(member: SynthesisRequest) -> FloatArray:
    assert member.features.f0_hz is not None
    return member.features.f0_hz
