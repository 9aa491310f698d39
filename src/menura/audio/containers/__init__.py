"""What a file's structure says before it is decoded: where sound lies, and whether all of it is there.

libsndfile reads a PCM file that is cut off without a word, stops a headerless variable-rate MP3 at a guess of its
length, and gives only the first of several streams in a row. A look at the structure first finds these cases, and cuts
the file into parts that libsndfile reads right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from menura.audio.containers.flac import inspect_flac
from menura.audio.containers.media import inspect_media
from menura.audio.containers.mpeg import inspect_mpeg
from menura.audio.containers.ogg import inspect_ogg
from menura.audio.containers.pcm import inspect_pcm
from menura.audio.containers.structure import Structure

if TYPE_CHECKING:
    from typing import BinaryIO


def inspect(file: BinaryIO) -> Structure:
    """Look at the structure of an open file. An unknown one is a single part, about which nothing is known."""
    size = file.seek(0, 2)
    for look in (inspect_media, inspect_pcm, inspect_ogg, inspect_flac, inspect_mpeg):
        found = look(file, size)
        if found is not None:
            return found
    return Structure(parts=((range(size),),))
