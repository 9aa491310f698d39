"""Writing recordings: sample counts, rounding, rates, and nothing half-written."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from menura.audio import encode
from menura.audio.decode import open_audio
from menura.audio.encode import AudioWriter, Encoding, codec_rate, format_of
from menura.errors import EncodeError
from menura.options import FORMATS

FloatArray = npt.NDArray[np.float32]


def speech_like(samples: int, rate_hz: int) -> FloatArray:
    t = np.arange(samples) / rate_hz
    x = 0.2 * np.sin(2 * np.pi * 220 * t) + 0.05 * np.sin(2 * np.pi * 1301.3 * t * (1 + t / 20))
    return (x * np.minimum(1, t * 20)).astype(np.float32)


def write(path: Path, x: FloatArray, rate_hz: int, block_samples: int = 7777, **options: Any) -> None:
    with AudioWriter(path, rate_hz, **options) as writer:
        for start in range(0, x.size, block_samples):
            writer.write(x[start : start + block_samples])


def read(path: Path) -> FloatArray:
    reader = open_audio(path)
    y = np.concatenate(list(reader.blocks(10_000)))
    assert reader.warning is None
    return y


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("voice_rate_hz", [16_000, 40_000, 48_000])
@pytest.mark.parametrize("samples", [40_000, 100_001])
def test_every_format_keeps_the_sample_count_and_the_alignment(
    tmp_path: Path, format: str, voice_rate_hz: int, samples: int
) -> None:
    rate_hz = codec_rate(format, voice_rate_hz)
    x = speech_like(samples, rate_hz)
    path = tmp_path / f"out.{format}"
    write(path, x, rate_hz)
    y = read(path)
    assert y.size == samples
    lags = [float(np.dot(y[1500 + lag : 38_000 + lag], x[1500:38_000])) for lag in range(-1500, 1501)]
    assert int(np.argmax(lags)) - 1500 == 0
    noise_db = 10 * np.log10(np.sum((y - x) ** 2) / np.sum(x**2))
    assert noise_db < {"wav": -80, "flac": -80, "ogg": -30, "opus": -20, "mp3": -35, "m4a": -40}[format]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("format", ["wav", "flac", "ogg", "mp3", "opus", "m4a"])
@pytest.mark.parametrize("samples", [1, 2, 100, 1151, 2881])
def test_short_recordings(tmp_path: Path, format: str, samples: int) -> None:
    rate_hz = 48_000
    path = tmp_path / f"out.{format}"
    write(path, np.full(samples, 0.25, dtype=np.float32), rate_hz)
    assert read(path).size == samples


@pytest.mark.parametrize("format", ["wav", "flac"])
def test_rounding_is_to_the_nearest_step_and_clips(tmp_path: Path, format: str) -> None:
    x = np.random.default_rng(0).uniform(-1, 1, 50_000).astype(np.float32)
    x[:6] = [1.0, -1.0, 1.5, -1.5, 32767 / 32768, 0.0]
    write(tmp_path / "out", x, 16_000, format=format)
    y = read(tmp_path / "out")
    assert y[:6].tolist() == [32767 / 32768, -1.0, 32767 / 32768, -1.0, 32767 / 32768, 0.0]
    assert np.abs(y[6:] - np.clip(x[6:], -1, 32767 / 32768)).max() <= 0.5 / 32768


@pytest.mark.parametrize("format", FORMATS)
def test_values_beyond_full_scale_and_no_numbers_do_no_harm(tmp_path: Path, format: str) -> None:
    rate_hz = 48_000
    x = 3 * speech_like(20_000, rate_hz)
    x[5000], x[6000], x[7000] = np.nan, np.inf, -np.inf
    path = tmp_path / f"out.{format}"
    write(path, x, rate_hz)
    y = read(path)
    assert y.size == x.size
    assert np.isfinite(y).all()
    assert np.abs(y[8000:]).max() < 1.2


@pytest.mark.parametrize(
    ("format", "bit_depth", "subtype", "step"),
    [("wav", 24, "PCM_24", 2.0**-23), ("wav", 32, "FLOAT", 0.0), ("flac", 24, "PCM_24", 2.0**-23)],
)
def test_finer_samples(tmp_path: Path, format: str, bit_depth: int, subtype: str, step: float) -> None:
    x, path = speech_like(5000, 16_000), tmp_path / f"out.{format}"
    write(path, x, 16_000, encoding=Encoding(bit_depth=bit_depth))
    assert soundfile.info(str(path)).subtype == subtype
    np.testing.assert_allclose(read(path), x, atol=step, rtol=0)


def size_kbps(path: Path, rate_hz: int, encoding: Encoding) -> float:
    rng = np.random.default_rng(1)
    write(path, (0.1 * rng.standard_normal(rate_hz * 10)).astype(np.float32), rate_hz, encoding=encoding)
    return path.stat().st_size * 8 / 10_000


@pytest.mark.parametrize(
    ("format", "rate_hz", "bitrate", "expected_kbps"),
    [
        *[("mp3", 44_100, kbps, kbps) for kbps in (32, 64, 128, 192, 320)],
        *[("mp3", 22_050, kbps, min(kbps, 160)) for kbps in (8, 64, 128, 320)],
        ("mp3", 44_100, 8, 32),  # the least that the codec has
        *[("opus", 48_000, kbps, min(kbps, 256)) for kbps in (16, 64, 128, 320)],
        *[("m4a", 44_100, kbps, kbps) for kbps in (64, 128, 192)],
    ],
)
def test_bitrates(tmp_path: Path, format: str, rate_hz: int, bitrate: int, expected_kbps: int) -> None:
    found = size_kbps(tmp_path / f"out.{format}", rate_hz, Encoding(bitrate_kbps=bitrate))
    assert found == pytest.approx(expected_kbps, rel=0.12, abs=2)


@pytest.mark.parametrize("format", ["ogg", "mp3"])
def test_quality(tmp_path: Path, format: str) -> None:
    sizes = [size_kbps(tmp_path / f"out.{format}", 44_100, Encoding(quality=quality)) for quality in (0, 3, 7, 10)]
    assert sizes == sorted(sizes)
    assert sizes[3] > 2 * sizes[0]


def test_mp3_and_opus_are_of_good_quality(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    x = (0.1 * np.cumsum(rng.standard_normal(480_000)) / 30).astype(np.float32)
    x = np.clip(x - np.linspace(x[0], x[-1], x.size, dtype=np.float32), -0.9, 0.9)
    x += (0.02 * rng.standard_normal(x.size)).astype(np.float32)
    for format, least_kbps in (("mp3", 90), ("opus", 90), ("m4a", 90), ("ogg", 60)):
        write(tmp_path / f"out.{format}", x, 48_000)
        assert (tmp_path / f"out.{format}").stat().st_size * 8 / 10_000 > least_kbps, format


def test_codec_rates() -> None:
    assert [codec_rate(format, 40_000) for format in FORMATS] == [40_000, 40_000, 40_000, 44_100, 48_000, 44_100]
    assert codec_rate("opus", 16_000) == 16_000
    assert codec_rate("opus", 16_001) == 24_000
    assert codec_rate("mp3", 192_000) == 48_000
    assert codec_rate("flac", 192_000) == 192_000
    assert codec_rate("ogg", 384_000) == 192_000


@pytest.mark.parametrize("format", FORMATS)
def test_every_rate_that_a_codec_is_said_to_have_works(tmp_path: Path, format: str) -> None:
    for rate_hz in sorted(
        {codec_rate(format, rate_hz) for rate_hz in (4000, 8000, 11_025, 12_000, 22_050, 37_800, 192_000, 384_000)}
    ):
        path = tmp_path / f"{rate_hz}.{format}"
        write(path, speech_like(3000, rate_hz), rate_hz)
        assert read(path).size == 3000
        reader = open_audio(path)
        assert reader.info.sample_rate == rate_hz


def test_a_rate_that_the_codec_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EncodeError, match="mp3 doesn't support 40000 Hz"):
        AudioWriter(tmp_path / "out.mp3", 40_000)
    assert list(tmp_path.iterdir()) == []


def test_the_format_comes_from_the_argument_then_the_name_then_is_wav(tmp_path: Path) -> None:
    assert format_of(Path("a.FLAC")) == "flac"
    assert format_of(Path("a.txt")) is None
    write(tmp_path / "a.flac", speech_like(10, 8000), 8000)
    write(tmp_path / "b.flac", speech_like(10, 8000), 8000, format="wav")
    write(tmp_path / "c", speech_like(10, 8000), 8000)
    kinds = [soundfile.info(str(path)).format for path in sorted(tmp_path.iterdir())]
    assert kinds == ["FLAC", "WAV", "WAV"]
    with pytest.raises(EncodeError, match="'exe' is not one of wav, flac"):
        AudioWriter(tmp_path / "d", 8000, format="exe")


def test_a_wav_beyond_4_gib_becomes_rf64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = speech_like(1000, 16_000)
    monkeypatch.setattr(encode, "_WAVE_BYTES", 1500)
    with AudioWriter(tmp_path / "long.wav", 16_000, expected_samples=1000) as writer:
        writer.write(x)
    assert soundfile.info(str(tmp_path / "long.wav")).format == "RF64"
    np.testing.assert_allclose(read(tmp_path / "long.wav"), x, atol=0.5 / 32768)


def test_names_with_spaces_and_any_script_and_new_folders(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "声 ü" / "out put.ogg"
    write(path, speech_like(1000, 16_000), 16_000)
    assert read(path).size == 1000


def write_and_raise(path: Path, error: BaseException) -> None:
    with AudioWriter(path, 48_000) as writer:
        writer.write(speech_like(50_000, 48_000))
        raise error


@pytest.mark.parametrize("format", FORMATS)
def test_an_error_or_abort_leaves_what_was_there(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"out.{format}"
    path.write_bytes(b"before")
    with pytest.raises(RuntimeError, match="stop"):
        write_and_raise(path, RuntimeError("stop"))
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
    writer = AudioWriter(path, 48_000)
    writer.write(speech_like(10, 48_000))
    writer.abort()
    writer.abort()
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.write(speech_like(10, 48_000))
    assert path.read_bytes() == b"before"
    write(path, speech_like(5000, 48_000), 48_000)
    assert read(path).size == 5000
    assert list(tmp_path.iterdir()) == [path]


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_and_raise(tmp_path / "out.wav", KeyboardInterrupt())
    assert list(tmp_path.iterdir()) == []


@contextmanager
def full_disk(bytes_left: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("bytes_left", [0, 100, 6000])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], format: str, bytes_left: int
) -> None:
    noise = (0.2 * np.random.default_rng(0).standard_normal(100_000)).astype(np.float32)
    path = tmp_path / f"out.{format}"
    with full_disk(bytes_left), pytest.raises(EncodeError, match="can't be written") as caught:
        write(path, noise, 48_000)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("format", FORMATS)
def test_a_disk_that_is_full_at_the_very_end(tmp_path: Path, format: str) -> None:
    """Compressed formats write much of their sound, or their header, only when they are closed."""
    noise = (0.2 * np.random.default_rng(0).standard_normal(100_000)).astype(np.float32)
    path = tmp_path / f"out.{format}"
    write(path, noise, 48_000)
    size = path.stat().st_size
    path.unlink()
    with full_disk(size - 1), pytest.raises(EncodeError, match="can't be written"):
        write(path, noise, 48_000)
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "out.wav", tmp_path / "folder"):
        with pytest.raises(EncodeError) as caught:
            AudioWriter(path, 16_000)
        assert caught.value.subject == str(path)
    with pytest.raises(EncodeError, match="File name too long"), AudioWriter(tmp_path / ("x" * 300 + ".wav"), 16_000):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_long_name_keeps_room_for_the_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / ("長" * 80 + ".wav")  # 244 bytes of the 255 that file systems have
    write(path, speech_like(10, 8000), 8000)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_without_pyav_m4a_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(EncodeError, match=r"menura\[media\]"):
        AudioWriter(tmp_path / "out.m4a", 48_000)
    assert list(tmp_path.iterdir()) == []


def test_files_carry_no_metadata_that_changes(tmp_path: Path) -> None:
    """The same sound gives the same bytes."""
    for format in ("wav", "flac", "mp3", "m4a"):
        for name in ("a", "b"):
            write(tmp_path / name, speech_like(30_000, 48_000), 48_000, format=format)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes(), format
