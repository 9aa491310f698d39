"""Resampling, filtering and the envelope mix: any block split gives what the whole signal gives."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from menura.audio.envelope import EnvelopeMatcher, RmsMeter
from menura.audio.filters import StreamHighPass
from menura.audio.processor import StreamResampler, resample
from menura.units import rescaled_length

RATES_HZ = (4_000, 8_000, 11_025, 16_000, 22_050, 32_000, 40_000, 44_100, 48_000, 96_000, 192_000, 384_000)
FEW = settings(max_examples=60, deadline=None)


def noise(samples: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return (0.3 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def split(samples: npt.NDArray[np.float32], sizes: list[int]) -> Iterator[npt.NDArray[np.float32]]:
    """Blocks of the given sizes (0 is a block too), the last one what is left."""
    start = 0
    for size in sizes:
        yield samples[start : start + size]
        start += size
    yield samples[start:]


SPLITS = st.lists(st.integers(0, 9_000), max_size=12)


@FEW
@given(
    samples=st.integers(0, 30_000),
    rate_in_hz=st.sampled_from(RATES_HZ),
    rate_out_hz=st.sampled_from(RATES_HZ),
    sizes=SPLITS,
)
def test_resampler_any_split_exact_length(samples: int, rate_in_hz: int, rate_out_hz: int, sizes: list[int]) -> None:
    samples = min(samples, 4_000_000 * rate_in_hz // rate_out_hz)
    x = noise(samples)
    stream = StreamResampler(rate_in_hz, rate_out_hz)
    y = np.concatenate([*(stream.push(block) for block in split(x, sizes)), stream.flush()])
    assert y.dtype == np.float32
    assert y.size == rescaled_length(samples, rate_in_hz, rate_out_hz)
    whole = soxr.resample(x, rate_in_hz, rate_out_hz, quality="VHQ") if samples else x
    common = min(whole.size, y.size)
    assert abs(whole.size - y.size) <= 1
    np.testing.assert_allclose(y[:common], whole[:common], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(y, resample(x, rate_in_hz, rate_out_hz))


@FEW
@given(samples=st.one_of(st.integers(1, 60), st.integers(1, 150_000)), sizes=SPLITS, seed=st.integers(0, 9))
def test_high_pass_any_split_equals_filtfilt(samples: int, sizes: list[int], seed: int) -> None:
    x = noise(samples, seed) + np.float32(0.2)
    stream = StreamHighPass()
    y = np.concatenate([*(stream.push(block) for block in split(x, sizes)), stream.flush()])
    b, a = signal.butter(5, 48, "high", fs=16_000)
    expected = signal.filtfilt(b, a, x.astype(np.float64), padlen=min(18, samples - 1))
    assert y.dtype == np.float32
    assert y.size == samples
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6)


def whole_rms(samples: npt.NDArray[np.float32], rate_hz: int) -> npt.NDArray[np.float64]:
    """librosa.feature.rms(frame_length=rate // 2 * 2, hop_length=rate // 2), zeros around, in float64."""
    window, hop = rate_hz // 2 * 2, rate_hz // 2
    padded = np.pad(samples.astype(np.float64), window // 2)
    starts = range(0, padded.size - window + 1, hop)
    return np.array([np.sqrt(np.mean(padded[start : start + window] ** 2)) for start in starts])


def whole_stretch(values: npt.NDArray[np.float64], length: int) -> npt.NDArray[np.float64]:
    """torch.nn.functional.interpolate(mode="linear", align_corners=False)."""
    position = np.maximum((np.arange(length) + 0.5) * len(values) / length - 0.5, 0)
    return np.interp(position, np.arange(len(values)), values)


@FEW
@given(
    samples=st.integers(1, 12_000),
    source_samples=st.integers(1, 12_000),
    rate_hz=st.sampled_from((500, 1001, 1600)),
    mix_rate=st.sampled_from((0.0, 0.25, 0.7, 1.0)),
    sizes=SPLITS,
    silent=st.booleans(),
)
def test_envelope_any_split_equals_whole_formula(
    samples: int, source_samples: int, rate_hz: int, mix_rate: float, sizes: list[int], silent: bool
) -> None:
    source, target = noise(source_samples, 1), noise(samples, 2)
    source *= np.linspace(0.1, 1, source_samples, dtype=np.float32)
    if silent:
        target[samples // 3 :] = 0
    meter = RmsMeter(400)
    source_rms = np.concatenate([*(meter.push(block) for block in split(source, sizes)), meter.flush()])
    np.testing.assert_allclose(source_rms, whole_rms(source, 400), rtol=1e-9)
    matcher = EnvelopeMatcher(source_rms, samples, rate_hz, mix_rate)
    mixed = np.concatenate([*(matcher.push(block) for block in split(target, sizes)), matcher.flush()])
    gain = whole_stretch(source_rms, samples) ** (1 - mix_rate) * np.maximum(
        whole_stretch(whole_rms(target, rate_hz), samples), 1e-6
    ) ** (mix_rate - 1)
    assert mixed.dtype == np.float32
    np.testing.assert_allclose(mixed, target * gain, rtol=1e-5, atol=1e-7)
