"""By how much a recording is moved: into the voice's range, by enough voice, alike in a batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from menura.f0.shift import Aim, is_sure, registers_hz, settled, shifts_of
from menura.types import FloatArray

WOMAN = Aim(median_hz=200.0, low_hz=140.0, high_hz=280.0)
PITCHES = st.floats(60, 800)


def spoken(hz: float, seconds: float, *, seed: int = 0, spread: float = 2.0) -> FloatArray:
    """F0 of someone around a pitch: words that glide, and what is unvoiced between them; two thirds are voiced."""
    random = np.random.default_rng(seed)
    words = [
        random.normal(0, spread)
        + np.pad(np.linspace(0, random.normal(0, spread), 20), (0, 10), constant_values=-np.inf)
        for _ in range(math.ceil(seconds * 100 / 30))
    ]
    return (hz * 2 ** (np.concatenate(words) / 12)).astype(np.float32)


def whispered(seconds: float, share: float = 0.03) -> FloatArray:
    """False frames, which jump."""
    random = np.random.default_rng(1)
    frames = round(seconds * 100)
    f0_hz = np.where(random.random(frames) < share, random.uniform(60, 400, frames), 0)
    return f0_hz.astype(np.float32)


def median_hz(f0_hz: FloatArray) -> float:
    return float(np.median(f0_hz[f0_hz > 0]))


@given(hz=PITCHES, target=st.floats(80, 400), seed=st.integers(0, 99), seconds=st.floats(1, 40))
def test_one_speakers_median_comes_to_the_voices(hz: float, target: float, seed: int, seconds: float) -> None:
    f0_hz, aim = spoken(hz, seconds, seed=seed), Aim(median_hz=target, low_hz=target / 1.3, high_hz=target * 1.3)
    shift = settled(f0_hz, aim)
    assert shift.semitones == round(12 * math.log2(target / median_hz(f0_hz)))
    assert math.copysign(1, shift.semitones) == 1 or shift.semitones < 0  # never -0
    assert aim.low_hz <= median_hz(f0_hz) * 2 ** (shift.semitones / 12) <= aim.high_hz
    assert shift.notes == ()


@pytest.mark.parametrize("seconds", [0.5, 5, 300])
def test_false_frames_move_nothing(seconds: float) -> None:
    f0_hz = whispered(seconds)
    assert f0_hz.any()
    assert not is_sure(f0_hz)
    shift = settled(f0_hz, WOMAN)
    assert shift.semitones == 0
    assert shift.notes == ("There is too little voice to tell its pitch by; it was not moved.",)
    shift = settled(f0_hz, Aim(median_hz=200, low_hz=140, high_hz=280, shifts=(12.0,)))
    assert shift.semitones == 12
    assert "moved like the other recordings" in shift.notes[0]
    # A word among them is not enough, speech is.
    assert not is_sure(np.concatenate([whispered(60), spoken(100, 0.3)]))
    assert is_sure(np.concatenate([whispered(60), spoken(100, 20)]))


def test_a_short_word_is_enough_and_silence_says_nothing() -> None:
    assert settled(spoken(100, 0.3), WOMAN).semitones == pytest.approx(12, abs=3)
    for frames in (0, 1, 300):
        assert settled(np.zeros(frames, np.float32), WOMAN) == settled(np.zeros(5, np.float32), WOMAN)
    assert settled(np.zeros(9, np.float32), WOMAN).notes == ()
    assert registers_hz(np.zeros(9, np.float32)) == ()


@pytest.mark.parametrize("sung_s", [3, 9, 20])
def test_speech_counts_before_a_note_that_no_voice_could_reach_with_it(sung_s: int) -> None:
    """Also of a note that is longer; one median for both moved the speech to 33 Hz."""
    f0_hz = np.concatenate([spoken(125, 7), np.full(sung_s * 100, 850, np.float32)])
    for part in (f0_hz, f0_hz[::-1].copy()):
        shift = settled(part, WOMAN)
        assert shift.semitones == 8
        speech = f"{registers_hz(f0_hz)[0]:.0f}"
        two = f"There are two registers or speakers, around {speech} and 850 Hz"
        assert shift.notes == (f"{two}; the shift is for the one around {speech} Hz.",)
    alone = settled(np.full(sung_s * 100, 850, np.float32), WOMAN)
    assert (alone.semitones, alone.notes) == (-25, ())


@given(low=st.floats(80, 130), apart=st.floats(9, 11.5), share=st.floats(0.3, 0.7), seed=st.integers(0, 99))
def test_two_speakers_both_stay_in_a_range_that_is_wide_enough(
    low: float, apart: float, share: float, seed: int
) -> None:
    high = low * 2 ** (apart / 12)
    f0_hz = np.concatenate([spoken(low, 40 * share, seed=seed, spread=1), spoken(high, 40 * (1 - share), spread=1)])
    found = registers_hz(f0_hz)
    assert sorted(found) == pytest.approx([low, high], rel=0.06)
    assert found[0] == pytest.approx(low if share > 0.5 else high, rel=0.06) or abs(share - 0.5) < 0.05
    for factor in (1.6, 1.1):
        aim = Aim(median_hz=200, low_hz=200 / factor, high_hz=200 * factor)
        shift = settled(f0_hz, aim)
        moved = [hz * 2 ** (shift.semitones / 12) for hz in found]
        assert len(shift.notes) == 1
        if factor == 1.6:
            assert all(aim.low_hz <= hz <= aim.high_hz for hz in moved)
            assert shift.notes[0].endswith("with this shift both lie in the voice's range.")
        else:
            assert aim.low_hz <= moved[0] <= aim.high_hz


def test_a_little_of_another_register_is_none() -> None:
    f0_hz = np.concatenate([spoken(110, 30), np.full(90, 440, np.float32)])
    assert registers_hz(f0_hz) == (pytest.approx(median_hz(f0_hz)),)
    assert len(registers_hz(spoken(150, 60, spread=5))) == 1  # one lively speaker


def test_short_recordings_of_one_reader_get_one_shift() -> None:
    curves = [spoken(hz, 2, seed=number) for number, hz in enumerate((81, 86, 92, 97, 102))]
    alone = {settled(f0_hz, WOMAN).semitones for f0_hz in curves}
    (shift,) = shifts_of([*curves, whispered(5), np.zeros(100, np.float32)], WOMAN)
    assert max(alone) - min(alone) >= 2
    assert min(alone) <= shift <= max(alone)
    aim = Aim(median_hz=200, low_hz=140, high_hz=280, shifts=(shift,))
    assert {settled(f0_hz, aim).semitones for f0_hz in curves} == {shift}
    assert not any(settled(f0_hz, aim).notes for f0_hz in curves)


def test_two_readers_get_a_shift_each_and_a_third_that_was_not_heard_his_own() -> None:
    low, high = ([spoken(hz, 3, seed=n) for n, hz in enumerate(each)] for each in ((96, 100, 104), (195, 200, 210)))
    shifts = shifts_of([*high, *low, spoken(100, 3)], WOMAN)
    assert shifts == (pytest.approx(12, abs=1), pytest.approx(0, abs=1))  # of whom there is more first
    aim = Aim(median_hz=200, low_hz=140, high_hz=280, shifts=shifts)
    assert {settled(f0_hz, aim).semitones for f0_hz in low} == {shifts[0]}
    assert {settled(f0_hz, aim).semitones for f0_hz in high} == {shifts[1]}
    child = settled(spoken(390, 3), aim)
    assert child.semitones == pytest.approx(-12, abs=2)
    assert "it isn't like the other recordings" in child.notes[0]


@given(hz=PITCHES, shift=st.integers(-24, 24))
def test_a_batchs_shift_never_leads_out_of_the_range(hz: float, shift: int) -> None:
    aim = Aim(median_hz=200, low_hz=180, high_hz=240, shifts=(float(shift),))
    found = settled(spoken(hz, 4), aim)
    moved = registers_hz(spoken(hz, 4))[0] * 2 ** (found.semitones / 12)
    assert 180 <= moved <= 240
    assert bool(found.notes) == (found.semitones != shift)


def test_strewn_speakers_are_judged_alone_unless_one_shift_is_wanted() -> None:
    curves = [spoken(80 * 2 ** (n / 4), 3, seed=n, spread=0.3) for n in range(6)]
    assert shifts_of(curves, WOMAN) == shifts_of([whispered(5)], WOMAN) == shifts_of([], WOMAN) == ()
    forced = Aim(median_hz=200, low_hz=140, high_hz=280, forced=True)
    (shift,) = shifts_of(curves, forced)
    assert shift == pytest.approx(12 * math.log2(200 / median_hz(np.concatenate(curves))), abs=0.5)
    assert shifts_of([], forced) == (0.0,)
    forced = Aim(median_hz=200, low_hz=140, high_hz=280, forced=True, shifts=(shift,))
    assert {settled(f0_hz, forced).semitones for f0_hz in (*curves, whispered(5))} == {shift}


def test_a_range_is_the_voices_or_half_an_octave_each_way() -> None:
    own = Aim.of(400.0, (150.0, 300.0), 200.0, shifts=(), forced=False)
    assert (own.low_hz, own.high_hz) == (300, 600)
    for median in (200.0, None):
        usual = Aim.of(200.0, None, median, shifts=(), forced=False)
        assert usual.high_hz / 200 == 200 / usual.low_hz == pytest.approx(2**0.5)
