"""MP4 and QuickTime boxes (ISO 14496-12): whether the last one is all there."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import BinaryIO


def mp4_is_cut_off(file: BinaryIO) -> bool:
    """Whether an MP4 file's outermost boxes reach beyond its end; False for other containers."""
    size = file.seek(0, 2)
    file.seek(4)
    if file.read(4) not in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return False
    position = 0
    while position < size:
        file.seek(position)
        header = file.read(16)
        if len(header) < 8:
            return True
        length = struct.unpack(">I", header[:4])[0]
        if length == 1 and len(header) == 16:
            length = struct.unpack(">Q", header[8:])[0]
        if length < 8:  # 0: to the end of the file; less is no box
            return False
        position += length
    return position > size
