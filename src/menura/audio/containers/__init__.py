"""What a file's structure says before it is decoded: where sound lies, and whether all of it is there.

libsndfile reads a PCM file that is cut off without a word, stops a headerless variable-rate MP3 at a guess of its
length, and gives only the first of several streams in a row. A look at the structure first finds these cases, and cuts
the file into parts that libsndfile reads right.
"""

from __future__ import annotations

from typing import BinaryIO

from menura.audio.containers.mpeg import inspect_mpeg
from menura.audio.containers.pcm import inspect_pcm
from menura.audio.containers.structure import ANOTHER_FOLLOWS, Structure, bytes_at
from menura.audio.containers.xiph import inspect_flac, inspect_ogg

_MEDIA = (
    *((0, b"\x1a\x45\xdf\xa3"), (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"), (0, b"\x00\x00\x01\xba")),  # mkv asf mpg
    *((0, b"\xff\xf1"), (0, b"\xff\xf9"), (0, b"\x0b\x77"), (0, b"#!AMR"), (0, b"FLV"), (0, b"wvpk"), (0, b"MAC ")),
    *((8, b"AVI "), (0, b"TTA1"), (0, b"MPCK"), (0, b".RMF")),
)
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")


def inspect(file: BinaryIO) -> Structure:
    """Look at the structure of an open file. An unknown one is a single part, about which nothing is known."""
    size = file.seek(0, 2)
    looks = (_inspect_media, inspect_pcm, inspect_ogg, inspect_flac, inspect_mpeg)
    return next(filter(None, (look(file, size) for look in looks)), Structure(parts=((range(size),),)))


def _inspect_media(file: BinaryIO, size: int) -> Structure | None:
    """Containers that PyAV reads; of MP4 and QuickTime (ISO 14496-12), whether all boxes are there, and only once."""
    head, whole = bytes_at(file, 0, 189), ((range(size),),)
    is_stream = head[:1] == head[188:] == b"G"  # MPEG-TS
    if is_stream or any(head.startswith(magic, at) for at, magic in _MEDIA):
        return Structure(parts=whole, media=True)
    if head[4:8] not in _MP4_BOXES:
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
    return Structure(parts=whole, media=True, cut_off=position > size, problem=ANOTHER_FOLLOWS if indexes > 1 else None)
