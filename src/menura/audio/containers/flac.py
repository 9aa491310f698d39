"""FLAC frames (RFC 9639): where to go on behind a damaged one, which libsndfile can't."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import BinaryIO

    from menura.audio.containers.survey import Piece

_SEARCH_BYTES = 1 << 20
_HEADER_BYTES = 16
"""Longest frame header."""


def _crc8_table() -> bytes:
    table = bytearray()
    for value in range(256):
        for _ in range(8):
            value = (value << 1 ^ (0x07 if value & 0x80 else 0)) & 0xFF
        table.append(value)
    return bytes(table)


_CRC8 = _crc8_table()


@dataclass(frozen=True, slots=True, kw_only=True)
class FlacRest:
    """What is left of a file from a frame on."""

    pieces: tuple[Piece, ...]
    """A FLAC file of the rest."""
    start_samples: int
    """Sample that its first frame begins with."""
    position: int
    """Byte at which that frame lies."""


def rest_of_flac(file: BinaryIO, after_samples: int, after_position: int) -> FlacRest | None:
    """Find the first sound frame header that begins later than a sample and lies behind a byte.

    None if there is none, or the file is no native FLAC.
    """
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(42)
    if head[:4] != b"fLaC" or len(head) < 42:
        return None
    # Length and checksum are of the whole file: 0 is "unknown".
    header = head[:4] + b"\x80\x00\x00\x22" + head[8:21] + bytes([head[21] & 0xF0]) + bytes(20)
    total = int.from_bytes(head[21:26], "big") & 0xFFFFFFFFF
    block_samples = int.from_bytes(head[8:10], "big")
    first = _after_metadata(file)
    file.seek(first)
    like = file.read(4)
    if len(like) < 4:
        return None
    position = max(first, after_position)
    while position < size:
        file.seek(position)
        data = file.read(_SEARCH_BYTES)
        for match in re.finditer(re.escape(like[:2]), data):
            place = position + match.start()
            start = _frame_start(_bytes_at(file, data, match.start(), place), like, block_samples)
            if place > after_position and start is not None and start > after_samples and (not total or start < total):
                return FlacRest(pieces=(header, range(place, size)), start_samples=start, position=place)
        position += max(len(data) - 1, 1)
    return None


def _after_metadata(file: BinaryIO) -> int:
    position = 4
    while True:
        file.seek(position)
        header = file.read(4)
        position += 4 + int.from_bytes(header[1:], "big")
        if len(header) < 4 or header[0] & 0x80:
            return position


def _bytes_at(file: BinaryIO, data: bytes, at: int, place: int) -> bytes:
    if at + _HEADER_BYTES <= len(data):
        return data[at : at + _HEADER_BYTES]
    file.seek(place)
    return file.read(_HEADER_BYTES)


def _frame_start(header: bytes, like: bytes, block_samples: int) -> int | None:
    """First sample of the frame whose header this is; None if it is none of this stream (`like` is its first)."""
    if len(header) < 6 or header[2] & 0x0F != like[2] & 0x0F or header[3] & 0x0F != like[3] & 0x0F:
        return None
    lead = header[4]
    extra = 0 if lead < 0x80 else 7 - (lead ^ 0xFF).bit_length()
    if lead >= 0x80 and not 1 <= extra <= 6:
        return None
    number = lead & (0x7F >> (extra + 1 if extra else 0))
    for byte in header[5 : 5 + extra]:
        number = number << 6 | byte & 0x3F
    end = 5 + extra
    end += {6: 1, 7: 2}.get(header[2] >> 4, 0) + {12: 1, 13: 2, 14: 2}.get(header[2] & 0x0F, 0)
    checksum = 0
    for byte in header[:end]:
        checksum = _CRC8[checksum ^ byte]
    if end >= len(header) or checksum != header[end]:
        return None
    variable = header[1] & 1
    return number if variable else number * block_samples
