"""How a recording is cut, in frames of 10 ms, and why; integers only, nothing here reads a sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import torch

from menura.errors import ErrorDetails
from menura.models.config import SynthesizerConfig
from menura.options import ConversionOptions
from menura.system.memory import free_bytes
from menura.units import CONTENT_TAIL_SAMPLES, FRAME_RATE_HZ, FRAME_SAMPLES, ceil_div

Span: TypeAlias = tuple[int, int]
"""Frames [start, end)."""

EDGE_FRAMES = 100
"""Most reflected context at a recording's two ends: 1 s, as RVC pads. Encoders may ask for less."""
_LENGTH_STEP_FRAMES = 20
"""Timelines are this much longer or not: recordings of about equal length then have windows of equal shape, which can
share passes, and a batch of any lengths meets few shapes (for each, libraries keep a prepared kernel)."""
_UNIFORM_STEP_FRAMES = 100
LONGEST_EDGE_SAMPLES = (EDGE_FRAMES + _LENGTH_STEP_FRAMES + 4) * FRAME_SAMPLES
"""No reflection is longer, rounding up to the step or to whole content vectors included."""
_SHORTEST_LAST_FRAMES = 400

_SHARE_OF_MEMORY = 0.8
_ATTENTION_COPIES = 5
"""Score-sized tensors alive at once in the text encoder's relative attention."""
_BYTES_A_FRAME = 4 * 40_000
"""Everything that grows with the length itself: features, latent, source, sound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """A recording's timeline: frames [-left, end), reflected context included, and 16 kHz samples after the last."""

    length_samples: int
    """Of the recording itself at 16 kHz."""
    left_frames: int
    end_frames: int
    tail_samples: int = CONTENT_TAIL_SAMPLES

    @property
    def frames(self) -> int:
        return self.left_frames + self.end_frames

    @property
    def own_frames(self) -> int:
        """Without what is reflected."""
        return ceil_div(self.length_samples, FRAME_SAMPLES)

    @property
    def left_samples(self) -> int:
        """Reflected before the recording's own."""
        return self.left_frames * FRAME_SAMPLES

    @property
    def right_samples(self) -> int:
        """Reflected after them."""
        return self.end_frames * FRAME_SAMPLES + self.tail_samples - self.length_samples

    @property
    def samples(self) -> int:
        """Of all."""
        return self.frames * FRAME_SAMPLES + self.tail_samples


class Part(NamedTuple):
    """A run of neighbouring segments of a long recording, which can be converted by itself."""

    number: int
    cells: tuple[Span, ...]

    @property
    def start_frames(self) -> int:
        return self.cells[0][0]

    @property
    def end_frames(self) -> int:
        return self.cells[-1][1]


class Window(NamedTuple):
    """Frames [start_frames, end_frames) are wanted; frames [from_frames, to_frames) are looked at."""

    start_frames: int
    end_frames: int
    from_frames: int
    to_frames: int


def streaming_extent(length_samples: int, edge_frames: int = EDGE_FRAMES) -> Extent:
    """The default timeline: an even number of frames reflected at both ends, at the second up to 0.2 s further."""
    frames = ceil_div(length_samples, FRAME_SAMPLES) + edge_frames
    end = _LENGTH_STEP_FRAMES * ceil_div(frames, _LENGTH_STEP_FRAMES)
    return Extent(length_samples=length_samples, left_frames=edge_frames, end_frames=end)


def compat_extent(length_samples: int) -> Extent:
    """RVC's timeline: 1 s of reflection, and HuBERT's loss of the last frames (438 of 440 for 4.4 s)."""
    padded = length_samples + 2 * EDGE_FRAMES * FRAME_SAMPLES
    frames = min(2 * ((padded - CONTENT_TAIL_SAMPLES) // (2 * FRAME_SAMPLES)), padded // FRAME_SAMPLES)
    return Extent(
        length_samples=length_samples,
        left_frames=EDGE_FRAMES,
        end_frames=frames - EDGE_FRAMES,
        tail_samples=padded - frames * FRAME_SAMPLES,
    )


def extent_for(options: ConversionOptions, edge_frames: int = EDGE_FRAMES) -> Callable[[int], Extent]:
    return compat_extent if options.compat != "menura" else partial(streaming_extent, edge_frames=edge_frames)


@dataclass(frozen=True, slots=True, kw_only=True)
class Windowing:
    """How a recording is cut, in frames of 10 ms: into windows for analysis, into segments for synthesis."""

    segment_frames: int = 2000
    """Grid of the segments: 20 s."""
    context_frames: int = 1000
    """Real context of a segment's text encoder on each side: all that its first two layers reach."""
    attention_frames: int | None = 500
    """Reach of the text encoder's attention to each side; None for the whole window, as in RVC."""
    seam_search_frames: int = 50
    """A seam is cut at a quiet, steady place at most this far from its grid border."""
    crossfade_frames: int = 4
    seam_shift_frames: int = 1
    """A crossfade may go this far from the seam's place, to where the decoded sound is calmest."""
    analysis_frames: int | None = None
    """Grid of the analysis windows; None for what each network prefers."""
    whole: bool = False
    """One segment, and one content window for encoders that can take it."""
    whole_f0: bool = False

    @property
    def margin_frames(self) -> int:
        """What a segment's window has on each side of its cell."""
        return self.seam_search_frames + self.context_frames

    @property
    def overlap_frames(self) -> int:
        """Half of what neighbouring segments share."""
        return self.crossfade_frames // 2 + self.seam_shift_frames

    def widest_frames(self, frames: int) -> int:
        """Of a timeline of so many frames, the widest window; the analysis networks' are about as wide."""
        last = min(_SHORTEST_LAST_FRAMES, self.segment_frames)  # joins the one before it
        return frames if self.whole else min(frames, self.segment_frames + last + 2 * self.margin_frames)

    def segments(self, output_frames: int) -> Iterator[Span]:
        """Cells of the synthesis over frames [0, output_frames); seams move near their ends."""
        return iter([(0, output_frames)]) if self.whole else _cells(0, output_frames, self.segment_frames)

    def parts(self, output_frames: int, part_length_s: float) -> tuple[Part, ...]:
        """Parts of about that length, as even as whole segments allow. None if one is all."""
        cells = list(self.segments(output_frames))
        wanted = len(cells) * self.segment_frames / (part_length_s * FRAME_RATE_HZ)
        count = max(1, min(len(cells), math.ceil(wanted - 0.5)))  # less than a sample has no cell
        ends = [len(cells) * k // count for k in range(count + 1)]
        parts = (Part(k, tuple(cells[start:end])) for k, (start, end) in enumerate(pairwise(ends)))
        return tuple(parts) if count > 1 else ()

    def context(self, cell: Span, extent: Extent) -> Span:
        """Frames that a cell's text encoder sees: on the grid, so that segments are equally long."""
        first, end = -extent.left_frames, extent.end_frames
        if self.whole:
            return first, end
        return max(first, cell[0] - self.margin_frames), min(end, cell[1] + self.margin_frames)

    def uniform(self, cell: Span, extent: Extent, *, last: bool) -> tuple[Span, int]:
        """What of a cell's segment to decode, and how long its window is to be, so that segments have few shapes.

        As far as any seam may lie; a last segment in whole seconds, with a window as long as any of such length has.
        """
        (first, end), beyond = self.context(cell, extent), self.seam_search_frames + self.overlap_frames
        start, stop = max(0, cell[0] - beyond), cell[1] + beyond
        if last:
            stop = _UNIFORM_STEP_FRAMES * ceil_div(cell[1], _UNIFORM_STEP_FRAMES)
            end = max(end, stop + extent.left_frames + _LENGTH_STEP_FRAMES)
        return (start, stop), end - first

    def windows(
        self, extent: Extent, core_frames: int, context_frames: int, *, whole: bool = False
    ) -> Iterator[Window]:
        """An analysis network's windows over the whole timeline, on its own absolute grid or `analysis_frames`."""
        first, end = -extent.left_frames, extent.end_frames
        for start, stop in [(first, end)] if whole else _cells(first, end, self.analysis_frames or core_frames):
            yield Window(start, stop, max(first, start - context_frames), min(end, stop + context_frames))


def _cells(start: int, end: int, grid: int) -> Iterator[Span]:
    """Cells of an absolute grid over [start, end); a short last cell joins the one before it."""
    at = start
    while at < end:
        border = (max(at, 0) // grid + 1) * grid
        stop = end if end - border < min(_SHORTEST_LAST_FRAMES, grid) else border
        yield at, stop
        at = stop


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the decision depends on besides the request."""

    device: str
    """cpu, cuda or mps."""
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    windowing: Windowing
    reasons: tuple[str, ...]
    refusal: ErrorDetails | None = None
    """Why it can't be done, and what can; None if it can."""


def machine_of(device: torch.device) -> Machine:
    return Machine(device=device.type, free_bytes=free_bytes(device))


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
        if frames <= windowing.segment_frames:
            return Decision(windowing=windowing, reasons=("short enough for one segment",))
        segment_s, context_s = windowing.segment_frames / FRAME_RATE_HZ, windowing.margin_frames / FRAME_RATE_HZ
        how = (
            f"segments of {segment_s:.0f} s, each with {context_s:.1f} s of context on both sides, cut at quiet places "
            f"and joined by crossfades of {10 * windowing.crossfade_frames} ms"
        )
        return Decision(windowing=windowing, reasons=("bounded memory at any length", how))
    reach = None if compat else windowing.attention_frames
    scores = frames * frames if reach is None else 0
    needed = _ATTENTION_COPIES * 4 * config.n_heads * scores + _BYTES_A_FRAME * frames
    why = f"compat={options.compat} converts each recording in one pass" if compat else "asked for"
    return Decision(
        windowing=replace(windowing, whole=True, whole_f0=compat, attention_frames=reach),
        reasons=(
            f"{why}: one pass of {frames / FRAME_RATE_HZ:.1f} s ({frames} steps)",
            f"needs about {_gb(needed)} of the {_gb(machine.free_bytes)} of memory that are free on {machine.device}",
        ),
        refusal=_refusal(frames, needed, machine, "leave out {compat}" if compat else "use {strategy=auto}"),
    )


def _refusal(frames: int, needed: int, machine: Machine, instead: str) -> ErrorDetails | None:
    if needed <= _SHARE_OF_MEMORY * machine.free_bytes:
        return None
    length_s, free = frames / FRAME_RATE_HZ, _gb(machine.free_bytes)
    problem = f"{length_s:.0f} s in one pass need about {_gb(needed)} of memory, and only {free} are free"
    return ErrorDetails(kind="resource", problem=problem, advice=f"To convert any length, {instead}")


def _gb(count: int) -> str:
    return f"{count / 2**30:.1f} GB"
