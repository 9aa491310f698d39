"""MP4 and QuickTime boxes (ISO 14496-12): whether the last one is all there, and whether another file follows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from menura.audio.containers.structure import Structure, bytes_at

if TYPE_CHECKING:
    from typing import BinaryIO

_OUTERMOST = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")


def inspect_mp4(file: BinaryIO) -> Structure | None:
    """Walk over the outermost boxes; None for other containers."""
    size = file.seek(0, 2)
    whole = ((range(size),),)
    if bytes_at(file, 4, 4) not in _OUTERMOST:
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
