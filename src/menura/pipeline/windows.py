"""Where windows and segments begin and end, in frames of 10 ms. Integers only: nothing here reads a sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from menura.units import CONTENT_TAIL_SAMPLES, FRAME_SAMPLES, ceil_div

Span: TypeAlias = tuple[int, int]
"""Frames [start, end)."""

EDGE_FRAMES = 100
"""Most reflected context at a recording's two ends: 1 s, as RVC pads. Encoders may ask for less."""

_LENGTH_STEP_FRAMES = 20
"""Timelines are this much longer or not: recordings of about equal length then have windows of equal shape, which can
share passes, and a batch of any lengths meets few shapes (for each, libraries keep a prepared kernel)."""

LONGEST_EDGE_SAMPLES = (EDGE_FRAMES + _LENGTH_STEP_FRAMES + 4) * FRAME_SAMPLES
"""No reflection is longer, rounding up to the step or to whole content vectors included."""

_SHORTEST_LAST_FRAMES = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How far a recording's timeline reaches: frames [-left, end), and the 16 kHz samples behind them."""

    length_samples: int
    """Samples of the recording at 16 kHz."""
    left_frames: int
    end_frames: int
    """Past the recording's own end by its reflected context."""
    tail_samples: int
    """Samples of the timeline after its last frame."""

    @property
    def frames(self) -> int:
        """All of its frames."""
        return self.left_frames + self.end_frames

    @property
    def right_samples(self) -> int:
        """Reflected samples needed after the recording's last one."""
        return self.end_frames * FRAME_SAMPLES + self.tail_samples - self.length_samples

    @property
    def left_samples(self) -> int:
        """Reflected samples before the recording's first one."""
        return self.left_frames * FRAME_SAMPLES


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Frames [start, end) are wanted; frames [from_frames, to_frames) are looked at."""

    start_frames: int
    end_frames: int
    from_frames: int
    to_frames: int


def streaming_extent(length_samples: int, edge_frames: int = EDGE_FRAMES) -> Extent:
    """The timeline of the default mode, reflected at both ends, at the second up to 0.2 s further.

    Args:
        length_samples: of the recording, at 16 kHz.
        edge_frames: reflected frames at each end, even and at most EDGE_FRAMES.
    """
    frames = ceil_div(length_samples, FRAME_SAMPLES)
    end = _LENGTH_STEP_FRAMES * ceil_div(frames + edge_frames, _LENGTH_STEP_FRAMES)
    return Extent(
        length_samples=length_samples,
        left_frames=edge_frames,
        end_frames=end,
        tail_samples=CONTENT_TAIL_SAMPLES,
    )


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Windowing:
    """How a recording is cut, in frames of 10 ms: into windows for analysis, into segments for synthesis."""

    segment_frames: int = 2000
    """Grid of the segments: 20 s."""
    context_frames: int = 1000
    """Real context that a segment's text encoder sees on each side: all that its first two layers reach, and nearly all
    of the rest. With 6 s a voice trained against discriminators differed from one pass by -48 dB near a seam, with 10 s
    by -88."""
    attention_frames: int | None = 500
    """How far the text encoder's attention reaches to each side; None for the whole window, as in RVC, which trains on
    cuts of three to four seconds. With a limit, no window's length changes what a frame becomes."""
    seam_search_frames: int = 50
    """A seam is cut at a quiet, steady place at most this far from its grid border."""
    crossfade_frames: int = 4
    """Length of the linear crossfade at a seam: 40 ms."""
    seam_shift_frames: int = 1
    """A crossfade may go this far from the seam's place, to where the decoded sound is calmest."""
    analysis_frames: int | None = None
    """Grid of the analysis windows; None for what each network prefers."""
    whole: bool = False
    """One segment, and one content window for encoders that can take it."""
    whole_f0: bool = False
    """One window for F0."""

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
        widest = self.segment_frames + last + 2 * self.margin_frames
        return frames if self.whole else min(frames, widest)

    def segments(self, output_frames: int) -> Iterator[Span]:
        """Cells of the synthesis over frames [0, output_frames); seams move near their ends."""
        if self.whole:
            return iter([(0, output_frames)])
        return _cells(0, output_frames, self.segment_frames)

    def context(self, cell: Span, extent: Extent) -> Span:
        """Frames that a cell's text encoder sees: on the grid, so that segments are equally long."""
        first, end = -extent.left_frames, extent.end_frames
        if self.whole:
            return first, end
        return max(first, cell[0] - self.margin_frames), min(end, cell[1] + self.margin_frames)

    def windows(
        self, extent: Extent, core_frames: int, context_frames: int, *, whole: bool = False
    ) -> Iterator[Window]:
        """Windows of an analysis network: fixed and absolute, over the whole timeline, reflected ends included.

        Their grid is the network's own, `core_frames`, unless `analysis_frames` says otherwise.
        """
        first, end = -extent.left_frames, extent.end_frames
        cells = [(first, end)] if whole else _cells(first, end, self.analysis_frames or core_frames)
        for start, stop in cells:
            yield Window(
                start_frames=start,
                end_frames=stop,
                from_frames=max(first, start - context_frames),
                to_frames=min(end, stop + context_frames),
            )


def _cells(start: int, end: int, grid: int) -> Iterator[Span]:
    """Cells of an absolute grid over [start, end); a short last cell joins the one before it."""
    at = start
    while at < end:
        border = (max(at, 0) // grid + 1) * grid
        stop = end if end - border < min(_SHORTEST_LAST_FRAMES, grid) else border
        yield at, stop
        at = stop
