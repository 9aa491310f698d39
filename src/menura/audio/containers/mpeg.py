"""MPEG audio frames (ISO 11172-3, 13818-3; layers I to III): how many there are, and Xing/LAME headers.

libsndfile believes a Xing header, and without one guesses the length of a variable-rate file from its first frame, and
stops there. Each run of frames is given a header with the true count.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from typing import BinaryIO

from menura.audio.containers.structure import Piece, Structure, after_id3, bytes_at, positions_of

_V2_KBPS = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_KBPS = {
    (1, 1): range(32, 449, 32),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
}
"""By version (2 also stands for 2.5) and layer, where that isn't `_V2_KBPS`."""
_RATES_HZ = (44_100, 48_000, 32_000)
_SAME_STREAM = 0xFFFE0C00  # header bits that all frames of a stream share: sync, version, layer, rate
_SYNC = re.compile(rb"\xff[\xe2-\xff]")
_START_BYTES = 1 << 16  # a stream that was joined on its way begins within these; so long may zeros pad a tag
_SURE_FRAMES = 4
_TRAILERS = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"3DI")


@dataclass(slots=True)
class _Run:
    """Frames that belong together: a stream with its Xing header, if it has one."""

    header: int
    announced_frames: int | None
    frames: int = 0
    """Without the Xing header's own, which announces some."""
    pieces: list[range] = field(default_factory=list)

    def add(self, position: int, length: int) -> None:
        start = self.pieces.pop().start if self.pieces and self.pieces[-1].stop == position else position
        self.pieces.append(range(start, position + length))

    def part(self) -> tuple[Piece, ...]:
        if _layer(self.header) < 3 or (self.announced_frames is not None and self.announced_frames >= self.frames):
            return tuple(self.pieces)
        # A silent frame with a Xing header: the frame count, and no gapless trimming.
        header = self.header | 0x10000  # no checksum
        needed = 4 + _side_bytes(header) + 12
        headers = (header & ~0xF200 | bits << 12 for bits in range(1, 15))
        header = next(header for header in headers if frame_bytes(header) >= needed)
        tag = bytes(_side_bytes(header)) + b"Xing" + struct.pack(">II", 1, self.frames)
        return (header.to_bytes(4, "big") + tag).ljust(frame_bytes(header), b"\0"), *self.pieces


def inspect_mpeg(file: BinaryIO, size: int) -> Structure | None:
    """Find the frames of an MPEG audio file; None for other containers and for free-format streams."""
    position = after_id3(file, 0)
    padded = bytes_at(file, position, _START_BYTES)
    position += len(padded) - len(padded.lstrip(b"\0"))
    if not _are_frames(file, position, 2):
        places = positions_of(file, _SYNC, position, min(position + _START_BYTES, size))
        position = next((place for place in places if _are_frames(file, place, _SURE_FRAMES)), size)
    length = frame_bytes(_header(file, position))
    if not length:
        return None
    if position + length > size:
        return Structure(parts=((range(size),),), cut_off=True)
    return _inspect_frames(file, position, size)


def _inspect_frames(file: BinaryIO, position: int, size: int) -> Structure:
    first = _header(file, position)
    runs: list[_Run] = []
    damaged = cut_off = False
    while position < size and not cut_off:
        length = _frame_bytes_at(file, position, first)
        cut_off = position + length > size
        if not length:
            position, lost = _next_frame(file, position, size, first)
            damaged |= lost
        elif not cut_off:
            announced = _xing_frames(file, position, length)
            if announced is not None or not runs:
                runs.append(_Run(_header(file, position), announced))
            runs[-1].add(position, length)
            runs[-1].frames += announced is None
            position += length
    announced_frames = sum(run.announced_frames or run.frames for run in runs)
    frames = sum(run.frames for run in runs)
    layer = _layer(first)
    return Structure(
        parts=tuple(run.part() for run in runs),
        present=min(frames / announced_frames, 1.0) if announced_frames else 0.0,
        damaged=damaged,
        cut_off=cut_off or (frames < announced_frames and not damaged),
        length_samples=frames * (384 if layer == 1 else 1152) if layer < 3 else None,
    )


def _next_frame(file: BinaryIO, position: int, size: int, first: int) -> tuple[int, bool]:
    """Where to go on from something that is no frame, and whether that is damage: not before tags or at the end."""
    data = bytes_at(file, position, 16)
    if data.startswith(b"ID3"):
        return max(after_id3(file, position), position + 1), False
    if data.startswith(_TRAILERS):
        return size, False
    for place in positions_of(file, _SYNC, position + 1, size):
        length = _frame_bytes_at(file, place, first)
        if length and (place + length == size or _frame_bytes_at(file, place + length, first)):
            return place, True
    return size, False


def _are_frames(file: BinaryIO, position: int, count: int) -> bool:
    """Whether so many frames of one stream follow each other, or fewer up to the end of the file."""
    first = _header(file, position)
    for _ in range(count):
        length = _frame_bytes_at(file, position, first)
        if not length:
            return False
        position += length
        following = bytes_at(file, position, 4)
        if len(following) < 4:
            return count == 2 or not following
    return True


def _frame_bytes_at(file: BinaryIO, position: int, first: int) -> int:
    """Length of the frame at a position, 0 if there is none of the stream that `first` begins."""
    header = _header(file, position)
    return 0 if (header ^ first) & _SAME_STREAM else frame_bytes(header)


def frame_bytes(header: int) -> int:
    """Length of the frame that a 32-bit header begins, 0 if it is none (or of free format)."""
    version, layer = header >> 19 & 3, _layer(header)
    rate, bits = header >> 10 & 3, header >> 12 & 15
    if header >> 21 != 0x7FF or version == 1 or layer == 4 or rate == 3 or bits in (0, 15):
        return 0
    kbps = _KBPS.get((1 if version == 3 else 2, layer), _V2_KBPS)[bits - 1]
    rate_hz = _RATES_HZ[rate] >> (0 if version == 3 else 1 if version == 2 else 2)
    padding = header >> 9 & 1
    if layer == 1:
        return (12_000 * kbps // rate_hz + padding) * 4
    return (72_000 if layer == 3 and version != 3 else 144_000) * kbps // rate_hz + padding


def _layer(header: int) -> int:
    return 4 - (header >> 17 & 3)


def _header(file: BinaryIO, position: int) -> int:
    data = bytes_at(file, position, 4)
    return int.from_bytes(data, "big") if len(data) == 4 else 0


def _side_bytes(header: int) -> int:
    """Length of a layer III frame's side information, behind which a Xing header lies."""
    return (9, 17, 32)[(header >> 19 & 3 == 3) + (header >> 6 & 3 != 3)]  # more in MPEG-1, and in stereo


def _xing_frames(file: BinaryIO, position: int, length: int) -> int | None:
    """Frame count of the Xing, Info or VBRI header in the frame at `position`; 0 if it gives none, None without one."""
    data = bytes_at(file, position, min(length, 64))
    if data[36:40] == b"VBRI":
        return int.from_bytes(data[50:54], "big")
    at = 4 + _side_bytes(int.from_bytes(data[:4], "big"))
    if data[at : at + 4] not in (b"Xing", b"Info"):
        return None
    flags, frames = struct.unpack(">II", data[at + 4 : at + 12].ljust(8, b"\0"))
    return int(frames) if flags & 1 else 0
