"""Tags and covers go from input to output."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from menura.audio.decode import open_audio
from menura.audio.encode import AudioWriter, codec_rate
from menura.audio.tags import Cover, Tags, read_tags
from menura.options import FORMATS


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


PNG = b"".join(
    (
        b"\x89PNG\r\n\x1a\n",
        chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)),
        chunk(b"IDAT", zlib.compress(b"\0\xff\0\x80")),
        chunk(b"IEND", b""),
    )
)
COVER = Cover("image/png", PNG)
TEXTS = Tags(
    title="Título 声",
    artist="Ä & B",
    album="Álbum",
    date="2021-05-03",
    track="3/12",
    genre="Speech",
    comment="said once",
    copyright="CC0",
)
TAGS = Tags(**TEXTS.texts, cover=COVER)
COVERED = ("flac", "mp3", "m4a")


def write(path: Path, tags: Tags | None, samples: int = 50_001) -> None:
    x = (0.2 * np.sin(np.arange(samples) / 9)).astype(np.float32)
    with AudioWriter(path, codec_rate(path.suffix[1:], 44_100), tags=tags) as writer:
        writer.write(x)


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_keeps_tags_and_those_that_have_them_covers(tmp_path: Path, format: str) -> None:
    write(tmp_path / f"out.{format}", TAGS)
    assert read_tags(tmp_path / f"out.{format}") == (TAGS if format in COVERED else TEXTS)


@pytest.mark.parametrize("format", FORMATS)
def test_tags_leave_the_sound_alone(tmp_path: Path, format: str) -> None:
    sounds = []
    for name, tags in (("with", TAGS), ("without", None)):
        write(tmp_path / f"{name}.{format}", tags)
        reader = open_audio(tmp_path / f"{name}.{format}")
        sounds.append(np.concatenate(list(reader.blocks(9999))))
        assert reader.warning is None
    assert sounds[0].size == 50_001
    np.testing.assert_array_equal(*sounds)


@pytest.mark.parametrize("format", COVERED)
def test_other_programs_read_them(tmp_path: Path, format: str) -> None:
    av = pytest.importorskip("av")
    write(tmp_path / f"out.{format}", TAGS)
    with av.open(str(tmp_path / f"out.{format}")) as container:
        known = {name.lower(): text for name, text in container.metadata.items()}
        assert {name: known.get(name) for name in TEXTS.texts} == TEXTS.texts
        (picture,) = container.streams.video
        assert bytes(next(container.demux(picture))) == PNG


@pytest.mark.parametrize("format", FORMATS)
def test_without_tags_there_are_none(tmp_path: Path, format: str) -> None:
    write(tmp_path / f"out.{format}", None)
    assert read_tags(tmp_path / f"out.{format}") == Tags()


def synchsafe(number: int) -> bytes:
    return bytes(number >> shift & 0x7F for shift in (21, 14, 7, 0))


def frame_2(name: bytes, data: bytes) -> bytes:
    return name + len(data).to_bytes(3, "big") + data


def frame_3(name: bytes, data: bytes) -> bytes:
    return name + struct.pack(">IH", len(data), 0) + data


def tag(version: int, body: bytes, flags: int = 0) -> bytes:
    return b"ID3" + bytes((version, 0, flags)) + synchsafe(len(body)) + body


def utf16(text: str) -> bytes:
    return b"\1" + text.encode("utf-16")


ID3 = {
    "2.2": tag(2, frame_2(b"TT2", b"\0Caf\xe9\0") + frame_2(b"TRK", b"\x007") + frame_2(b"PIC", b"\0PNG\3\0" + PNG)),
    "2.3": tag(
        3,
        frame_3(b"TIT2", utf16("Café") + b"\0\0")
        + frame_3(b"TRCK", b"\x007")
        + frame_3(b"COMM", b"\1eng" + "iTunNORM".encode("utf-16") + b"\0\0" + "00000".encode("utf-16"))
        + frame_3(b"APIC", b"\1image/png\0\3" + "a".encode("utf-16") + b"\0\0" + PNG)
        + bytes(100),
    ),
    "2.3, extended header": tag(
        3,
        struct.pack(">IHI", 6, 0, 0) + frame_3(b"TIT2", b"\0Caf\xe9") + frame_3(b"TRCK", b"\x007")
        + frame_3(b"APIC", b"\0image/png\0\3\0" + PNG),
        flags=0x40,
    ),
    "2.3, unsynchronised": tag(
        3,
        (
            frame_3(b"TIT2", b"\0Caf\xe9") + frame_3(b"TRCK", b"\x007")
            + frame_3(b"APIC", b"\0image/png\0\3\0" + PNG)
        ).replace(b"\xff", b"\xff\0"),
        flags=0x80,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ID3)
def test_older_id3(tmp_path: Path, name: str) -> None:
    write(tmp_path / "plain.mp3", None)
    (tmp_path / "x.mp3").write_bytes(ID3[name] + (tmp_path / "plain.mp3").read_bytes())
    assert read_tags(tmp_path / "x.mp3") == Tags(title="Café", track="7", cover=COVER)


@pytest.mark.parametrize(
    "change", [lambda b: b[:50], lambda b: b[:11], lambda b: b"ID3\4\0\0\x7f\x7f\x7f\x7f" + b[10:]]
)
def test_damaged_tags_do_no_harm(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    for format in ("mp3", "flac"):
        write(tmp_path / f"x.{format}", TAGS)
        (tmp_path / f"x.{format}").write_bytes(change((tmp_path / f"x.{format}").read_bytes()))
        read_tags(tmp_path / f"x.{format}")
    assert read_tags(tmp_path / "missing.mp3") == Tags()
    assert read_tags(tmp_path) == Tags()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.sampled_from([*ID3.values(), b"fLaC"]), at=st.integers(3, 200), data=st.binary(min_size=1, max_size=40))
def test_no_bytes_make_reading_fail(tmp_path: Path, start: bytes, at: int, data: bytes) -> None:
    (tmp_path / "x").write_bytes(start[:at] + data + start[at + len(data) :])
    read_tags(tmp_path / "x")


def test_hostile_texts_and_covers_are_bounded(tmp_path: Path) -> None:
    body = frame_3(b"TIT2", b"\0a\nb\x1b[31m" + b"x" * 100_000) + frame_3(b"APIC", b"\0text/html\0\3\0<script>")
    (tmp_path / "x.mp3").write_bytes(tag(3, body))
    found = read_tags(tmp_path / "x.mp3")
    assert found.title.startswith("a b [31mxxx")
    assert len(found.title) == 2000
    assert found.cover is None


@pytest.mark.parametrize("format", FORMATS)
def test_the_longest_texts_fit_every_format(tmp_path: Path, format: str) -> None:
    tags = Tags(**{name: "声" * 666 for name in TEXTS.texts if name != "track"})
    write(tmp_path / f"out.{format}", tags)
    assert read_tags(tmp_path / f"out.{format}") == tags


def test_the_cover_of_ogg_is_read_by_pyav(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    picture = struct.pack(">II", 3, 9) + b"image/png" + struct.pack(">6I", 0, 1, 1, 24, 0, len(PNG)) + PNG
    with av.open(str(tmp_path / "x.ogg"), "w") as container:
        container.metadata.update(title="T", METADATA_BLOCK_PICTURE=base64.b64encode(picture).decode())
        stream = container.add_stream("libopus", rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 960), dtype=np.int16), format="s16", layout="mono")
        frame.sample_rate = 48_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert read_tags(tmp_path / "x.ogg") == Tags(title="T", cover=COVER)


def test_pyav_learns_no_names_and_fetches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A playlist would make it open what it names: other files, and addresses."""
    calls: list[tuple[object, dict[str, object]]] = []

    def opened(file: object, **named: object) -> object:
        calls.append((file, named))
        raise ValueError

    monkeypatch.setattr(av, "open", opened)
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nhttp://localhost/x.aac\n#EXT-X-ENDLIST\n")
    assert read_tags(tmp_path / "list.m3u8") == Tags()
    ((file, named),) = calls
    assert not isinstance(file, (str, Path))
    assert named["options"] == {"protocol_whitelist": "data"}
