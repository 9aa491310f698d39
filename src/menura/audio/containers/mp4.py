"""MP4 and QuickTime boxes (ISO 14496-12): whether the last one is all there."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from menura.audio.containers.survey import Survey

if TYPE_CHECKING:
    from typing import BinaryIO

_OUTERMOST = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")


def survey_mp4(file: BinaryIO) -> Survey | None:
    """See whether the outermost boxes reach beyond the end; None for other containers."""
    size = file.seek(0, 2)
    whole = ((range(size),),)
    file.seek(4)
    if file.read(4) not in _OUTERMOST:
        return None
    position = 0
    while position < size:
        file.seek(position)
        header = file.read(16)
        if len(header) < 8:
            return Survey(parts=whole, cut_off=True)
        length = struct.unpack(">I", header[:4])[0]
        if length == 1 and len(header) == 16:
            length = struct.unpack(">Q", header[8:])[0]
        if length < 8:  # 0: to the end of the file; less is no box
            return Survey(parts=whole)
        position += length
    return Survey(parts=whole, cut_off=position > size)
