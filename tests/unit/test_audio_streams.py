"""Alignment, memory and misuse of the streaming resampler, high-pass and envelope."""

from __future__ import annotations

import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest

from menura.audio.envelope import EnvelopeMatcher, RmsMeter
from menura.audio.filters import StreamHighPass
from menura.audio.processor import StreamResampler, resample


@pytest.mark.parametrize(("rate_in_hz", "rate_out_hz"), [(16_000, 40_000), (48_000, 16_000), (44_100, 16_000)])
def test_resampler_has_no_delay(rate_in_hz: int, rate_out_hz: int) -> None:
    at_s = 0.25
    x = np.zeros(rate_in_hz, dtype=np.float32)
    x[int(at_s * rate_in_hz)] = 1
    y = resample(x, rate_in_hz, rate_out_hz)
    at = int(np.argmax(np.abs(y)))
    assert abs(at / rate_out_hz - at_s) <= 0.5 / rate_out_hz
    reach = 50
    if rate_in_hz == 16_000:  # whole multiples: symmetric about the impulse
        np.testing.assert_allclose(y[at - reach : at], y[at + reach : at : -1], atol=1e-4)


def test_resampler_keeps_time_over_a_long_stream() -> None:
    """Five minutes of 44.1 kHz: the last click is where the first one promised."""
    rate_in_hz, rate_out_hz, seconds = 44_100, 16_000, 300
    stream = StreamResampler(rate_in_hz, rate_out_hz)
    blocks = []
    for second in range(seconds):
        x = np.zeros(rate_in_hz, dtype=np.float32)
        if second in (0, seconds - 1):
            x[22_050] = 1
        blocks.append(stream.push(x))
    y = np.concatenate([*blocks, stream.flush()])
    assert y.size == seconds * rate_out_hz
    assert int(np.argmax(y[:rate_out_hz])) == 8_000
    assert int(np.argmax(y[-rate_out_hz:])) == 8_000


def test_equal_rates_pass_samples_unchanged() -> None:
    x = np.arange(10, dtype=np.float32)
    stream = StreamResampler(16_000, 16_000)
    np.testing.assert_array_equal(stream.push(x), x)
    assert stream.flush().size == 0


def high_pass(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    stream = StreamHighPass()
    return np.concatenate([stream.push(samples), stream.flush()])


def test_high_pass_removes_rumble_keeps_speech_band() -> None:
    t = np.arange(160_000) / 16_000
    rumble = high_pass(np.sin(2 * np.pi * 20 * t).astype(np.float32))
    assert np.abs(rumble[16_000:-16_000]).max() < 1e-3
    tone = np.sin(2 * np.pi * 200 * t).astype(np.float32)
    np.testing.assert_allclose(high_pass(tone)[16_000:-16_000], tone[16_000:-16_000], atol=1e-5)


def test_memory_stays_bounded_however_long_the_stream() -> None:
    """What a stream holds back is a constant, not a share of what was pushed."""
    block = np.full(16_000, 0.1, dtype=np.float32)
    filter_, matcher = StreamHighPass(), EnvelopeMatcher(np.ones(601), 300 * 16_000, 16_000, 0.25)
    behind = {"filter": 0, "matcher": 0}
    given = {"filter": 0, "matcher": 0}
    for second in range(1, 301):
        given["filter"] += filter_.push(block).size
        given["matcher"] += matcher.push(block).size
        for name in behind:
            behind[name] = max(behind[name], second * 16_000 - given[name])
    assert behind["filter"] <= 4.5 * 16_000
    assert behind["matcher"] <= 2.5 * 16_000
    assert matcher._target_rms.size < 10


def test_mix_rate_zero_gives_the_sources_loudness() -> None:
    rng = np.random.default_rng(3)
    source = (0.02 * rng.standard_normal(64_000)).astype(np.float32)
    target = (0.5 * rng.standard_normal(64_000)).astype(np.float32)
    meter = RmsMeter(16_000)
    rms = np.concatenate([meter.push(source), meter.flush()])
    matcher = EnvelopeMatcher(rms, target.size, 16_000, 0.0)
    mixed = np.concatenate([matcher.push(target), matcher.flush()])
    assert np.sqrt(np.mean(mixed[16_000:-16_000] ** 2)) == pytest.approx(0.02, rel=0.02)


def test_the_gains_of_large_blocks_take_little_memory() -> None:
    """As parts of a stereo recording are joined."""
    samples = np.ones((1 << 20, 2), dtype=np.float32)
    matcher = EnvelopeMatcher(np.ones((100, 2)), len(samples), 16_000, 1.0)
    tracemalloc.start()
    try:
        given = np.concatenate([matcher.push(samples), matcher.flush()])
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_allclose(given, samples, rtol=1e-6)
    assert peak_bytes < 6 * samples.nbytes
