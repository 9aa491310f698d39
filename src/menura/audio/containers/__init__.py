"""What a file's structure says before it is decoded: where sound lies, and whether all of it is there.

libsndfile reads a PCM file that is cut off without a word, stops a headerless variable-rate MP3 at a guess of its
length, and gives only the first of several Ogg streams in a row. A look at the structure first finds these cases, and
cuts the file into parts that libsndfile reads right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from menura.audio.containers.mp4 import survey_mp4
from menura.audio.containers.mpeg import survey_mpeg
from menura.audio.containers.ogg import survey_ogg
from menura.audio.containers.pcm import survey_pcm
from menura.audio.containers.survey import Survey

if TYPE_CHECKING:
    from typing import BinaryIO

__all__ = ["Survey", "survey"]


def survey(file: BinaryIO) -> Survey:
    """Look at the structure of an open file. An unknown one is a single part, about which nothing is known."""
    for look in (survey_pcm, survey_ogg, survey_mp4, survey_mpeg):
        file.seek(0)
        found = look(file)
        if found is not None:
            return found
    file.seek(0)
    flac = file.read(4) == b"fLaC"
    return Survey(parts=((range(file.seek(0, 2)),),), noisy=not flac)
