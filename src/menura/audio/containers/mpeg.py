"""MPEG audio frames (ISO 11172-3, 13818-3; layers I to III): how many there are, and Xing/LAME headers.

libsndfile believes a Xing header, and without one guesses the length of a variable-rate file from its first frame, and
stops there. Each run of frames is given a header with the true count.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from menura.audio.containers.survey import Survey

if TYPE_CHECKING:
    from typing import BinaryIO

    from menura.audio.containers.survey import Piece

_V1_KBPS = (
    (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
)
_V2_KBPS = (
    (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
_RATES_HZ = (44_100, 48_000, 32_000)
_SAME_STREAM = 0xFFFE0C00
"""Header bits that all frames of a stream share: sync, version, layer, rate."""
_SEARCH_BYTES = 1 << 16
_TRAILERS = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"3DI")


@dataclass
class _Run:
    """Frames that belong together: a stream with its Xing header, if it has one."""

    header: int
    announced_frames: int | None
    """What the Xing header says, None without one."""
    frames: int = 0
    """Audio frames found, the Xing header's own left out."""
    pieces: list[range] = field(default_factory=list)

    def add(self, position: int, length: int) -> None:
        if self.pieces and self.pieces[-1].stop == position:
            self.pieces[-1] = range(self.pieces[-1].start, position + length)
        else:
            self.pieces.append(range(position, position + length))

    def part(self) -> tuple[Piece, ...]:
        layer_3 = self.header >> 17 & 3 == 1
        if not layer_3 or (self.announced_frames is not None and self.announced_frames >= self.frames):
            return tuple(self.pieces)
        return (_xing_frame(self.header, self.frames), *self.pieces)


def survey_mpeg(file: BinaryIO) -> Survey | None:
    """Find the frames of an MPEG audio file; None for other containers and for free-format streams."""
    size = file.seek(0, 2)
    position = _after_tags(file, 0)
    first = _header(file, position)
    length = frame_bytes(first)
    if not length:
        return None
    following = _header(file, position + length)
    if position + length + 4 <= size and not (frame_bytes(following) and _same_stream(first, following)):
        return None
    if position + length > size:
        return Survey(parts=((range(size),),), cut_off=True, noisy=True)
    return _Scan(file, size, first).survey(position)


class _Scan:
    def __init__(self, file: BinaryIO, size: int, first: int) -> None:
        self._file = file
        self._size = size
        self._first = first
        self._runs: list[_Run] = []
        self._damaged = False
        self._cut_off = False

    def survey(self, position: int) -> Survey:
        while position < self._size:
            header = _header(self._file, position)
            length = frame_bytes(header) if _same_stream(header, self._first) else 0
            if length and position + length > self._size:
                self._cut_off = True
                break
            if length:
                self._add(position, header, length)
                position += length
            else:
                position = self._next(position)
        announced = sum(run.announced_frames or run.frames for run in self._runs)
        found = sum(run.frames for run in self._runs)
        return Survey(
            parts=tuple(run.part() for run in self._runs),
            present=min(found / announced, 1.0) if announced else 0.0,
            damaged=self._damaged,
            cut_off=self._cut_off or (found < announced and not self._damaged),
            noisy=True,
        )

    def _add(self, position: int, header: int, length: int) -> None:
        announced = _xing_frames(self._file, position, length)
        if announced is not None or not self._runs:
            self._runs.append(_Run(header, announced))
        self._runs[-1].add(position, length)
        if announced is None:
            self._runs[-1].frames += 1

    def _next(self, position: int) -> int:
        """Where to go on from something that is no frame: behind a tag, at the next frame, or at the end."""
        self._file.seek(position)
        data = self._file.read(16)
        if data.startswith(b"ID3"):
            return _after_tags(self._file, position)
        if data.startswith(_TRAILERS):
            return self._size
        found = _search(self._file, position + 1, self._size, self._first)
        # Padding and tags unknown to us may follow the last frame; only between frames are they damage.
        self._damaged |= found < self._size
        return found


def frame_bytes(header: int) -> int:
    """Length of the frame that a 32-bit header begins, 0 if it is none (or of free format)."""
    version, layer = header >> 19 & 3, 4 - (header >> 17 & 3)
    rate, bits = header >> 10 & 3, header >> 12 & 15
    if header >> 21 != 0x7FF or version == 1 or layer == 4 or rate == 3 or bits in (0, 15):
        return 0
    kbps = (_V1_KBPS if version == 3 else _V2_KBPS)[layer - 1][bits - 1]
    rate_hz = _RATES_HZ[rate] >> (0 if version == 3 else 1 if version == 2 else 2)
    padding = header >> 9 & 1
    if layer == 1:
        return (12_000 * kbps // rate_hz + padding) * 4
    return (72_000 if layer == 3 and version != 3 else 144_000) * kbps // rate_hz + padding


def _same_stream(one: int, other: int) -> bool:
    return (one ^ other) & _SAME_STREAM == 0


def _header(file: BinaryIO, position: int) -> int:
    file.seek(position)
    data = file.read(4)
    return int.from_bytes(data, "big") if len(data) == 4 else 0


def _after_tags(file: BinaryIO, position: int) -> int:
    """Place behind ID3v2 tags and the zeros that may pad them."""
    while True:
        file.seek(position)
        head = file.read(10)
        if len(head) < 10 or not head.startswith(b"ID3"):
            break
        a, b, c, d = head[6:10]
        position += 10 + (a << 21 | b << 14 | c << 7 | d) + (10 if head[5] & 0x10 else 0)
    file.seek(position)
    data = file.read(_SEARCH_BYTES)
    return position + len(data) - len(data.lstrip(b"\0"))


def _side_bytes(header: int) -> int:
    """Length of a layer III frame's side information, behind which a Xing header lies."""
    mono = header >> 6 & 3 == 3
    if header >> 19 & 3 == 3:
        return 17 if mono else 32
    return 9 if mono else 17


def _xing_frames(file: BinaryIO, position: int, length: int) -> int | None:
    """Frame count of the Xing, Info or VBRI header in the frame at `position`; 0 if it gives none, None without one."""
    file.seek(position)
    data = file.read(min(length, 64))
    if data[36:40] == b"VBRI":
        return int.from_bytes(data[50:54], "big")
    header = int.from_bytes(data[:4], "big")
    at = 4 + _side_bytes(header)
    if data[at : at + 4] not in (b"Xing", b"Info"):
        return None
    flags, frames = struct.unpack(">II", data[at + 4 : at + 12].ljust(8, b"\0"))
    return int(frames) if flags & 1 else 0


def _xing_frame(header: int, frames: int) -> bytes:
    """A silent layer III frame with a Xing header: the frame count, and no gapless trimming."""
    header |= 0x10000  # no checksum
    wanted = 4 + _side_bytes(header) + 12
    for bits in range(1, 15):
        header = header & ~0xF200 | bits << 12
        length = frame_bytes(header)
        if length >= wanted:
            break
    tag = b"Xing" + struct.pack(">II", 1, frames)
    return (header.to_bytes(4, "big") + bytes(_side_bytes(header)) + tag).ljust(length, b"\0")


def _search(file: BinaryIO, position: int, size: int, first: int) -> int:
    """Place of the next two frames in a row (or a last one that ends the file), or the end of the file."""
    version_and_layer = first >> 16 & 0xFE
    sync = re.compile(
        b"\xff[" + re.escape(bytes([version_and_layer])) + re.escape(bytes([version_and_layer | 1])) + b"]"
    )
    while position < size:
        file.seek(position)
        data = file.read(_SEARCH_BYTES)
        for match in sync.finditer(data):
            place = position + match.start()
            header = _header(file, place)
            length = frame_bytes(header) if _same_stream(header, first) else 0
            if length and (place + length == size or _same_stream(_header(file, place + length), first)):
                return place
        # One byte again: a header may lie across the border.
        position += max(len(data) - 1, 1)
    return size
