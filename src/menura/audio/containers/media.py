"""Containers that PyAV reads; of MP4 and QuickTime (ISO 14496-12), whether all boxes are there, and only once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from menura.audio.containers.structure import Structure, bytes_at

if TYPE_CHECKING:
    from typing import BinaryIO

_MAGIC = (
    *((0, b"\x1a\x45\xdf\xa3"), (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"), (0, b"\x00\x00\x01\xba")),  # mkv asf mpg
    *((0, b"\xff\xf1"), (0, b"\xff\xf9"), (0, b"\x0b\x77"), (0, b"#!AMR"), (0, b"FLV"), (0, b"wvpk"), (0, b"MAC ")),
    *((8, b"AVI "), (0, b"TTA1"), (0, b"MPCK"), (0, b".RMF")),
)
_OUTERMOST = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")


def inspect_media(file: BinaryIO, size: int) -> Structure | None:
    """Recognise containers that libsndfile doesn't read; None for others."""
    head, whole = bytes_at(file, 0, 189), ((range(size),),)
    is_stream = head[:1] == head[188:] == b"G"  # MPEG-TS
    if is_stream or any(head.startswith(magic, at) for at, magic in _MAGIC):
        return Structure(parts=whole, media=True)
    if head[4:8] not in _OUTERMOST:
        return None
    position, indexes = 0, 0
    while position < size:
        header = bytes_at(file, position, 16)
        length = int.from_bytes(header[:4], "big")
        if length == 1 and len(header) == 16:
            length = int.from_bytes(header[8:], "big")
        if len(header) < 8 or length < 8:  # 0: to the end of the file; less is no box
            return Structure(parts=whole, media=True, cut_off=len(header) < 8)
        indexes += header[4:8] == b"moov"
        position += length
    problem = "another recording follows the first and was left out" if indexes > 1 else None
    return Structure(parts=whole, media=True, cut_off=position > size, problem=problem)
