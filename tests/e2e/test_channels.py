"""Channels that stay, on real speech with the starter voice: image, balance, polarity, silence, layouts, parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from menura.converter import Converter
from menura.errors import EncodeError, OptionError
from menura.options import ConversionOptions, EngineOptions
from menura.pipeline.channels import signals_of
from menura.pipeline.engine import Engine
from menura.pipeline.recording import ArrayRecording, FileRecording
from menura.types import FloatArray

DATA = Path(__file__).parents[1] / "data"
RATE_HZ = 16_000


@pytest.fixture(scope="module")
def converter() -> Converter:
    return Converter(EngineOptions(threads=1))


@pytest.fixture(scope="module")
def speech() -> FloatArray:
    """Three seconds of a man."""
    samples: FloatArray = soundfile.read(DATA / "librivox_0890.flac", dtype="float32")[0][: 3 * RATE_HZ]
    return samples


@pytest.fixture(scope="module")
def other() -> FloatArray:
    samples: FloatArray = soundfile.read(DATA / "librivox_0930.flac", dtype="float32")[0][: 3 * RATE_HZ]
    return samples


def converted(converter: Converter, channels: list[FloatArray], kind: str = "stereo", **options: object) -> FloatArray:
    asked = ConversionOptions(channels=kind, **options)  # type: ignore[arg-type]
    return converter.convert((np.stack(channels, axis=1), RATE_HZ), None, asked)[0]


def alone(converter: Converter, samples: FloatArray, **options: object) -> FloatArray:
    return converter.convert((samples, RATE_HZ), None, ConversionOptions(**options))[0]  # type: ignore[arg-type]


def level_db(samples: FloatArray) -> float:
    return float(10 * np.log10(np.mean(np.square(samples, dtype=np.float64))))


def correlation(one: FloatArray, other: FloatArray) -> float:
    return float(np.corrcoef(one, other)[0, 1])


def test_equal_channels_stay_equal_and_are_the_mono_conversion(converter: Converter, speech: FloatArray) -> None:
    both = converted(converter, [speech, speech])
    assert both.shape == (3 * 24_000, 2)
    np.testing.assert_array_equal(both[:, 0], both[:, 1])
    np.testing.assert_array_equal(both[:, 0], alone(converter, speech))
    six = converted(converter, [speech] * 6, sample_rate=48_000)
    assert six.shape == (3 * 48_000, 6)
    assert (six == six[:, :1]).all()


@pytest.mark.parametrize(("left", "right"), [(0.8, 0.3), (0.05, 0.9), (0.8, -0.3)])
def test_a_panned_voice_keeps_its_place(converter: Converter, speech: FloatArray, left: float, right: float) -> None:
    out = converted(converter, [np.float32(left) * speech, np.float32(right) * speech])
    found_db = level_db(out[:, 1]) - level_db(out[:, 0])
    assert found_db == pytest.approx(20 * np.log10(abs(right) / left), abs=0.1)
    assert correlation(out[:, 0], out[:, 1]) * np.sign(right) > 0.99


def test_channels_that_are_opposite_don_t_cancel(converter: Converter, speech: FloatArray) -> None:
    noise = 0.1 * float(np.std(speech)) * np.random.default_rng(1).standard_normal(len(speech)).astype(np.float32)
    plain = level_db(alone(converter, speech))
    for right in (-speech, noise - speech):
        for kind in ("mono", "stereo", "mid"):
            out = converted(converter, [speech, right], kind)
            assert level_db(out) == pytest.approx(plain, abs=3), kind
    out = converted(converter, [speech, -speech])
    np.testing.assert_array_equal(out[:, 0], -out[:, 1])


def test_two_voices_stay_where_they_are(converter: Converter, speech: FloatArray, other: FloatArray) -> None:
    out = converted(converter, [speech, other], transpose=0)
    mono = [alone(converter, samples, transpose=0) for samples in (speech, other)]
    for number in (0, 1):
        assert correlation(out[:, number], mono[number]) > 0.97
        assert abs(correlation(out[:, number], mono[1 - number])) < 0.1


def test_a_silent_channel_stays_silent(converter: Converter, speech: FloatArray) -> None:
    out = converted(converter, [np.zeros_like(speech), speech])
    assert not out[:, 0].any()
    np.testing.assert_array_equal(out[:, 1], alone(converter, speech))
    turns = np.concatenate([speech, np.zeros(4 * RATE_HZ, np.float32)])
    out = converted(converter, [turns, turns[::-1].copy()])
    assert np.abs(out[5 * 24_000 :, 0]).max() < 1e-3
    assert np.abs(out[: 2 * 24_000, 1]).max() < 1e-3
    assert not converted(converter, [np.zeros_like(speech)] * 2).any()


@pytest.mark.parametrize("rate_hz", [24_000, 44_100])
def test_mid_keeps_the_side(converter: Converter, speech: FloatArray, other: FloatArray, rate_hz: int) -> None:
    left, right = speech + 0.3 * other, speech - 0.3 * other
    out = converted(converter, [left, right], "mid", sample_rate=rate_hz)
    side = soxr.resample(0.5 * left - 0.5 * right, RATE_HZ, rate_hz, "VHQ")
    np.testing.assert_allclose((out[:, 0] - out[:, 1]) / 2, side, atol=1e-6)
    middle = alone(converter, 0.5 * left + 0.5 * right, sample_rate=rate_hz)
    np.testing.assert_allclose(out.mean(axis=1), middle, atol=1e-6)


@pytest.mark.parametrize("kind", ["stereo", "mid"])
def test_parts_are_the_undivided_conversion(
    converter: Converter, speech: FloatArray, other: FloatArray, kind: str, tmp_path: Path
) -> None:
    """Two voices, then one a little off the middle, with a pause; with what uses every stage."""
    pause = np.zeros(RATE_HZ, np.float32)
    left = np.concatenate([speech, pause, 0.7 * speech, 0.7 * other] * 3)
    right = np.concatenate([other, pause, 0.4 * speech, 0.4 * other] * 3)
    source = tmp_path / "talk.wav"
    soundfile.write(source, np.stack([left, right], axis=1), RATE_HZ)
    for number, part_length in enumerate((10.0, 1000.0)):
        options = ConversionOptions(
            channels=kind, part_length=part_length, split_silence=True, rms_mix_rate=0.6, clean_output=0.3,
            effects="reverb wet=0.2", loudness=-18, sample_rate=48_000,
        )  # fmt: skip
        result = converter.convert(source, tmp_path / f"{number}.wav", options)
        assert (result.parts > 1) == (number == 0)
        assert result.output_samples == 3 * len(left)
    assert (tmp_path / "0.wav").read_bytes() == (tmp_path / "1.wav").read_bytes()
    assert soundfile.info(tmp_path / "0.wav").channels == 2
    assert not list(tmp_path.glob("*parts*"))


def test_noise_is_told_once(converter: Converter, speech: FloatArray, other: FloatArray, tmp_path: Path) -> None:
    """Of parts, of channels, of a dialogue."""
    noise = np.random.default_rng(1).normal(0, 0.5, (12 * RATE_HZ, 2))
    clean = np.tile(np.stack([speech, other], axis=1), (4, 1))
    soundfile.write(tmp_path / "talk.wav", clean + noise * np.std(clean, axis=0), RATE_HZ, "FLOAT")
    soundfile.write(tmp_path / "clean.wav", clean, RATE_HZ, "FLOAT")
    for asked in ({"channels": "stereo", "part_length": 4.0}, {"spans": "start,end,voice\n0,3,wren\n3,12,heron"}):
        options = ConversionOptions(**asked)  # type: ignore[arg-type]
        notes = converter.convert(tmp_path / "talk.wav", tmp_path / "out.wav", options).notes
        assert ["dB below the speech, so words" in note for note in notes].count(True) == 1
        assert "below the speech" not in str(converter.convert(tmp_path / "clean.wav", tmp_path / "out.wav", options))


def test_blocks_of_a_stream_have_channels(converter: Converter, speech: FloatArray) -> None:
    recording = np.stack([speech, 0.5 * speech], axis=1), RATE_HZ
    options = ConversionOptions(channels="stereo", loudness="voice")  # as a stream always is
    blocks = [block.samples for block in converter.stream(recording, ConversionOptions(channels="stereo"))]
    np.testing.assert_array_equal(np.concatenate(blocks), converter.convert(recording, None, options)[0])


def test_layouts(converter: Converter, speech: FloatArray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "surround.flac"
    levels = np.array([0.9, 0.7, 0.5, 0.0, 0.3, 0.2], dtype=np.float32)
    soundfile.write(source, speech[:RATE_HZ, None] * levels, RATE_HZ)
    options = ConversionOptions(channels="stereo", bit_depth=24)
    for name in ("out.wav", "out.flac"):
        converter.convert(source, tmp_path / name, options)
        sound = soundfile.read(tmp_path / name)[0]
        assert sound.shape[1] == 6
        found = np.sqrt(np.mean(sound**2, axis=0))
        np.testing.assert_allclose(found / found[0], levels / levels[0], rtol=0.02, atol=1e-6)
    assert soundfile.info(tmp_path / "out.wav").format == "WAVEX"  # says that they are 5.1
    monkeypatch.setattr(Engine, "_compute", lambda _: pytest.fail("computed"))
    with pytest.raises(EncodeError, match="2 channels"):
        converter.convert(source, tmp_path / "out.mp3", ConversionOptions(channels="stereo"))
    with pytest.raises(OptionError, match="no middle"):
        converter.convert(source, tmp_path / "mid.wav", ConversionOptions(channels="mid"))


@pytest.mark.parametrize("length", [10, RATE_HZ, 2 * RATE_HZ + 10])
def test_offsets_and_short_ends_don_t_mislead(speech: FloatArray, length: int) -> None:
    """A second block of a few samples; steady voltages of opposite signs, which aren't sound."""
    voice = speech[RATE_HZ // 2 :][:length]
    recording = ArrayRecording(np.stack([voice + 0.3, 0.5 * voice - 0.3], axis=1), RATE_HZ)
    signals = signals_of(recording, "stereo", 0.0, lambda: None)
    assert [list(signal.weights) for signal in signals] == [[1, 0], [0, 1]]
    assert [signal.lead for signal in signals] == [0, 0]


def test_more_than_64_channels_are_refused(tmp_path: Path) -> None:
    """Each is a conversion, and is compared with each other."""
    soundfile.write(tmp_path / "many.wav", np.ones((100, 65), dtype=np.float32), RATE_HZ)
    with pytest.raises(OptionError, match="65 channels are too many"):
        signals_of(FileRecording(tmp_path / "many.wav"), "stereo", 0.0, lambda: None)
