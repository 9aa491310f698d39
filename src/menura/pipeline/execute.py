"""What a conversion asks of the networks, and the answers: one pass for requests that fit together, and into memory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, Union, cast

import numpy as np
import torch
from numpy.random import Philox  # now: NumPy would load it amid the first segment, and Ctrl-C get lost in that
from numpy.typing import NDArray
from torch import Tensor

from menura.content.registry import ContentEncoder, RecordingStatistics
from menura.errors import ResourceError
from menura.f0.registry import F0Estimator
from menura.kernels.voice import Voice
from menura.models import layers
from menura.models.layers import masked
from menura.models.source import advance_phase
from menura.options import ConversionOptions
from menura.pipeline.progress import Stage, StageClock
from menura.pipeline.windows import Span, Windowing
from menura.system.device import sent
from menura.system.gpu import device_errors
from menura.system.memory import free_memory, is_out_of_memory, trim_heap
from menura.types import Features, FloatArray, Prior
from menura.units import FRAME_RATE_HZ, FRAME_SAMPLES, ceil_div

if TYPE_CHECKING:
    from menura.retrieval.torch_index import Retrieval

LATENT_SCALE = 0.66666
"""RVC's temperature of the latent."""
_CORE_STEP_FRAMES = 50
"""Cores are decoded in multiples of this: seams fall anywhere, and every new shape would have the CPU's convolution
library keep another prepared kernel, so that memory grew with the recording."""
_LONG_PASS_S, _LONG_PASS_FRAMES = 0.5, 1600
"""After a pass that takes so long over so much, freed memory is worth giving back: the next one has it cleared anew."""
_WIDEST_FRAMES = Windowing().widest_frames(1 << 40)

LATENT, SOURCE = 1, 2
"""Purposes of noise; positions are frame x channels + channel, and output samples."""
_DRAWS_A_BLOCK = 4
_ORIGIN_BLOCKS = 1 << 48  # positions before the recording's start (reflected context) are negative


def normals(seed: int, purpose: int, start: int, count: int) -> FloatArray:
    """Standard normal values at absolute positions [start, start + count): no segment, order or resume changes one.

    From counter-based Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") by the inverse
    distribution function. Seeds are 0 to 2^63 - 1, positions above -2^49.
    """
    block, skip = divmod(start, _DRAWS_A_BLOCK)
    key = np.array([seed, purpose], dtype=np.uint64)
    counter = np.array([block + _ORIGIN_BLOCKS, 0, 0, 0], dtype=np.uint64)
    bits = Philox(key=key, counter=counter).random_raw(skip + count)[skip:]
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return np.asarray(torch.special.ndtri(torch.from_numpy(uniform)), dtype=np.float32)


def latent_noise(seed: int, start_frames: int, frames: int, channels: int) -> FloatArray:
    """Latent noise, (channels, frames)."""
    values = normals(seed, LATENT, start_frames * channels, frames * channels)
    return np.ascontiguousarray(values.reshape(frames, channels).T)


def source_noise(seed: int, start_samples: int, samples: int) -> FloatArray:
    """Noise of the harmonic source, (samples,)."""
    return normals(seed, SOURCE, start_samples, samples)


class Noise:
    """Noise of a voice over frames [start, end) and a little further: drawn when it's asked for, or ahead in a thread.

    The latent's is (channels, frames), the source's (samples,).
    """

    def __init__(self, net: Voice, options: ConversionOptions, span: Span, thread: ThreadPoolExecutor | None) -> None:
        beyond = net.decode_context_frames + net.flow_context_frames
        self._start, frames = span[0] - beyond, span[1] - span[0] + 2 * beyond + _CORE_STEP_FRAMES
        self._seed, self._channels, self._hop = options.seed, net.config.inter_channels, net.config.frame_samples
        self._latent = self._source = None
        if thread is not None and options.noise_scale:
            self._latent = thread.submit(latent_noise, options.seed, self._start, frames, self._channels)
        if thread is not None and net.config.has_f0 and (options.noise_scale or net.needs_noise):
            self._source = thread.submit(source_noise, options.seed, self._start * self._hop, frames * self._hop)

    def latent(self, start: int, frames: int) -> FloatArray:
        if self._latent is None:
            return latent_noise(self._seed, start, frames, self._channels)
        return self._latent.result()[:, start - self._start : start - self._start + frames]

    def source(self, start: int, frames: int) -> FloatArray:
        if self._source is None:
            return source_noise(self._seed, start * self._hop, frames * self._hop)
        return self._source.result()[(start - self._start) * self._hop : (start - self._start + frames) * self._hop]


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowRequest:
    """Content of a window, (vectors, dim) at 50 a second, or F0, (samples // 160 + 1,) Hz and 0 where unvoiced."""

    stage: Literal["content", "f0"]
    network: ContentEncoder | F0Estimator
    samples: FloatArray
    statistics: RecordingStatistics | None = None
    """For a content encoder; None takes the window's own."""
    retrieval: Retrieval | None = None
    """What a device does with content, (vectors, 2 dim) then."""
    clock: StageClock

    @property
    def frames(self) -> int:
        return len(self.samples) // FRAME_SAMPLES

    @property
    def batch_key(self) -> tuple[object, ...]:
        """Requests with the same one may share a pass."""
        return self.stage, id(self.network), len(self.samples), self.statistics is None, self.retrieval


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesisRequest:
    """Sound of the frames of a core, from features that reach further; answered by samples."""

    stage: ClassVar[Stage] = "synthesis"
    synthesizer: Voice
    features: Features
    core: Span
    options: ConversionOptions
    sounding: tuple[Span, ...]
    """The frames of the core that are wanted, in order; between them is silence."""
    reach_frames: int | None
    """How far the text encoder's attention reaches; None for the whole window."""
    window_frames: int
    """So many there are, with frames that don't exist after the features, so that windows have few lengths."""
    noise: Noise
    """Of the core."""
    clock: StageClock

    @property
    def frames(self) -> int:
        return self.core[1] - self.core[0]

    @property
    def batch_key(self) -> tuple[object, ...]:
        first = self.features.start_frames
        spans = tuple((start - first, end - first) for start, end in (self.core, *self.sounding))
        window = self.window_frames, first % 2, self.features.plain is None
        return self.stage, id(self.synthesizer), window, spans, self.options.noise_scale, self.reach_frames


NetworkRequest: TypeAlias = WindowRequest | SynthesisRequest

STAGES: tuple[Stage, ...] = ("content", "f0", "synthesis")
"""Of requests, in the order in which a segment needs them."""
Answer: TypeAlias = Union["FloatArray", ResourceError]
"""What was asked for, or why it could not be had."""
_Found: TypeAlias = "tuple[Tensor, torch.cuda.Event | None]"
"""Rows in main memory, and when they are there; None: now."""


class FrameBudget:
    """Frames that a pass may have: no limit (or `frames`) until memory ran out, then half of what was tried, for good.

    Smaller passes than `least_frames` are not worth trying.
    """

    def __init__(self, least_frames: int, frames: int | None = None) -> None:
        self.frames = frames
        self._least_frames = least_frames

    def rows(self, count: int, row_frames: int) -> int:
        """How many of `count` rows of that length may go together; always one."""
        return count if self.frames is None else max(1, min(count, self.frames // max(1, row_frames)))

    def halve(self, tried_frames: int) -> bool:
        """Take note that a pass of that many frames didn't fit; False if there is nothing left to halve."""
        tried = tried_frames if self.frames is None else min(self.frames, tried_frames)
        if tried <= self._least_frames:
            return False
        self.frames = max(self._least_frames, tried // 2)
        return True


class Flight:
    """A pass that was begun; on CUDA it may still be under way."""

    def __init__(self, places: list[int], members: list[NetworkRequest], found: list[_Found | ResourceError]) -> None:
        """Of requests that were given to `Executor.begin`, those at these places, and what they get, in order."""
        self.places, self._members, self.found = places, members, found

    def collect(self) -> list[Answer]:
        """The answers, in the order of `places`. Here alone what CUDA does is waited for. Raises as `execute`."""
        answers: list[Answer] = []
        for found in self.found:
            if isinstance(found, ResourceError):
                answers.append(found)
                continue
            rows, ready = found
            if ready is not None:
                with measured(self._members):
                    ready.synchronize()
            answers += list(rows.numpy())
        return answers


class Executor:
    """Answers requests in passes of at most `most_frames` (one row is always tried) that fit the device's memory."""

    def __init__(self, device: torch.device, most_frames: int | None = None) -> None:
        self._device = device
        self._budgets = {stage: FrameBudget(_CORE_STEP_FRAMES, most_frames) for stage in STAGES}

    def execute(self, requests: Sequence[NetworkRequest]) -> list[FloatArray]:
        """Answers in the order of the requests; those with equal `batch_key` share forward passes.

        Companions change an answer by no more than rounding. Raises ResourceError where there is none for one of them,
        and DeviceError where a GPU stops working.
        """
        answers: dict[int, FloatArray] = {}
        while left := [place for place in range(len(requests)) if place not in answers]:
            flight = self.begin([requests[place] for place in left])
            for place, answer in zip(flight.places, flight.collect(), strict=True):
                if isinstance(answer, ResourceError):
                    raise answer
                answers[left[place]] = answer
        return [answers[place] for place in range(len(requests))]

    def begin(self, requests: Sequence[NetworkRequest]) -> Flight:
        """Begin a pass for the first request and those that may share it, as many as fit. Raises as `execute`.

        When memory runs out, half as much is tried from then on. Where a GPU fails at it, each is tried alone.
        """
        first, key = requests[0], requests[0].batch_key
        budget, frames = self._budgets[first.stage], first.frames
        places = [place for place, request in enumerate(requests) if request.batch_key == key]
        while True:
            places = places[: budget.rows(len(places), frames)]
            members = [requests[place] for place in places]
            found = self._pass(members, budget)
            if found is None and len(members) == 1 and not isinstance(first, SynthesisRequest):
                found = self._pass(members, budget)  # now that what was kept for reuse is free
            elif found is None and budget.halve(frames * len(members)):
                continue
            if found is None:
                return Flight(places[:1], members[:1], [_too_large(frames, self._device)])
            if isinstance(found, ResourceError) and len(members) > 1:
                return Flight(places, members, [begun for member in members for begun in self.begin([member]).found])
            return Flight(places, members, [found])

    def _pass(self, members: list[NetworkRequest], budget: FrameBudget) -> _Found | ResourceError | None:
        """One forward pass, of which CUDA is only told; None if it doesn't fit into memory."""
        start = time.perf_counter()
        try:
            with torch.inference_mode(), device_errors(self._device), measured(members):
                found = _brought(_answered(members, self._device, budget).float())
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            failure = None
        except ResourceError as error:
            failure = ResourceError(*error.args)  # without its traceback
        else:
            if len(members) * members[0].frames > _LONG_PASS_FRAMES and time.perf_counter() - start > _LONG_PASS_S:
                trim_heap()
            return found
        free_memory(self._device)  # only here, where the error no longer holds what was allocated
        return failure


@contextmanager
def measured(members: Sequence[NetworkRequest]) -> Iterator[None]:
    """Add the time of the block to the clocks of requests, in equal parts."""
    start = time.perf_counter()
    yield
    for member in members:
        member.clock.add(member.stage, (time.perf_counter() - start) / len(members))


def _too_large(frames: int, device: torch.device) -> ResourceError:
    problem = f"not enough memory on {device.type} to process {frames / FRAME_RATE_HZ:.1f} s at once"
    if frames > _WIDEST_FRAMES:
        return ResourceError(None, problem, "Convert in segments: leave out {compat} and {strategy=whole}")
    return ResourceError(None, problem, "Close other programs, or use fewer {threads} or another {device}")


def _answered(members: list[NetworkRequest], device: torch.device, budget: FrameBudget) -> Tensor:
    """What members of one `batch_key` asked for, one a row."""
    if isinstance(members[0], SynthesisRequest):
        return _synthesized(cast("list[SynthesisRequest]", members), device, budget)
    windows = cast("list[WindowRequest]", members)
    samples, network = _stack([window.samples for window in windows], device), windows[0].network
    if windows[0].stage == "f0":
        return cast("F0Estimator", network).estimate(samples)
    known = [window.statistics for window in windows if window.statistics is not None]
    content, retrieval = cast("ContentEncoder", network).encode(samples, known or None), windows[0].retrieval
    return content if retrieval is None else retrieval.applied(content.float())


def _brought(found: Tensor) -> _Found:
    """What a device found on its way into main memory."""
    if found.device.type != "cuda":
        return found.cpu(), None
    rows = torch.empty(found.shape, dtype=found.dtype, pin_memory=True)
    rows.copy_(found, non_blocking=True)
    ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
    ready.record()
    return rows, ready


def _stack(rows: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """Rows of equal shape, one below the other; to CUDA by way of pinned memory, without waiting."""
    if device.type != "cuda":
        return torch.from_numpy(np.stack(rows)).to(device)
    pinned = torch.empty((len(rows), *rows[0].shape), dtype=torch.from_numpy(rows[0]).dtype, pin_memory=True)
    np.stack(rows, out=pinned.numpy())
    return pinned.to(device, non_blocking=True)


def _filled(row: NDArray[Any], frames: int) -> NDArray[Any]:
    """With zeros to so many frames."""
    missing = frames - len(row)
    return np.concatenate([row, np.zeros((missing, *row.shape[1:]), row.dtype)]) if missing else row


def _synthesized(members: list[SynthesisRequest], device: torch.device, budget: FrameBudget) -> Tensor:
    first = members[0]
    net, frames = first.synthesizer, first.window_frames
    content = _content([m.features for m in members], frames, device)
    coarse = [_filled(m.features.f0_coarse, frames) for m in members if m.features.f0_coarse is not None]
    existing = [m.features.frames for m in members]
    lengths = None if min(existing) == frames else sent(torch.tensor(existing), device)
    g = net.condition(sent(torch.tensor([m.options.speaker_id for m in members]), device))
    beyond, window_start = net.decode_context_frames + net.flow_context_frames, first.features.start_frames
    wanted = _widened((first.core[0] - window_start, first.core[1] - window_start + _CORE_STEP_FRAMES), beyond, frames)
    pitch = _stack(coarse, device) if coarse else None
    prior = net.encode(content, pitch, lengths, first.reach_frames, layers.Span(*wanted))
    sound = content.new_zeros(len(members), first.frames * net.config.frame_samples)
    for span in first.sounding:
        _fill(sound, span, members, prior, g, budget)
    return sound


def _content(features: list[Features], frames: int, device: torch.device) -> Tensor:
    """(batch, frames, dim) content, with zeros where there is none: each vector serves two frames, as in RVC."""
    first = features[0].start_frames % 2

    def at_frames(rows: Sequence[FloatArray | None]) -> Tensor:
        filled = [_filled(row, ceil_div(first + frames, 2)) for row in rows if row is not None]
        return _stack(filled, device).repeat_interleave(2, dim=1)[:, first : first + frames].contiguous()

    content = at_frames([item.content for item in features])
    if features[0].plain is None:
        return content
    share = _stack([_filled(item.share[:, None], frames) for item in features if item.share is not None], device)
    return content * share + at_frames([item.plain for item in features]) * (1 - share)


def _fill(
    sound: Tensor, span: Span, members: list[SynthesisRequest], prior: Prior, g: Tensor, budget: FrameBudget
) -> None:
    """Put the sound of a span of the first member's frames in its place, as much at a time as the budget allows."""
    first, (start, end) = members[0], span
    hop, window_start = first.synthesizer.config.frame_samples, first.features.start_frames
    window_end = window_start + prior.mean.shape[-1]
    rounded = ceil_div(end - start, _CORE_STEP_FRAMES) * _CORE_STEP_FRAMES
    step = rounded if budget.frames is None else max(_CORE_STEP_FRAMES, budget.frames // len(members))
    for begin in range(start, end, step):
        stop = min(begin + step, start + rounded, window_end)
        part = _decoded(members, prior, g, (begin - window_start, stop - window_start), sound.device)
        at, wanted = begin - first.core[0], min(stop, end) - begin
        sound[:, at * hop : (at + wanted) * hop] = part[:, : wanted * hop]


def _decoded(members: list[SynthesisRequest], prior: Prior, g: Tensor, core: Span, device: torch.device) -> Tensor:
    """Sound (batch, samples) of some frames; flow and decoder have a finite reach, so any cut gives the same."""
    first, noise_scale = members[0], members[0].options.noise_scale
    net, frames = first.synthesizer, prior.mean.shape[-1]
    decoded = _widened(core, net.decode_context_frames, frames)
    flowed = _widened(decoded, net.flow_context_frames, frames)
    span = slice(*flowed)
    z_p = prior.mean[:, :, span]
    if noise_scale:
        rows = [m.noise.latent(m.features.start_frames + flowed[0], flowed[1] - flowed[0]) for m in members]
        z_p = z_p + torch.exp(prior.log_scale[:, :, span]) * _stack(rows, device) * (LATENT_SCALE * noise_scale)
    mask = None if prior.mask is None else prior.mask[:, :, span]
    z = net.reverse_flow(masked(z_p, mask), mask, g)[:, :, decoded[0] - flowed[0] : decoded[1] - flowed[0]]
    source = _source(members, decoded, device) if net.config.has_f0 else None
    return net.decode_tiled(z, g, source, (core[0] - decoded[0], core[1] - decoded[0]))


def _widened(span: Span, context: int, frames: int) -> Span:
    return max(0, span[0] - context), min(frames, span[1] + context)


def _source(members: list[SynthesisRequest], span: Span, device: torch.device) -> Tensor:
    (start, end), net, noise_scale = span, members[0].synthesizer, members[0].options.noise_scale
    curves = [_filled(m.features.f0_hz, m.window_frames) for m in members if m.features.f0_hz is not None]
    f0_hz = torch.from_numpy(np.stack(curves))
    begun = torch.tensor([m.features.phase_cycles for m in members], dtype=torch.float64)
    phase = advance_phase(begun, f0_hz[:, :start], 1 / FRAME_RATE_HZ)
    noise = None
    if noise_scale or net.needs_noise:
        noise = _stack([m.noise.source(m.features.start_frames + start, end - start) for m in members], device)
    return net.source(sent(f0_hz[:, start:end].contiguous(), device), phase, noise, noise_scale)
