"""Ogg pages (RFC 3533): streams in a row, gaps, and a missing end."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from menura.audio.containers.structure import Structure, bytes_at, positions_of

if TYPE_CHECKING:
    from typing import BinaryIO

_CAPTURE = b"OggS"
_PAGE = re.compile(_CAPTURE)
_HEADER_BYTES = 27
_FIRST_PAGE, _LAST_PAGE = 2, 4


def inspect_ogg(file: BinaryIO, size: int) -> Structure | None:
    """Find the streams of an Ogg file; None for other containers.

    A stream ends with a page flagged as its last, which a file that is cut off lacks.
    """
    if bytes_at(file, 0, 4) != _CAPTURE:
        return None
    parts: list[range] = []
    open_streams: set[bytes] = set()
    position, opening, damaged, cut_off = 0, False, False, False
    while position < size:
        page = _page(file, position)
        if page is None:
            damaged = True
            position = next(positions_of(file, _PAGE, position + 1, size), size)
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
    header = bytes_at(file, position, _HEADER_BYTES)
    if len(header) < _HEADER_BYTES:
        # A page cut within its header reaches beyond the end too.
        return (0, b"", _HEADER_BYTES) if _CAPTURE.startswith(header[:4]) else None
    if not header.startswith(_CAPTURE):
        return None
    table = bytes_at(file, position + _HEADER_BYTES, header[26])
    return header[5], header[14:18], _HEADER_BYTES + header[26] + sum(table)
