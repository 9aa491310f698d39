"""Tags and covers: read from MP3 (ID3v2), FLAC and what libsndfile knows, else by PyAV; written by `encode`."""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import soundfile

from menura.audio.sources import open_container

_LONGEST_TEXT_BYTES = 2000
"""In UTF-8. Of a wav with longer ones libsndfile reads none, and with much longer ones writes none."""
_LARGEST_COVER_BYTES = 2**24 - 2**10  # a FLAC block's length has 24 bits
_LARGEST_ID3_BYTES = 2**25
_FRONT_COVER = 3
_PICTURE_BLOCK = 6
_COVER_CODECS = {"mjpeg": "image/jpeg", "png": "image/png"}
_ID3_FRAMES = {
    "title": ("TIT2", "TT2"),
    "artist": ("TPE1", "TP1"),
    "album": ("TALB", "TAL"),
    "date": ("TDRC", "TYER", "TYE"),
    "track": ("TRCK", "TRK"),
    "genre": ("TCON", "TCO"),
    "comment": ("COMM", "COM"),
    "copyright": ("TCOP", "TCR"),
}
"""Names of ID3v2.4, then of 2.3 and 2.2 where they differ."""
_ID3_FIELDS = {name: field for field, names in _ID3_FRAMES.items() for name in names}
_ID3_ENCODINGS = ("latin-1", "utf-16", "utf-16-be", "utf-8")


@dataclass(frozen=True, slots=True)
class Cover:
    """An encoded picture."""

    mime: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Tags:
    """What a file says of its recording; empty texts where it says nothing."""

    title: str = ""
    artist: str = ""
    album: str = ""
    date: str = ""
    track: str = ""  # '3' or '3/12'
    genre: str = ""
    comment: str = ""
    copyright: str = ""
    cover: Cover | None = None

    @property
    def texts(self) -> dict[str, str]:
        """Those that aren't empty."""
        return {name: text for name in _ID3_FRAMES if (text := getattr(self, name))}


def read_tags(path: Path) -> Tags:
    """Tags of a recording; none where they can't be read, which is no error."""
    with suppress(OSError, ValueError, LookupError, struct.error, soundfile.LibsndfileError):
        with path.open("rb") as file:
            begin = file.read(10)
            if begin[:3] == b"ID3":
                return _read_id3(begin, file)
            if begin[:4] == b"fLaC":
                file.seek(4)
                return _read_sndfile(path, _flac_cover(file))
        if begin[:4] == b"OggS":  # libsndfile knows no covers
            with suppress(Exception):
                return _read_media(path)
        # Of an MP3 without ID3v2 libsndfile would count all samples.
        return Tags() if begin[:1] == b"\xff" else _read_sndfile(path)
    with suppress(Exception):  # PyAV isn't there, or whatever FFmpeg says
        return _read_media(path)
    return Tags()


def id3_tag(tags: Tags) -> bytes:
    """An ID3v2.4 tag; nothing for no tags."""
    frames = {_ID3_FRAMES[name][0]: b"\3" + text.encode() for name, text in tags.texts.items()}
    if "COMM" in frames:
        frames["COMM"] = b"\3und\0" + frames["COMM"][1:]
    if tags.cover is not None:
        frames["APIC"] = b"\3" + tags.cover.mime.encode() + bytes((0, _FRONT_COVER, 0)) + tags.cover.data
    body = b"".join(name.encode() + _synchsafe(len(data)) + b"\0\0" + data for name, data in frames.items())
    return b"ID3\4\0\0" + _synchsafe(len(body)) + body if body else b""


def flac_picture(cover: Cover) -> bytes:
    """A FLAC metadata block, not the last one."""
    mime = cover.mime.encode("ascii")
    body = struct.pack(">II", _FRONT_COVER, len(mime)) + mime + struct.pack(">6I", 0, 0, 0, 0, 0, len(cover.data))
    return struct.pack(">I", _PICTURE_BLOCK << 24 | len(body) + len(cover.data)) + body + cover.data


def _tags(texts: Mapping[str, str], cover: Cover | None = None) -> Tags:
    """Only what can be written: texts of one line and bounded length, a JPEG or PNG of bounded size."""
    known: dict[str, str] = {}
    for name in filter(texts.get, _ID3_FRAMES):
        plain = re.sub(r"[\x00-\x1f\x7f]+", " ", texts[name]).strip().encode("utf-8", "replace")  # no lone surrogates
        known[name] = plain[:_LONGEST_TEXT_BYTES].decode("utf-8", "ignore")
    fits = cover is not None and cover.mime in _COVER_CODECS.values() and 0 < len(cover.data) <= _LARGEST_COVER_BYTES
    return Tags(**known, cover=cover if fits else None)


def _read_sndfile(path: Path, cover: Cover | None = None) -> Tags:
    with soundfile.SoundFile(str(path)) as file:
        return _tags({name: getattr(file, "tracknumber" if name == "track" else name) for name in _ID3_FRAMES}, cover)


def _read_media(path: Path) -> Tags:
    import av

    with path.open("rb") as file, open_container(file) as container:
        texts = itertools.chain(*(source.metadata.items() for source in (*container.streams.audio[:1], container)))
        found = {name.lower(): text for name, text in texts}
        for picture in container.streams.video:
            mime = _COVER_CODECS.get(picture.codec_context.name)
            if mime and picture.disposition & av.stream.Disposition.attached_pic:
                return _tags(found, Cover(mime, bytes(next(container.demux(picture)))))
        return _tags(found)


def _flac_cover(file: BinaryIO) -> Cover | None:
    last = False
    while not last:
        (head,) = struct.unpack(">I", file.read(4))
        last, block = head >> 31, file.read(head & 0xFFFFFF)
        if head >> 24 & 0x7F != _PICTURE_BLOCK:
            continue
        (mime_length,) = struct.unpack_from(">I", block, 4)
        (text_length,) = struct.unpack_from(">I", block, 8 + mime_length)
        at = 8 + mime_length + 4 + text_length + 16
        (length,) = struct.unpack_from(">I", block, at)
        return Cover(block[8 : 8 + mime_length].decode("latin-1"), block[at + 4 : at + 4 + length])
    return None


def _read_id3(header: bytes, file: BinaryIO) -> Tags:
    texts: dict[str, str] = {}
    cover = None
    for name, data in _id3_frames(header, file):
        if name in ("APIC", "PIC"):
            cover = cover or _id3_cover(name, data)
        elif name in ("COMM", "COM"):
            kept, _, text = _id3_text(data[:1] + data[4:]).partition("\0")
            if not kept:  # a described comment is some program's own
                texts.setdefault("comment", text)
        elif name in _ID3_FIELDS:
            texts.setdefault(_ID3_FIELDS[name], _id3_text(data).rstrip("\0").replace("\0", ", "))
    texts["genre"] = re.sub(r"^\(\d+\)(?=.)", "", texts.get("genre", ""))  # 2.3 numbers them
    return _tags(texts, cover)


def _id3_frames(header: bytes, file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    version, flags = header[3], header[5]
    body = file.read(min(_from_synchsafe(header[6:10]), _LARGEST_ID3_BYTES))
    if flags & 0x80 and version < 4:
        body = body.replace(b"\xff\0", b"\xff")
    at = 0
    if flags & 0x40 and version > 2:  # an extended header
        at = _from_synchsafe(body[:4]) if version == 4 else int.from_bytes(body[:4], "big") + 4
    letters, width = (3, 6) if version == 2 else (4, 10)
    while at + width < len(body) and body[at]:
        name, size = body[at : at + letters].decode("latin-1"), body[at + letters : at + 2 * letters]
        length = _from_synchsafe(size) if version == 4 else int.from_bytes(size, "big")
        data = body[at + width : at + width + length]
        form = body[at + 9] if version > 2 else 0
        at += width + length
        if version == 4 and form & 1:  # its length without what keeps it from looking like sound
            data = data[4:]
        if version == 4 and form & 2:
            data = data.replace(b"\xff\0", b"\xff")
        if not form & (0x0C if version == 4 else 0xC0):  # neither compressed nor encrypted
            yield name, data


def _id3_text(data: bytes) -> str:
    encoding = _ID3_ENCODINGS[data[0]] if data and data[0] < len(_ID3_ENCODINGS) else "latin-1"
    return data[1:].decode(encoding, "replace").replace("\ufeff", "")


def _id3_cover(name: str, data: bytes) -> Cover | None:
    if name == "PIC":
        mime, rest = {b"PNG": "image/png"}.get(data[1:4], "image/jpeg"), data[4:]
    else:
        kind, _, rest = data[1:].partition(b"\0")
        mime = kind.decode("latin-1").lower().replace("image/jpg", "image/jpeg")
    rest = rest[1:]  # what it shows
    if data[0] in (1, 2):  # its description, in UTF-16
        end = next((at for at in range(0, len(rest), 2) if rest[at : at + 2] == b"\0\0"), len(rest))
        return Cover(mime, rest[end + 2 :])
    return Cover(mime, rest.partition(b"\0")[2])


def _synchsafe(number: int) -> bytes:
    return bytes(number >> shift & 0x7F for shift in (21, 14, 7, 0))


def _from_synchsafe(data: bytes) -> int:
    return sum((byte & 0x7F) << shift for byte, shift in zip(data, (21, 14, 7, 0), strict=False))
