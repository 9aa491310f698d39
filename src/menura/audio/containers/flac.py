"""FLAC streams (RFC 9639): several in one file, and where to go on behind a damaged frame, which libsndfile can't."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING

from menura.audio.containers.structure import MOST_PARTS, Structure, after_id3, bytes_at, positions_of

if TYPE_CHECKING:
    from typing import BinaryIO

    from menura.audio.containers.structure import Piece

_START = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
"""A stream's mark and the header of its first block, STREAMINFO."""
_STREAM_BYTES = 42
_FRAME_HEADER_BYTES = 16


def inspect_flac(file: BinaryIO, size: int) -> Structure | None:
    """Find the streams of a file that begins with one, perhaps behind an ID3 tag; None for others."""
    start = after_id3(file, 0)
    if not _START.match(bytes_at(file, start, 8)):
        return None
    starts = list(islice(positions_of(file, _START, start, size), MOST_PARTS))
    parts = tuple((range(a, b),) for a, b in zip(starts, [*starts[1:], size], strict=True))
    return Structure(parts=parts, damaged=len(parts) == MOST_PARTS)


def rest_of_flac(
    file: BinaryIO, stream: range, after_samples: int, after_position: int
) -> tuple[int, int, tuple[Piece, ...]] | None:
    """Find the first frame of a stream that begins later than a sample and lies behind a byte.

    Args:
        file: the whole file.
        stream: where the native FLAC stream lies in it.
        after_samples: counted from the stream's start.
        after_position: of the file.

    Returns:
        The frame's first sample, its place in the file, and the pieces of a FLAC file that begins with it; None if
        there is no such frame, or the stream is no native FLAC.
    """
    head = bytes_at(file, stream.start, _STREAM_BYTES)
    if not _START.match(head) or len(head) < _STREAM_BYTES:
        return None
    info = head[8:]
    block_samples = int.from_bytes(info[:2], "big")
    total = int.from_bytes(info[13:18], "big") & 0xFFFFFFFFF
    # Length and checksum are of the whole stream: 0 is "unknown".
    header = head[:4] + b"\x80\x00\x00\x22" + info[:13] + bytes([info[13] & 0xF0]) + bytes(20)
    first = _after_metadata(file, stream.start)
    like = bytes_at(file, first, 4)
    if len(like) < 4:
        return None
    sync = re.compile(re.escape(like[:2]))
    for place in positions_of(file, sync, max(first, after_position + 1), stream.stop):
        start = _frame_start(bytes_at(file, place, _FRAME_HEADER_BYTES), like, block_samples)
        if start is not None and start > after_samples and (not total or start < total):
            return start, place, (header, range(place, stream.stop))
    return None


def _after_metadata(file: BinaryIO, stream: int) -> int:
    position = stream + 4
    while True:
        header = bytes_at(file, position, 4)
        position += 4 + int.from_bytes(header[1:], "big")
        if len(header) < 4 or header[0] & 0x80:
            return position


def _frame_start(header: bytes, like: bytes, block_samples: int) -> int | None:
    """First sample of the frame whose header this is; None if it is none of this stream (`like` is its first)."""
    if len(header) < 6 or header[2] & 0x0F != like[2] & 0x0F or header[3] & 0x0F != like[3] & 0x0F:
        return None
    lead = header[4]  # of a number coded as in UTF-8
    extra = 0 if lead < 0x80 else 7 - (lead ^ 0xFF).bit_length()
    if lead >= 0x80 and not 1 <= extra <= 6:
        return None
    number = lead & (0x7F >> (extra + 1 if extra else 0))
    for byte in header[5 : 5 + extra]:
        number = number << 6 | byte & 0x3F
    end = 5 + extra
    end += {6: 1, 7: 2}.get(header[2] >> 4, 0) + {12: 1, 13: 2, 14: 2}.get(header[2] & 0x0F, 0)
    if end >= len(header) or _crc8(header[:end]) != header[end]:
        return None
    variable = header[1] & 1
    return number if variable else number * block_samples


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ (0x07 if crc & 0x80 else 0)) & 0xFF
    return crc
