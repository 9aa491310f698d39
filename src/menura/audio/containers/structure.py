"""The result of looking at a file's structure, a file made of pieces of another, and finding bytes in one."""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import BinaryIO, TypeAlias

Piece: TypeAlias = "bytes | range"
"""Bytes to put in, or a range of the file's bytes."""
MOST_PARTS = 1000
"""Recordings one behind the other in a file; the rest is left out."""
ANOTHER_FOLLOWS = "another recording follows the first and was left out"
_SEARCH_BYTES = 1 << 16
_LONGEST_PATTERN = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """What a file's structure says."""

    parts: tuple[tuple[Piece, ...], ...]
    """Sound files to read one after the other, each put together from pieces; none if there can be no sound."""
    present: float = 1.0
    """Share of the announced sound that is there, as far as the structure tells."""
    damaged: bool = False
    """Whether something other than sound lies between the sound."""
    cut_off: bool = False
    length_samples: int | None = None
    """Exact, where the structure tells more than libsndfile."""
    media: bool = False
    """Whether the container is one that PyAV is for."""
    problem: str | None = None
    """What else keeps some of the sound, or all of it, from being read."""


def bytes_at(file: BinaryIO, position: int, count: int) -> bytes:
    """Up to `count` bytes from a position on; none where damaged headers point beyond what a file can have."""
    if not 0 <= position < 1 << 62:
        return b""
    file.seek(position)
    return file.read(count)


def positions_of(file: BinaryIO, pattern: re.Pattern[bytes], start: int, stop: int) -> Iterator[int]:
    """Places of a pattern of at most 16 bytes, in order; the file may be used otherwise meanwhile."""
    least = start
    while start < stop:
        data = bytes_at(file, start, min(_SEARCH_BYTES, stop - start))
        for match in pattern.finditer(data):
            if start + match.start() >= least:
                least = start + match.start() + 1
                yield least - 1
        if start + len(data) >= stop or len(data) < _LONGEST_PATTERN:
            return
        start += len(data) - _LONGEST_PATTERN + 1  # a pattern may lie across the border


def after_id3(file: BinaryIO, position: int) -> int:
    """Place behind any ID3v2 tags."""
    while (head := bytes_at(file, position, 10)).startswith(b"ID3") and len(head) == 10:
        a, b, c, d = head[6:]
        position += 10 + (a << 21 | b << 14 | c << 7 | d) + (10 if head[5] & 0x10 else 0)
    return position


class PieceFile:
    """Reads the pieces of a file as if they were one, for soundfile and PyAV.

    To them an error of the disk looks like the file's end: soundfile would print it. The `with` block ends in it.
    """

    def __init__(self, file: BinaryIO, pieces: Sequence[Piece]) -> None:
        self._file, self._pieces = file, pieces
        self._ends = [0, *accumulate(map(len, pieces))]
        self._position = 0
        self._error: OSError | None = None

    def __enter__(self) -> PieceFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._error is not None and (kind is None or issubclass(kind, Exception)):
            raise self._error

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._ends[-1]}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, count: int = -1) -> bytes:
        stop = self._ends[-1] if count < 0 else min(self._position + count, self._ends[-1])
        chunks: list[bytes] = []
        while self._position < stop:
            index = bisect_right(self._ends, self._position) - 1
            start = self._ends[index]
            piece = self._pieces[index][self._position - start : stop - start]
            try:
                chunk = piece if isinstance(piece, bytes) else bytes_at(self._file, piece.start, len(piece))
            except OSError as error:
                self._error = error
                break
            if not chunk:
                break
            chunks.append(chunk)
            self._position += len(chunk)
        return b"".join(chunks)
