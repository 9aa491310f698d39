"""Reflection, tracks, seams and joins, against the plain whole-array forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from menura.pipeline.analysis import Track
from menura.pipeline.recording import reflect, reflect_edges
from menura.pipeline.synthesis import Assembler, seam_frame
from menura.pipeline.windows import streaming_extent


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


def hiss(frames: int, level: float = 0.1) -> np.ndarray:
    return (level * np.random.default_rng(0).normal(size=frames * 160)).astype(np.float32)


def test_a_seam_lies_in_a_pause() -> None:
    samples = hiss(100)
    samples[70 * 160 : 76 * 160] *= 0.01
    assert 1071 < seam_frame(samples, 1000) < 1075


def test_a_steady_sound_is_better_than_a_dip_in_it() -> None:
    t = np.arange(100 * 160) / 16_000
    samples = 0.05 * np.sin(2 * np.pi * 200 * t).astype(np.float32)
    samples[: 50 * 160] *= 4
    samples[80 * 160 : 82 * 160] *= 0.2  # the quietest place, with a step in level on both sides
    assert 55 <= seam_frame(samples, 0) <= 78


def test_a_jump_between_samples_is_avoided() -> None:
    t = np.arange(40 * 160) / 16_000
    samples = 0.05 * np.sin(2 * np.pi * 200 * t).astype(np.float32)
    samples[20 * 160] += 0.2
    assert abs(seam_frame(samples, 0) - 20) >= 2


@pytest.mark.parametrize("frames", [5, 6, 20, 101])
def test_among_equals_a_seam_lies_in_the_middle(frames: int) -> None:
    assert seam_frame(np.zeros(frames * 160, dtype=np.float32), 7) in (7 + frames // 2, 7 + (frames - 1) // 2)


@given(st.integers(5, 101), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_a_seam_is_in_bounds_and_does_not_depend_on_the_level(frames: int, seed: int) -> None:
    samples = np.random.default_rng(seed).normal(0, 0.1, frames * 160).astype(np.float32)
    found = seam_frame(samples, 0)
    assert 2 <= found <= frames - 3
    assert seam_frame(samples * 0.5, 0) == found


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(60, 200), min_size=1, max_size=5), st.integers(0, 3))
def test_equal_signals_join_without_a_trace(lengths: list[int], room: int) -> None:
    total, overlap = sum(lengths), 2 * room + 34
    signal = np.sin(np.arange(total + overlap, dtype=np.float32))
    assembler, out, start = Assembler(34, 1000), [], 0
    for position, length in enumerate(lengths):
        last = position == len(lengths) - 1
        stop = start + length + (0 if last else overlap)
        out.append(assembler.push(signal[start:stop], 0 if last else overlap))
        start += length
        assert abs(assembler.shift_samples or 0) <= room
    np.testing.assert_allclose(np.concatenate(out), signal[:total], atol=1e-6)


def test_a_crossfade_goes_where_the_sound_is_calm() -> None:
    """A burst lies in the middle of the overlap; the crossfade is complete before or after it, and as long as said."""
    rate, fade, overlap = 24_000, 960, 1440
    generator = np.random.default_rng(3)
    sound = 0.1 * np.sin(2 * np.pi * 150 * np.arange(overlap) / rate) + 1e-4 * generator.standard_normal(overlap)
    sound[696:744] += 0.05 * generator.standard_normal(48)
    assembler = Assembler(fade, rate)
    assembler.push(sound.astype(np.float32), overlap)
    joined = assembler.push((sound + 1).astype(np.float32), 0)
    assert 120 <= abs(assembler.shift_samples) <= (overlap - fade) // 2
    risen = joined - sound
    middle = overlap // 2 + assembler.shift_samples
    np.testing.assert_allclose(risen[: middle - fade // 2], 0, atol=1e-6)
    np.testing.assert_allclose(risen[middle + fade // 2 :], 1, atol=1e-6)
    assert risen[middle - 1] == pytest.approx(0.5, abs=0.001)


@pytest.mark.parametrize("level", [0.0, 0.3])
def test_a_crossfade_stays_in_the_middle_without_a_reason(level: float) -> None:
    assembler = Assembler(960, 24_000)
    assembler.push(np.full(1440, level, dtype=np.float32), 1440)
    assembler.push(np.full(1440, level, dtype=np.float32), 0)
    assert assembler.shift_samples == 0
