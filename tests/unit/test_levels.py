"""Sound of unusual levels: clicks, floats beyond full scale, quiet recordings, channels that cancel each other out."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest

from menura.audio.envelope import PeakMeter, within_full_scale
from menura.audio.processor import CANCELLED, MixDown
from menura.effects.loudness import Match, integrated
from menura.errors import DecodeError
from menura.pipeline.recording import QUIET_PEAK, ArrayRecording, RecordingFacts, first_pass
from menura.pipeline.windows import streaming_extent
from menura.train.data.slicing import fault_of
from support.tiny import FakeCollector

RATE_HZ = 16_000
FloatArray = npt.NDArray[np.float32]


def voice(seconds: float = 4.0) -> FloatArray:
    """A gliding tone with harmonics and a pause of a second in the middle."""
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    phase = 2 * np.pi * np.cumsum(150 + 40 * np.sin(2 * np.pi * 0.8 * t)) / RATE_HZ
    tone = sum(np.sin(k * phase) / k for k in range(1, 12)) * (np.abs(t - seconds / 2) > 0.5)
    noise = np.random.default_rng(0).standard_normal(len(t))
    return np.asarray(0.1 * tone + 1e-5 * noise, dtype=np.float32)


def facts(samples: FloatArray, **options: bool) -> RecordingFacts:
    extent_of = partial(streaming_extent, edge_frames=32)
    return first_pass(ArrayRecording(samples, RATE_HZ), FakeCollector, extent_of, **options)


def power(found: RecordingFacts) -> float:
    assert found.statistics is not None
    return float(found.statistics.power)  # type: ignore[attr-defined]


def test_the_peak_without_clicks() -> None:
    x = voice()
    x[[100, 40_000]] = 1e6, -300
    for block in (1, 777, 100_000):
        meter = PeakMeter()
        for start in range(0, len(x), block):
            meter.push(x[start : start + block])
        assert (meter.peak, meter.limit) == (1e6, 1.0)
    loud = PeakMeter()
    loud.push(voice() * 32768)
    assert loud.limit == math.inf


def test_training_data_over_full_scale_are_scaled_not_clipped() -> None:
    x = voice()
    assert within_full_scale(x) is x
    np.testing.assert_allclose(within_full_scale(x * 10), x / np.abs(x).max(), atol=1e-6)
    assert fault_of(within_full_scale(x * 10), RATE_HZ) is None
    assert fault_of(within_full_scale(np.clip(x * 20, -2, 2)), RATE_HZ) == "clipped"
    clicked = x.copy()
    clicked[500] = 1e6
    np.testing.assert_array_equal(within_full_scale(clicked), np.where(clicked > 1, np.float32(1), x))


def test_one_click_leaves_the_rest_as_loud_as_it_is() -> None:
    clicked = voice()
    clicked[9_000] = 1e6
    found, plain = facts(clicked), facts(voice())
    assert found.gain > 0.5
    assert power(found) == pytest.approx(power(plain), rel=0.2)
    assert any("Clicks" in note for note in found.notes)
    assert plain.notes == ()
    assert facts(clicked, adjust_level=False).gain < 1e-5  # as RVC has it


@pytest.mark.parametrize("height", [2.5, 40.0, -1e6])
def test_a_few_absurd_samples_change_neither_loudness_nor_analysis(height: float) -> None:
    clicked = voice()
    clicked[9_000:9_010] = height
    found, plain = facts(clicked, loudness=True), facts(voice(), loudness=True)
    assert found.peak == 1.0
    assert integrated(found.powers[:, None]) == pytest.approx(integrated(plain.powers[:, None]), abs=0.5)
    assert found.notes == ("Clicks far above full scale were limited.",)


@pytest.mark.parametrize(
    ("scale", "told"), [(1.02, ()), (1.5, ("3.5 dB",)), (8.0, ("18.1 dB",)), (32768.0, ("90.3 dB",))]
)
def test_floats_beyond_full_scale_are_told(scale: float, told: tuple[str, ...]) -> None:
    found = facts(voice() * np.float32(scale / np.abs(voice()).max()), loudness=True)
    assert len(found.notes) == len(told)
    assert all(each in note for each, note in zip(told, found.notes, strict=True))
    assert Match.of(found.powers[:, None], found.powers[:, None], found.peak).gain == pytest.approx(1 / scale, rel=1e-5)


@pytest.mark.parametrize("scale", [32_768.0, 2.0**31, 10.0])
def test_the_scale_of_float_files_makes_no_difference(scale: float) -> None:
    found, plain = facts(voice() * np.float32(scale), split_silence=True), facts(voice(), split_silence=True)
    assert len(plain.silences.spans) == 1
    np.testing.assert_allclose(found.silences.spans, plain.silences.spans, atol=2)
    assert found.gain * scale * np.abs(voice()).max() == pytest.approx(0.95, rel=0.01)


def test_quiet_recordings_are_analysed_at_a_usual_level() -> None:
    quiet = voice() * np.float32(0.001 / np.abs(voice()).max())  # a peak of -60 dBFS
    found = facts(quiet)
    assert found.gain * 0.001 == pytest.approx(QUIET_PEAK, rel=0.02)
    assert power(found) > 1e-5
    assert found.source_rms.max() < 0.001  # the output's loudness is still the recording's
    assert facts(quiet, adjust_level=False).gain == 1
    assert facts(voice() * np.float32(1e-6)).gain == 1  # silence stays it


@pytest.mark.parametrize("share", [1.0, 0.95])
def test_channels_that_cancel_each_other_out(share: float) -> None:
    left = voice()
    recording = ArrayRecording(np.stack([left, -np.float32(share) * left], axis=1), RATE_HZ)
    assert recording.notes == (CANCELLED,)
    reader = recording.open()
    np.testing.assert_array_equal(np.concatenate(list(reader.blocks(999))), left)


def test_only_what_cancels_is_taken_from_one_channel_whatever_the_blocks() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((50_500, 2)).astype(np.float32)
    x[20_000:35_000, 1] = -0.9 * x[20_000:35_000, 0]
    expected = None
    for block in (1, 313, 10_000, 100_000):
        mixer = MixDown(5000)
        y = np.concatenate([*(mixer.push(x[at : at + block]) for at in range(0, len(x), block)), mixer.flush()])
        assert mixer.cancelled
        expected = y if expected is None else expected
        np.testing.assert_array_equal(y, expected)
    assert expected is not None
    np.testing.assert_allclose(expected[:20_000], x[:20_000].mean(axis=1), atol=1e-6)
    np.testing.assert_array_equal(expected[20_100:35_000], x[20_100:35_000, 0])
    np.testing.assert_allclose(expected[35_100:], x[35_100:].mean(axis=1), atol=1e-6)


def test_ordinary_channels_are_averaged() -> None:
    rng = np.random.default_rng(2)
    for channels in (1, 2, 6, 16):
        x = rng.standard_normal((20_000, channels)).astype(np.float32)
        x[5000:, 1:] = 0  # one alone is no reason either
        recording = ArrayRecording(x, RATE_HZ)
        assert recording.notes == ()
        reader = recording.open()
        np.testing.assert_allclose(next(iter(reader.blocks(20_000))), x.mean(axis=1), atol=1e-6)


def test_arrays_of_no_numbers_are_refused() -> None:
    for value in (np.nan, np.inf):
        x = voice()
        x[100] = value
        with pytest.raises(DecodeError) as caught:
            ArrayRecording(x, RATE_HZ)
        assert "NaN" in caught.value.problem
