"""Containers of plain samples: RIFF/RF64 wave, Wave64, AIFF, AU, CAF; also several one behind the other.

Each announces how many bytes of samples it holds; a file that holds fewer was cut off. A program that writes to a pipe,
or dies, leaves 0, -1 or a huge number, which means "to the end of the file". libsndfile gets the true number.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from menura.audio.containers.structure import ANOTHER_FOLLOWS, MOST_PARTS, Piece, Structure, bytes_at, positions_of

_ENDLESS_BYTES = 0x7F000000
"""Announced sizes from here on, in a file that is smaller, are a piped program's stand-in (sox, arecord, ffmpeg)."""
_MOST_CHUNKS = 10_000  # chunks in a row after which a file is given up: zeros look like any number of empty ones
_XIPH = re.compile(rb"fLaC|OggS")
_WAVE_START = re.compile(rb"(?:RIFF|RF64)....WAVEfmt ", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Layout:
    """One container: how it starts, bytes before its first chunk, a chunk's header (name, size), the samples' name."""

    start: bytes
    first: int
    header: str
    samples: bytes
    lead: int = 0  # bytes in that chunk before the samples
    counted: int = 0  # bytes of its header that a chunk's size includes
    unit: int = 2  # chunks are padded to multiples of it

    def behind(self, start: int, length: int) -> int:
        """Where the chunk after one of this place and length begins."""
        return start + length + -length % self.unit


_WAVE = _Layout(rb"(?:RIFF|RF64|BW64)....WAVE", 12, "<4sI", b"data")
_W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
_LAYOUTS = (
    _WAVE,
    _Layout(rb"RIFX....WAVE", 12, ">4sI", b"data"),
    _Layout(rb"FORM....AIF[FC]", 12, ">4sI", b"SSND", lead=8),
    _Layout(rb"riff\x2e\x91\xcf\x11", 40, "<16sQ", _W64_DATA, counted=24, unit=8),
    _Layout(rb"caff", 8, ">4sq", b"data", lead=4, unit=1),
    _Layout(rb"\.snd", 0, ">4s4xI", b"", unit=1),  # AU has no chunks
)


def inspect_pcm(file: BinaryIO, size: int) -> Structure | None:
    """Compare announced with present bytes; None for other containers."""
    parts: list[tuple[Piece, ...]] = []
    position = announced = present = 0
    while position < size and len(parts) < MOST_PARTS and (layout := _layout_at(file, position)):
        try:
            pieces, position, said, there = _part(file, layout, position, size)
        except ValueError:
            return Structure(parts=())
        parts.append(pieces)
        announced, present = announced + said, present + there
    if not parts:
        return None
    problem = ANOTHER_FOLLOWS if position < size else None
    return Structure(
        parts=tuple(filter(None, parts)),
        problem=problem if any(parts) else "contains no audio",
        present=present / announced if announced else 1.0,
        cut_off=present < announced,
    )


def _layout_at(file: BinaryIO, position: int) -> _Layout | None:
    head = bytes_at(file, position, 12)
    return next((layout for layout in _LAYOUTS if re.match(layout.start, head, re.DOTALL)), None)


def _part(file: BinaryIO, layout: _Layout, base: int, size: int) -> tuple[tuple[Piece, ...], int, int, int]:
    """Pieces and end of the container at `base`, bytes announced and present; ValueError after too many chunks."""
    found = _find_samples(file, layout, base)
    if found is None:
        return (range(base, size),), size, 0, 0
    start, announced, size_at, size_form = found
    there, end, written = max(size - start, 0), size, announced
    if _is_open(file, layout, start, announced, size):
        if layout is _WAVE:
            end = next(positions_of(file, _WAVE_START, start, size), size)
        announced = there = max(end - start, 0)
    else:
        there = min(announced, there)
        ends = (layout.behind(start, there), _container_end(file, layout, base))
        begun = (at for at in ends if base < at < size and (_layout_at(file, at) or _XIPH.match(bytes_at(file, at, 4))))
        end = next(begun, size)
    if there == written:
        return (range(base, end),) if there > layout.lead else (), end, announced, there
    width = struct.calcsize(size_form)
    number = struct.pack(size_form, min(there + layout.counted, (1 << 8 * width) - 1))
    return (range(base, size_at), number, range(size_at + width, end)), end, announced, there


def _find_samples(file: BinaryIO, layout: _Layout, base: int) -> tuple[int, int, int, str] | None:
    """Where the samples are, how many bytes of them are announced, at which place and in which form; None without."""
    if not layout.samples:
        offset, announced = struct.unpack(">4xII", bytes_at(file, base, 12).ljust(12, b"\0"))
        return base + offset, announced, base + 8, ">I"
    size_form = layout.header[0] + layout.header[-1]
    long_size = None
    for name, start, length in _chunks(file, layout, base + layout.first):
        if name == b"ds64":
            long_size = int.from_bytes(bytes_at(file, start + 8, 8), "little"), start + 8, "<q"
        if name == layout.samples:
            if long_size is not None and length == 0xFFFFFFFF:
                return start, *long_size
            return start, length, start - struct.calcsize(size_form), size_form
    return None


def _chunks(file: BinaryIO, layout: _Layout, position: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, place and length of each chunk's content, up to the end of the file; ValueError after too many."""
    header_bytes = struct.calcsize(layout.header)
    for _ in range(_MOST_CHUNKS):
        header = bytes_at(file, position, header_bytes)
        if len(header) < header_bytes:
            return
        name, counted = struct.unpack(layout.header, header)
        start, length = position + header_bytes, max(counted - layout.counted, 0)
        yield name, start, length
        position = layout.behind(start, length)
    raise ValueError


def _is_open(file: BinaryIO, layout: _Layout, start: int, announced: int, size: int) -> bool:
    """Whether the number of samples was never written."""
    present = max(size - start, 0)
    if announced > layout.lead:
        return announced >= _ENDLESS_BYTES and announced > present
    if not layout.samples or present <= layout.lead:
        return present > layout.lead
    # Whole chunks up to the end say that an empty one before them is meant to be empty.
    end = start + announced
    for name, at, length in _chunks(file, layout, end):
        if not re.match(rb"[ -~]{4}", name):
            return True
        end = layout.behind(at, length)
    return not 0 <= end - size <= 1


def _container_end(file: BinaryIO, layout: _Layout, base: int) -> int:
    if layout.counted:
        return base + int.from_bytes(bytes_at(file, base + 16, 8), "little")
    length = int.from_bytes(bytes_at(file, base + 4, 4), "little" if layout is _WAVE else "big")
    return base + 8 + length + length % 2
