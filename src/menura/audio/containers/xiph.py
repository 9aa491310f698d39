"""Ogg pages (RFC 3533) and FLAC frames (RFC 9639): streams in a row, gaps, a missing end, where sound goes on."""

from __future__ import annotations

import re
from itertools import islice, pairwise
from typing import BinaryIO

from menura.audio.containers.structure import MOST_PARTS, Piece, Structure, after_id3, bytes_at, positions_of

_PAGE = re.compile(rb"OggS")
_PAGE_HEADER_BYTES = 27
_FIRST_PAGE, _LAST_PAGE = 2, 4
_FLAC = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")  # a stream's mark and the header of its first block, STREAMINFO
_FRAME_HEADER_BYTES = 16


def inspect_ogg(file: BinaryIO, size: int) -> Structure | None:
    """Find the streams of an Ogg file; a stream's last page is flagged as such, which one that is cut off lacks."""
    if not _PAGE.match(bytes_at(file, 0, 4)):
        return None
    parts: list[range] = []
    open_streams: set[bytes] = set()
    position, opening, damaged, cut_off = 0, False, False, False
    while position < size:
        page = _page(file, position)
        if page is None:
            damaged, position = True, next(positions_of(file, _PAGE, position + 1, size), size)
            continue
        flags, serial, length = page
        if position + length > size:
            cut_off = True
            break
        if flags & _FIRST_PAGE and not opening:
            cut_off |= bool(open_streams)
            open_streams.clear()
            parts.append(range(position, position))
        opening = bool(flags & _FIRST_PAGE)
        if opening:
            open_streams.add(serial)
        if flags & _LAST_PAGE:
            open_streams.discard(serial)
        position += length
        if parts:
            parts[-1] = range(parts[-1].start, position)
    pieces = tuple((part,) for part in parts) or ((range(size),),)
    return Structure(parts=pieces, damaged=damaged, cut_off=cut_off or bool(open_streams))


def _page(file: BinaryIO, position: int) -> tuple[int, bytes, int] | None:
    """Flags, serial number and length of the page at `position`, or None if there is none."""
    header = bytes_at(file, position, _PAGE_HEADER_BYTES)
    if len(header) < _PAGE_HEADER_BYTES:
        # A page cut within its header reaches beyond the end too.
        return (0, b"", _PAGE_HEADER_BYTES) if b"OggS".startswith(header[:4]) else None
    if not _PAGE.match(header):
        return None
    table = bytes_at(file, position + _PAGE_HEADER_BYTES, header[26])
    return header[5], header[14:18], _PAGE_HEADER_BYTES + header[26] + sum(table)


def inspect_flac(file: BinaryIO, size: int) -> Structure | None:
    """Find the streams of a file that begins with one, perhaps behind an ID3 tag."""
    start = after_id3(file, 0)
    if not _FLAC.match(bytes_at(file, start, 8)):
        return None
    starts = islice(positions_of(file, _FLAC, start, size), MOST_PARTS)
    parts = tuple((range(*border),) for border in pairwise([*starts, size]))
    return Structure(parts=parts, damaged=len(parts) == MOST_PARTS)


def rest_of_flac(
    file: BinaryIO, stream: range, after_samples: int, after_position: int
) -> tuple[int, int, tuple[Piece, ...]] | None:
    """Find a native stream's first frame that begins later than a sample and lies behind a byte: libsndfile can't.

    Its first sample, counted from the stream's start, its place, and the pieces of a FLAC file that begins with it.
    """
    head = bytes_at(file, stream.start, 42)
    if not _FLAC.match(head):
        return None
    info, first = head[8:], stream.start + 4
    while len(block := bytes_at(file, first, 4)) == 4:
        first += 4 + int.from_bytes(block[1:], "big")
        if block[0] & 0x80:  # the last one before the frames
            break
    like = bytes_at(file, first, 4)
    if len(like) < 4:
        return None
    total = int.from_bytes(info[13:18], "big") & 0xFFFFFFFFF
    for place in positions_of(file, re.compile(re.escape(like[:2])), max(first, after_position + 1), stream.stop):
        number = _frame_number(bytes_at(file, place, _FRAME_HEADER_BYTES), like)
        start = number if like[1] & 1 else number * int.from_bytes(info[:2], "big")  # of the sample, or of the block
        if start > after_samples and (not total or start < total):
            # Length and checksum are of the whole stream: 0 is "unknown".
            header = head[:4] + b"\x80\x00\x00\x22" + info[:13] + bytes([info[13] & 0xF0]) + bytes(20)
            return start, place, (header, range(place, stream.stop))
    return None


def _frame_number(header: bytes, like: bytes) -> int:
    """Number of the frame whose header this is; -1 if it is none of this stream (`like` is its first)."""
    if len(header) < 6 or (header[2] ^ like[2] | header[3] ^ like[3]) & 0x0F:
        return -1
    lead = header[4]  # of a number coded as in UTF-8
    ones = 8 - (lead ^ 0xFF).bit_length()
    number, end = lead & 0x7F >> ones, 5 + max(ones - 1, 0)
    for byte in header[5:end]:
        number = number << 6 | byte & 0x3F
    end += {6: 1, 7: 2}.get(header[2] >> 4, 0) + {12: 1, 13: 2, 14: 2}.get(header[2] & 0x0F, 0)
    remainder = int.from_bytes(header[: end + 1], "big")  # with the checksum, a CRC-8, it is divided without remainder
    while (excess := remainder.bit_length() - 9) >= 0:
        remainder ^= 0x107 << excess
    return -1 if remainder or ones in (1, 8) or end >= len(header) else number
