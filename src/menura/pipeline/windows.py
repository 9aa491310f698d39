"""Where windows and segments begin and end, in frames of 10 ms. Integers only: nothing here reads a sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from menura.units import CONTENT_TAIL_SAMPLES, FRAME_RATE_HZ, FRAME_SAMPLES, ceil_div

EDGE_FRAMES = 100
"""Most reflected context at a recording's two ends: 1 s, as RVC pads. Encoders may ask for less."""

_LENGTH_STEP_FRAMES = 20
"""Timelines are this much longer or not: recordings of about equal length then have windows of equal shape, which can
share passes, and a batch of any lengths meets few shapes (for each, libraries keep a prepared kernel)."""

LONGEST_EDGE_SAMPLES = (EDGE_FRAMES + _LENGTH_STEP_FRAMES + 4) * FRAME_SAMPLES
"""No reflection is longer, rounding up to the step or to whole content vectors included."""

SEGMENT_FRAMES = 2000
"""Grid of the synthesis segments: 20 s."""

ATTENTION_REACH_FRAMES = 500
"""Frames on each side that a frame of the text encoder attends to: 5 s. RVC attends to the whole window, but trains on
cuts of three to four seconds; with a reach, no window's length changes what a frame becomes."""

SEGMENT_CONTEXT_FRAMES = 1000
"""Real context a segment's text encoder sees on each side: all that its first two layers reach, and nearly all of the
rest. With 6 s a voice trained against discriminators differed from `whole` by -48 dB near a seam, with 10 s by -88."""

SEAM_SEARCH_FRAMES = 50
"""A seam is cut at a quiet, steady place at most this far from its grid border."""

CROSSFADE_FRAMES = 4
"""Length of the linear crossfade at a seam: 40 ms."""

SEAM_SHIFT_FRAMES = 1
"""A crossfade may go this far from the seam's place, to where the decoded sound is calmest."""

_SHORTEST_LAST_FRAMES = 400

WIDEST_WINDOW_FRAMES = SEGMENT_FRAMES + _SHORTEST_LAST_FRAMES + 2 * (SEAM_SEARCH_FRAMES + SEGMENT_CONTEXT_FRAMES)
"""No window of a stream is wider; those of the analysis networks are about as wide."""


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


def _borders(start: int, end: int, grid: int) -> Iterator[tuple[int, int]]:
    """Cells of an absolute grid over [start, end); a short last cell joins the one before it."""
    at = start
    while at < end:
        border = (max(at, 0) // grid + 1) * grid
        stop = end if end - border < min(_SHORTEST_LAST_FRAMES, grid) else border
        yield at, stop
        at = stop


def analysis_windows(extent: Extent, core_frames: int, context_frames: int) -> Iterator[Window]:
    """Fixed absolute windows over the whole timeline, reflected ends included."""
    first = -extent.left_frames
    for start, stop in _borders(first, extent.end_frames, core_frames):
        yield Window(
            start_frames=start,
            end_frames=stop,
            from_frames=max(first, start - context_frames),
            to_frames=min(extent.end_frames, stop + context_frames),
        )


def whole_window(extent: Extent) -> Iterator[Window]:
    """One window over all of the timeline."""
    first, end = -extent.left_frames, extent.end_frames
    yield Window(start_frames=first, end_frames=end, from_frames=first, to_frames=end)


def segment_borders(output_frames: int, *, whole: bool) -> Iterator[tuple[int, int]]:
    """Grid cells of the synthesis over frames [0, output_frames); seams move near their ends."""
    if whole:
        yield 0, output_frames
    else:
        yield from _borders(0, output_frames, SEGMENT_FRAMES)


def seconds(frames: int) -> float:
    """Frames of 10 ms in seconds."""
    return frames / FRAME_RATE_HZ
