"""What a file's structure says before it is decoded: where sound lies, and whether all of it is there.

libsndfile reads a PCM file that is cut off without a word, stops a headerless variable-rate MP3 at a guess of its
length, and gives only the first of several streams in a row. A look at the structure first finds these cases, and cuts
the file into parts that libsndfile reads right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from menura.audio.containers.flac import inspect_flac
from menura.audio.containers.mp4 import inspect_mp4
from menura.audio.containers.mpeg import inspect_mpeg
from menura.audio.containers.ogg import inspect_ogg
from menura.audio.containers.pcm import inspect_pcm
from menura.audio.containers.structure import Structure, bytes_at

if TYPE_CHECKING:
    from typing import BinaryIO

__all__ = ["Structure", "inspect"]

_MEDIA_MAGIC = (
    *((0, b"\x1a\x45\xdf\xa3"), (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"), (0, b"\x00\x00\x01\xba")),  # mkv asf mpg
    *((0, b"\xff\xf1"), (0, b"\xff\xf9"), (0, b"\x0b\x77"), (0, b"#!AMR"), (0, b"FLV"), (0, b"wvpk"), (0, b"MAC ")),
    *((8, b"AVI "), (0, b"TTA1"), (0, b"MPCK"), (0, b".RMF")),
)


def inspect(file: BinaryIO) -> Structure:
    """Look at the structure of an open file. An unknown one is a single part, about which nothing is known."""
    head = bytes_at(file, 0, 189)
    whole = ((range(file.seek(0, 2)),),)
    is_stream = head[:1] == head[188:] == b"G"  # MPEG-TS
    if is_stream or any(head[at : at + len(magic)] == magic for at, magic in _MEDIA_MAGIC):
        return Structure(parts=whole, media=True)
    for look in (inspect_pcm, inspect_ogg, inspect_mp4, inspect_flac, inspect_mpeg):
        found = look(file)
        if found is not None:
            return found
    return Structure(parts=whole)
