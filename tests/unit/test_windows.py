"""Windows and segments tile the timeline exactly, at any length."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from menura.pipeline.windows import (
    EDGE_FRAMES,
    LONGEST_EDGE_SAMPLES,
    Windowing,
    compat_extent,
    streaming_extent,
)

LENGTHS = st.integers(1, 16_000 * 4000)


@given(LENGTHS)
def test_the_timeline_covers_the_recording_and_its_reflections(length: int) -> None:
    cases = ((streaming_extent(length), 100), (streaming_extent(length, 32), 32), (compat_extent(length), 100))
    for extent, edge_frames in cases:
        assert (extent.left_frames + extent.end_frames) % 2 == 0
        assert extent.end_frames * 160 >= length
        assert 0 <= extent.right_samples <= LONGEST_EDGE_SAMPLES
        assert extent.left_samples == edge_frames * 160


def test_recordings_of_about_equal_length_have_timelines_of_equal_length() -> None:
    ends = {streaming_extent(length).end_frames for length in range(16_000, 5 * 16_000, 7)}
    assert len(ends) <= 4 * 100 // 20 + 1


@given(LENGTHS, st.sampled_from([800, 2000, 3200]), st.sampled_from([96, 104, 150, 200]), st.sampled_from([32, 100]))
def test_windows_tile_and_lie_on_the_grid(length: int, core: int, context: int, edge_frames: int) -> None:
    extent = streaming_extent(length, edge_frames)
    windows = list(Windowing().windows(extent, core, context))
    assert windows[0].start_frames == -extent.left_frames
    assert windows[-1].end_frames == extent.end_frames
    for before, after in itertools.pairwise(windows):
        assert before.end_frames == after.start_frames
        assert after.start_frames % core == 0
        assert after.start_frames - after.from_frames == context
    for window in windows:
        assert window.from_frames <= window.start_frames < window.end_frames <= window.to_frames
        assert window.to_frames - window.from_frames <= core + EDGE_FRAMES + 2 * context + 400
        assert window.start_frames % 2 == window.from_frames % 2 == window.end_frames % 2 == 0


@given(st.integers(1, 400_000), st.sampled_from([25, 500, 2000]))
def test_segments_tile_the_output(frames: int, grid: int) -> None:
    cells = list(Windowing(segment_frames=grid).segments(frames))
    assert cells[0][0] == 0
    assert cells[-1][1] == frames
    for (_, end), (start, _) in itertools.pairwise(cells):
        assert end == start
        assert end % grid == 0
    assert all(end - start <= grid + min(400, grid) for start, end in cells)
    assert list(Windowing(whole=True).segments(frames)) == [(0, frames)]


@given(LENGTHS)
def test_a_segments_context_is_within_the_timeline_and_no_wider_than_said(length: int) -> None:
    extent, windowing = streaming_extent(length), Windowing()
    for cell in windowing.segments(-(-length // 160)):
        start, end = windowing.context(cell, extent)
        assert -extent.left_frames <= start <= cell[0] < cell[1] <= end <= extent.end_frames
        assert end - start <= windowing.widest_frames(extent.frames)
    assert Windowing(whole=True).context((0, 1), extent) == (-100, extent.end_frames)


def test_segments_have_few_shapes_where_that_is_asked_for() -> None:
    """500 recordings of 3 to 8 s: one shape a second, in which all is decoded and all of the window fits."""
    windowing, shapes = Windowing(), set()
    for length in range(3 * 16_000 + 160, 8 * 16_000, 160):
        extent = streaming_extent(length, 32)
        (cell,) = windowing.segments(-(-length // 160))
        made, window_frames = windowing.uniform(cell, extent, last=True)
        assert made[0] == 0
        assert cell[1] <= made[1] <= window_frames - extent.left_frames
        assert window_frames >= extent.frames
        shapes.add((made, window_frames))
    assert len(shapes) == 5


@given(LENGTHS)
def test_a_seam_falls_within_what_is_decoded_anyway(length: int) -> None:
    extent, windowing = streaming_extent(length), Windowing()
    cells = list(windowing.segments(-(-length // 160)))
    inner = set()
    for cell in cells:
        last = cell == cells[-1]
        (start, stop), window_frames = windowing.uniform(cell, extent, last=last)
        assert start <= max(0, cell[0] - 53)
        assert stop >= cell[1] + (0 if last else 53)
        context = windowing.context(cell, extent)
        assert window_frames >= context[1] - context[0]
        if cell[0] and context[1] == cell[1] + windowing.margin_frames and not last:
            inner.add((start - context[0], stop - context[0], window_frames))
    assert len(inner) <= 1


def test_whole_is_one_window() -> None:
    extent = streaming_extent(16_000 * 60)
    (window,) = Windowing().windows(extent, 800, 100, whole=True)
    assert (window.from_frames, window.to_frames) == (-100, extent.end_frames)


def test_the_grid_of_analysis_can_be_set() -> None:
    extent = streaming_extent(16_000 * 10)
    starts = [window.start_frames for window in Windowing(analysis_frames=50).windows(extent, 800, 100)]
    assert starts[1:3] == [50, 100]


@pytest.mark.parametrize(("length", "frames"), [(38_400, 438), (1, 198), (16_000, 298)])
def test_the_compatible_timeline_loses_what_hubert_loses(length: int, frames: int) -> None:
    extent = compat_extent(length)
    assert extent.left_frames + extent.end_frames == frames
