"""Reflection, tracks, seams and joins, against the plain whole-array forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from menura.pipeline.assemble import Assembler, quietest_frame
from menura.pipeline.edges import reflect, reflect_edges
from menura.pipeline.plan import streaming_extent
from menura.pipeline.timeline import Track


def split(samples: np.ndarray, cuts: list[int]) -> list[np.ndarray]:
    places = sorted(c % (len(samples) + 1) for c in cuts)
    return np.split(samples, places)


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 60_000), cuts=st.lists(st.integers(0, 10**6), max_size=6))
def test_streaming_reflection_is_numpys(length: int, cuts: list[int]) -> None:
    samples = np.random.default_rng(length).standard_normal(length).astype(np.float32)
    extent = streaming_extent(length)
    got = list(reflect_edges(split(samples, cuts), extent.left_samples, lambda n: streaming_extent(n).right_samples))
    np.testing.assert_array_equal(np.concatenate(got), reflect(samples, extent.left_samples, extent.right_samples))


def test_nothing_reflects_to_nothing() -> None:
    assert list(reflect_edges([], 10, lambda _: 10)) == []


def test_a_track_keeps_absolute_positions() -> None:
    track = Track(-3)
    track.append(np.arange(-3, 4))
    track.append(np.arange(4, 10))
    np.testing.assert_array_equal(track.read(-1, 6), np.arange(-1, 6))
    track.forget(5)
    np.testing.assert_array_equal(track.read(5, 10), np.arange(5, 10))
    with pytest.raises(IndexError):
        track.read(4, 6)
    track.forget(100)
    assert track.start == track.end == 10
    track.append(np.arange(10, 12))
    np.testing.assert_array_equal(track.read(10, 12), [10, 11])


def test_a_seam_is_cut_where_it_is_quietest_not_where_sums_cancel() -> None:
    level = np.full(101, 5.0, dtype=np.float32)
    level[70:75] = 0.1
    assert quietest_frame(level, 1000) == 1072
    assert quietest_frame(np.ones(101, dtype=np.float32), 1000) == 1050
    assert quietest_frame(np.zeros(5, dtype=np.float32), 5) == 7


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(20, 200), min_size=1, max_size=5), st.integers(0, 20))
def test_equal_signals_join_without_a_trace(lengths: list[int], overlap: int) -> None:
    total = sum(lengths)
    signal = np.sin(np.arange(total + overlap, dtype=np.float32))
    assembler, out, start = Assembler(), [], 0
    for position, length in enumerate(lengths):
        last = position == len(lengths) - 1
        stop = start + length + (0 if last else overlap)
        out.append(assembler.push(signal[start:stop], 0 if last else overlap))
        start += length
    np.testing.assert_allclose(np.concatenate(out), signal[:total], atol=1e-6)
