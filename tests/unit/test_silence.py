"""What is silent, and what of it is left out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from menura.pipeline.recording import FADE_FRAMES, SilenceFinder, Silences


def recording(*parts: tuple[float, float]) -> np.ndarray:
    """Noise of (seconds, dBFS)."""
    rng = np.random.default_rng(0)
    noise = [rng.standard_normal(round(16_000 * s)) * 10 ** (db / 20) for s, db in parts]
    return np.concatenate(noise).astype(np.float32)


def silences(samples: np.ndarray, gain: float = 1.0, block: int = 1000) -> Silences:
    finder = SilenceFinder()
    for start in range(0, len(samples), block):
        finder.push(samples[start : start + block])
    return finder.finish(gain)


def test_gaps_are_found_with_room_for_release_and_attack() -> None:
    found = silences(recording((1, -20), (2, -100), (1, -25), (0.4, -120), (1, -20)))
    assert found.spans == ((115, 290),)
    assert found.skipped_frames == 175
    assert found.frames == 540


def test_the_ends_are_left_out_to_the_end() -> None:
    found = silences(recording((1, -100), (1, -20), (1, -100)))
    assert [(max(a, 0), min(b, 300)) for a, b in found.spans] == [(0, 90), (215, 300)]


@pytest.mark.parametrize(("quiet_db", "is_silent"), [(-60, False), (-68, False), (-73, True), (-90, True)])
def test_it_goes_by_the_recording_s_own_level(quiet_db: float, is_silent: bool) -> None:
    assert bool(silences(recording((2, -20), (2, quiet_db), (1, -20))).spans) == is_silent
    assert bool(silences(recording((2, -40), (2, quiet_db), (1, -40))).spans) == (quiet_db < -90)


def test_a_click_is_sound() -> None:
    samples = recording((1, -20), (2, -100), (1, -20))
    samples[32_000] = 0.05
    assert silences(samples).spans == ((115, 190), (216, 290))


def test_nothing_but_silence_is_left_out_altogether() -> None:
    found = silences(np.zeros(50_000, dtype=np.float32))
    assert found.sounding(0, 313) == ()
    assert found.hides(-200, 500)
    gate = found.gate(0, 313, 10)
    assert gate is not None
    assert not gate.any()


@pytest.mark.parametrize("block", [159, 160, 9_999, 100_000])
def test_blocks_make_no_difference(block: int) -> None:
    samples = recording((1, -20), (2, -100), (1.013, -25))
    assert silences(samples, block=block) == silences(samples)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(9, 300), st.integers(1, 300)), max_size=5), st.integers(0, 900), st.integers(1, 900)
)
def test_pieces_hold_all_that_the_gate_lets_through(runs: list[tuple[int, int]], start: int, length: int) -> None:
    spans, at = [], 0
    for quiet, loud in runs:
        spans.append((at + loud, at + loud + quiet))
        at += loud + quiet
    found, end = Silences(spans=tuple(spans), frames=at), start + length
    pieces = found.sounding(start, end)
    computed = np.zeros(length, dtype=bool)
    for a, b in pieces:
        assert start <= a < b <= end
        assert not computed[a - start : b - start].any()
        computed[a - start : b - start] = True
    gate = found.gate(start, end, 1)
    heard = np.ones(length, dtype=bool) if gate is None else gate > 0
    np.testing.assert_array_equal(computed, heard)
    for a, b in spans:
        assert not computed[max(0, a + FADE_FRAMES - start) : max(0, b - FADE_FRAMES - start)].any()
