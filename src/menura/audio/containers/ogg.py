"""Ogg pages (RFC 3533): streams in a row, gaps, and a missing end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from menura.audio.containers.survey import Survey

if TYPE_CHECKING:
    from typing import BinaryIO

_CAPTURE = b"OggS"
_HEADER_BYTES = 27
_FIRST_PAGE, _LAST_PAGE = 2, 4
_SEARCH_BYTES = 1 << 16


def survey_ogg(file: BinaryIO) -> Survey | None:
    """Find the streams of an Ogg file; None for other containers.

    A stream ends with a page flagged as its last, which a file that is cut off lacks.
    """
    if file.read(4) != _CAPTURE:
        return None
    size = file.seek(0, 2)
    starts: list[int] = []
    ends: list[int] = []
    open_streams: set[bytes] = set()
    position, opening, damaged, cut_off = 0, False, False, False
    while position < size:
        page = _page(file, position)
        if page is None:
            damaged = True
            position = _search(file, position + 1, size)
            continue
        flags, serial, length = page
        if position + length > size:
            cut_off = True
            break
        if flags & _FIRST_PAGE and not opening:
            cut_off |= bool(open_streams)
            open_streams.clear()
            starts.append(position)
            ends.append(position)
        opening = bool(flags & _FIRST_PAGE)
        if opening:
            open_streams.add(serial)
        if flags & _LAST_PAGE:
            open_streams.discard(serial)
        position += length
        if ends:
            ends[-1] = position
    cut_off |= bool(open_streams)
    parts = tuple((range(start, end),) for start, end in zip(starts, ends, strict=True))
    return Survey(parts=parts or ((range(size),),), damaged=damaged, cut_off=cut_off)


def _page(file: BinaryIO, position: int) -> tuple[int, bytes, int] | None:
    """Flags, serial number and length of the page at `position`, or None if there is none."""
    file.seek(position)
    header = file.read(_HEADER_BYTES)
    if len(header) < _HEADER_BYTES:
        # A page cut within its header reaches beyond the end too.
        return (0, b"", _HEADER_BYTES) if _CAPTURE.startswith(header[:4]) else None
    if not header.startswith(_CAPTURE):
        return None
    table = file.read(header[26])
    missing = header[26] - len(table)
    return header[5], header[14:18], _HEADER_BYTES + len(table) + sum(table) + missing


def _search(file: BinaryIO, position: int, size: int) -> int:
    """Place of the next page, or the end of the file."""
    while position < size:
        file.seek(position)
        data = file.read(_SEARCH_BYTES)
        found = data.find(_CAPTURE)
        if found >= 0:
            return position + found
        position += max(len(data) - 3, 1)
    return size
