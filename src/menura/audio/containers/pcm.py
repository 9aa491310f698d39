"""Containers of plain samples: RIFF/RF64 wave, Wave64, AIFF, AU, CAF.

Each announces how many bytes of samples it holds; a file that holds fewer was cut off. Programs that write to a pipe
can't know the number: they leave 0 or a huge one, which means "to the end of the file".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from menura.audio.containers.survey import Survey

if TYPE_CHECKING:
    from typing import BinaryIO

_ENDLESS_BYTES = 0x7F000000
"""Announced sizes from here on, in a file that is smaller, are a piped program's stand-in (sox, arecord, ffmpeg)."""
_MOST_CHUNKS = 10_000
"""Chunks before the samples after which a file is given up: zeros look like any number of empty ones."""
_GIVEN_UP = Survey(parts=())
_W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"


def survey_pcm(file: BinaryIO) -> Survey | None:
    """Compare announced with present bytes; None for other containers."""
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(12)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:] == b"WAVE":
        return _wave(file, size, ">" if head[:4] == b"RIFX" else "<")
    if head[:4] == b"riff":
        return _wave64(file, size)
    if head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        return _chunks(file, size, 12, ">4sI", b"SSND")
    if head[:4] == b".snd" and len(head) == 12:
        start, announced = struct.unpack(">II", head[4:])
        return _compared(size, start, announced)
    if head[:4] == b"caff":
        return _caf(file, size)
    return None


def _compared(size: int, start: int, announced: int) -> Survey:
    present = max(size - start, 0)
    whole = ((range(size),),)
    if announced <= present or announced >= _ENDLESS_BYTES:
        return Survey(parts=whole)
    return Survey(parts=whole, present=present / announced, cut_off=True)


def _patched(size: int, at: int, value: bytes) -> Survey:
    """The file with other bytes at one place."""
    return Survey(parts=((range(at), value, range(at + len(value), size)),))


def _wave(file: BinaryIO, size: int, order: str) -> Survey:
    (riff_bytes,) = struct.unpack(order + "I", _at(file, 4, 4))
    position, long_bytes = 12, None
    for _ in range(_MOST_CHUNKS):
        header = _at(file, position, 8)
        if len(header) < 8:
            break
        name, length = struct.unpack(order + "4sI", header)
        if name == b"ds64":
            long_bytes = int.from_bytes(_at(file, position + 16, 8), "little")
        if name == b"data":
            if length == 0 and riff_bytes in (0, 0xFFFFFFFF) and size > position + 8:
                return _patched(size, position + 4, struct.pack(order + "I", min(size - position - 8, 0xFFFFFFFF)))
            announced = long_bytes if length == 0xFFFFFFFF and long_bytes else length
            return _compared(size, position + 8, announced)
        position += 8 + length + length % 2
    else:
        return _GIVEN_UP
    return Survey(parts=((range(size),),))


def _wave64(file: BinaryIO, size: int) -> Survey:
    position = 40
    for _ in range(_MOST_CHUNKS):
        header = _at(file, position, 24)
        if len(header) < 24:
            break
        length = int.from_bytes(header[16:], "little")
        if header[:16] == _W64_DATA:
            return _compared(size, position + 24, length - 24)
        position += max(length + -length % 8, 24)
    else:
        return _GIVEN_UP
    return Survey(parts=((range(size),),))


def _caf(file: BinaryIO, size: int) -> Survey:
    position = 8
    for _ in range(_MOST_CHUNKS):
        header = _at(file, position, 12)
        if len(header) < 12:
            break
        name, length = struct.unpack(">4sq", header)
        if name == b"data":
            present = size - position - 12
            if 0 <= length <= present or present < 0:
                break
            # libsndfile refuses a file that is cut off, unless the number is right.
            mended = _patched(size, position + 4, struct.pack(">q", present))
            if length < 0:
                return mended
            return Survey(parts=mended.parts, present=present / length, cut_off=True)
        position += 12 + max(length, 0)
    else:
        return _GIVEN_UP
    return Survey(parts=((range(size),),))


def _chunks(file: BinaryIO, size: int, position: int, layout: str, wanted: bytes) -> Survey:
    for _ in range(_MOST_CHUNKS):
        header = _at(file, position, 8)
        if len(header) < 8:
            break
        name, length = struct.unpack(layout, header)
        if name == wanted:
            return _compared(size, position + 8, length)
        position += 8 + length + length % 2
    else:
        return _GIVEN_UP
    return Survey(parts=((range(size),),))


def _at(file: BinaryIO, position: int, count: int) -> bytes:
    if position >= file.seek(0, 2):  # damaged headers point where no file can have bytes
        return b""
    file.seek(position)
    return file.read(count)
