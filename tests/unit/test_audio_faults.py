"""Files that other programs make and that are easily read wrong: without lengths, with holes, several in one."""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from av.stream import Disposition

from menura.audio.decode import open_audio
from menura.audio.sources import MediaSource
from menura.errors import DecodeError
from menura.train.data.recordings import Recording, survey_dataset
from support.media import encode_media

FloatArray = npt.NDArray[np.float32]
RATE_HZ = 16_000


def tone(seconds: float, rate_hz: int = RATE_HZ, hz: float = 220.0) -> FloatArray:
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    return np.asarray(0.2 * np.sin(2 * np.pi * hz * t) * (0.6 + 0.4 * np.sin(18 * t)), dtype=np.float32)


def written(path: Path, samples: FloatArray, container: str, rate_hz: int = RATE_HZ) -> bytearray:
    coding = {"MP3": "MPEG_LAYER_III", "OGG": "VORBIS"}.get(container, "PCM_16")
    soundfile.write(path, samples, rate_hz, format=container, subtype=coding)
    return bytearray(path.read_bytes())


def whole(path: Path) -> tuple[FloatArray, str | None, tuple[str, ...]]:
    reader = open_audio(path)
    samples = np.concatenate(list(reader.blocks(4096)))
    assert reader.length_samples() == len(samples)
    return samples, reader.warning, reader.notes


def patch(data: bytearray, after: bytes, value: bytes, skip: int = 0) -> bytearray:
    """The file with other bytes behind a mark."""
    at = data.find(after) + len(after) + skip
    data[at : at + len(value)] = value
    return data


NEVER_CLOSED: dict[str, tuple[str, Callable[[bytearray], bytearray]]] = {
    "Python's wave": ("WAV", lambda d: patch(patch(d, b"data", bytes(4)), b"RIFF", struct.pack("<I", 36))),
    "RIFF right": ("WAV", lambda d: patch(d, b"data", bytes(4))),
    "RIFF 0": ("WAV", lambda d: patch(patch(d, b"data", bytes(4)), b"RIFF", bytes(4))),
    "RF64": ("RF64", lambda d: patch(d, b"ds64", bytes(24), skip=4)),
    "W64": ("W64", lambda d: patch(d, b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a", struct.pack("<Q", 24))),
    "AIFF 0": ("AIFF", lambda d: patch(d, b"SSND", bytes(4))),
    "AIFF 8": ("AIFF", lambda d: patch(patch(d, b"SSND", struct.pack(">I", 8)), b"COMM", bytes(4), skip=6)),
    "AU 0": ("AU", lambda d: patch(d, b".snd", bytes(4), skip=4)),
    "AU -1": ("AU", lambda d: patch(d, b".snd", b"\xff" * 4, skip=4)),
    "CAF 0": ("CAF", lambda d: patch(d, b"data", bytes(8))),
    "CAF -1": ("CAF", lambda d: patch(d, b"data", b"\xff" * 8)),
}


@pytest.mark.parametrize("media", [True, False])
@pytest.mark.parametrize("name", NEVER_CLOSED)
def test_files_whose_writer_never_filled_in_their_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, media: bool
) -> None:
    container, damage = NEVER_CLOSED[name]
    x, path = tone(2), tmp_path / "in"
    path.write_bytes(damage(written(path, x, container)))
    monkeypatch.setattr(MediaSource, "available", staticmethod(lambda: media))
    y, warning, notes = whole(path)
    np.testing.assert_allclose(y, x, atol=1e-4)
    assert (warning, notes) == (None, ())


def test_apple_s_padded_header_and_one_whose_samples_are_meant_to_be_none(tmp_path: Path) -> None:
    data = written(tmp_path / "in.wav", tone(1), "WAV")
    junk = b"JUNK" + struct.pack("<I", 4044) + bytes(4044)
    apple = data[:4] + struct.pack("<I", 4088) + data[8:12] + data[12:36] + junk + b"data" + bytes(4) + data[44:]
    (tmp_path / "in.wav").write_bytes(apple)
    assert len(whole(tmp_path / "in.wav")[0]) == RATE_HZ
    empty = data[8:40] + bytes(4) + b"LIST" + struct.pack("<I", 4) + b"INFO"
    (tmp_path / "in.wav").write_bytes(b"RIFF" + struct.pack("<I", len(empty)) + empty)
    with pytest.raises(DecodeError) as caught:
        open_audio(tmp_path / "in.wav")
    assert caught.value.problem == "contains no audio"


@pytest.mark.parametrize("container", ["WAV", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "MP3", "OGG"])
def test_recordings_one_behind_the_other_are_all_read(tmp_path: Path, container: str) -> None:
    x, path = tone(1), tmp_path / "in"
    one = bytes(written(path, x, container))
    alone = whole(path)[0]
    path.write_bytes(one + one + one)
    y, warning, _ = whole(path)
    assert warning is None
    np.testing.assert_allclose(y, np.tile(alone, 3), atol=1e-6)


def test_streamed_waves_one_behind_the_other(tmp_path: Path) -> None:
    x, path = tone(1), tmp_path / "in.wav"
    one = patch(patch(written(path, x, "WAV"), b"data", b"\xff" * 4), b"RIFF", b"\xff" * 4)
    path.write_bytes(one + one)
    y, warning, _ = whole(path)
    assert warning is None
    np.testing.assert_allclose(y, np.tile(x, 2), atol=1e-4)


def test_a_second_recording_that_is_cut_off_damaged_or_of_another_rate(tmp_path: Path) -> None:
    x, path = tone(2), tmp_path / "in"
    flac = bytes(written(path, x, "FLAC"))
    hurt = bytearray(flac)
    hurt[len(flac) // 2 : len(flac) // 2 + 300] = b"\x55" * 300
    path.write_bytes(flac + hurt)
    y, warning, _ = whole(path)
    assert warning is not None
    assert "damaged" in warning
    assert len(y) == 2 * len(x)
    wave = bytes(written(path, x, "WAV"))
    path.write_bytes(wave + wave[:-10_000])
    y, warning, _ = whole(path)
    assert warning is not None
    assert "cut off" in warning
    assert len(y) == 2 * len(x) - 5000
    path.write_bytes(wave + bytes(written(tmp_path / "other", tone(1, 24_000), "WAV", 24_000)))
    reader = open_audio(path)
    assert sum(len(block) for block in reader.blocks(4096)) == len(x)
    assert reader.warning is not None
    assert "another rate" in reader.warning


def test_recordings_of_several_kinds_in_one_file(tmp_path: Path) -> None:
    x, path = tone(1), tmp_path / "in"
    wave, aiff, flac = (bytes(written(path, x, container)) for container in ("WAV", "AIFF", "FLAC"))
    path.write_bytes(wave + aiff)
    y, warning, _ = whole(path)
    assert (len(y), warning) == (2 * len(x), None)
    path.write_bytes(wave + flac)
    y, warning, _ = whole(path)
    assert warning is not None
    assert "another recording" in warning


def test_a_second_mp4_is_not_left_out_without_a_word(tmp_path: Path) -> None:
    encode_media(tmp_path / "in.m4a", tone(1), RATE_HZ)
    data = (tmp_path / "in.m4a").read_bytes()
    (tmp_path / "in.m4a").write_bytes(data + data)
    _, warning, _ = whole(tmp_path / "in.m4a")
    assert warning is not None
    assert "another recording" in warning


def packets(
    container: av.container.OutputContainer, codec: str, samples: FloatArray, rate_hz: int, **more: int
) -> list:
    stream = container.add_stream(codec, rate=rate_hz, layout="mono", **more)
    stream.codec_context.open()
    frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = rate_hz, 0, Fraction(1, rate_hz)
    resampler = av.AudioResampler(
        format=stream.format.name, layout="mono", rate=rate_hz, frame_size=stream.frame_size or None
    )
    pieces = [*resampler.resample(frame), *resampler.resample(None), None]
    return [packet for piece in pieces for packet in stream.encode(piece)]


@pytest.mark.parametrize("rate_hz", [22_050, 44_100, 48_000])
def test_layer_2_at_44_100_hz_is_whole(tmp_path: Path, rate_hz: int) -> None:
    """A frame there has sometimes a byte more: libsndfile's length, guessed from the first, is too long."""
    with av.open(str(tmp_path / "in.mp2"), "w", format="mp2") as file:
        for packet in packets(file, "mp2", tone(2, rate_hz), rate_hz, bit_rate=64_000):
            file.mux(packet)
    _, warning, _ = whole(tmp_path / "in.mp2")
    assert warning is None


@pytest.mark.parametrize("name", ["in.webm", "in.mka", "in.mp4", "in.flv"])
def test_a_hole_in_the_timestamps_is_silence(tmp_path: Path, name: str) -> None:
    rate_hz = 44_100 if name == "in.flv" else 48_000
    x = tone(4, rate_hz)
    codec = {"in.webm": "libopus", "in.mka": "flac", "in.mp4": "aac", "in.flv": "aac"}[name]
    with av.open(str(tmp_path / name), "w") as file:
        for packet in packets(file, codec, x, rate_hz):
            if packet.pts * packet.time_base >= 2:
                packet.pts += int(1.5 / packet.time_base)
                packet.dts = packet.pts
            file.mux(packet)
    reader = open_audio(tmp_path / name)
    y = np.concatenate(list(reader.blocks(4096)))
    assert reader.warning is None
    assert abs(len(y) / rate_hz - 5.5) < 0.1
    quiet = np.flatnonzero(np.abs(y[rate_hz : 5 * rate_hz]) == 0)
    assert len(quiet) == pytest.approx(1.5 * rate_hz, abs=0.06 * rate_hz)


def test_timestamps_that_jump_by_a_day_cost_no_day_of_silence(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "in.mka"), "w") as file:
        for packet in packets(file, "flac", tone(2), RATE_HZ):
            if packet.pts * packet.time_base >= 1:
                packet.pts += int(86_400 / packet.time_base)
                packet.dts = packet.pts
            file.mux(packet)
    reader = open_audio(tmp_path / "in.mka")
    assert sum(len(block) for block in reader.blocks(4096)) == 2 * RATE_HZ
    assert reader.warning is not None


@pytest.mark.parametrize("flagged", [0, 1])
def test_the_default_track_of_a_video_is_read_and_named(tmp_path: Path, flagged: int) -> None:
    with av.open(str(tmp_path / "in.mkv"), "w") as file:
        rows = [packets(file, "flac", tone(1, hz=hz), RATE_HZ) for hz in (200.0, 1000.0)]
        for number, stream in enumerate(file.streams.audio):
            stream.disposition = Disposition.default if number == flagged else 0
        for packet in sorted((p for row in rows for p in row), key=lambda p: p.dts * p.time_base):
            file.mux(packet)
    y, warning, notes = whole(tmp_path / "in.mkv")
    assert warning is None
    np.testing.assert_allclose(y, tone(1, hz=(200.0, 1000.0)[flagged]), atol=1e-3)
    assert notes == (f"The file has 2 audio tracks; track {flagged + 1} was used.",)


def test_a_radio_recording_that_begins_within_a_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "in.mp3"
    data = bytes(written(path, tone(10), "MP3"))
    path.write_bytes(data[5000:])
    monkeypatch.setattr(MediaSource, "available", staticmethod(lambda: False))
    y, warning, _ = whole(path)
    assert warning is None
    assert 0.8 * 10 * RATE_HZ * (1 - 5000 / len(data)) < len(y) < 10 * RATE_HZ


def test_the_base_install_says_what_reads_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MediaSource, "available", staticmethod(lambda: False))
    wave = written(tmp_path / "in.wav", tone(1), "WAV")
    wave[20:22] = struct.pack("<H", 0x2001)  # a codec that libsndfile doesn't have
    encode_media(tmp_path / "a.mka", tone(1), RATE_HZ)
    for content in (wave, (tmp_path / "a.mka").read_bytes()):
        (tmp_path / "in.wav").write_bytes(content)
        with pytest.raises(DecodeError) as caught:
            open_audio(tmp_path / "in.wav")
        assert caught.value.advice is not None
        assert "menura[media]" in caught.value.advice


def test_channels_that_cancel_each_other_out_in_a_file(tmp_path: Path) -> None:
    x = tone(3)
    soundfile.write(tmp_path / "in.flac", np.stack([x, -x], axis=1), RATE_HZ)
    y, warning, notes = whole(tmp_path / "in.flac")
    assert warning is None
    assert len(notes) == 1
    np.testing.assert_allclose(y, x, atol=1e-4)


def test_training_counts_what_headers_do_not_say(tmp_path: Path) -> None:
    flac = written(tmp_path / "a.flac", tone(12), "FLAC")
    flac[21], flac[22:26] = flac[21] & 0xF0, bytes(4)
    (tmp_path / "a.flac").write_bytes(flac)
    (tmp_path / "b.wav").write_bytes(patch(written(tmp_path / "b.wav", tone(12), "WAV"), b"data", bytes(4)))
    encode_media(tmp_path / "c.aac", tone(12), RATE_HZ)
    paths = [tmp_path / name for name in ("a.flac", "b.wav", "c.aac")]
    facts = survey_dataset([Recording(speaker="s", path=path, relative=path.name) for path in paths], RATE_HZ)
    assert facts.total_s == pytest.approx(36, abs=0.3)
    assert facts.unreadable == ()
