"""Decoding by libsndfile: wav rf64 w64 flac ogg opus mp3 aiff au caf and its other formats."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from menura.audio.containers.flac import rest_of_flac
from menura.audio.containers.structure import PieceFile
from menura.errors import DecodeError
from menura.system.interrupts import deferred_interrupts
from menura.types import AudioInfo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

    from menura.audio.containers.structure import Piece, Structure
    from menura.audio.decode import Findings
    from menura.types import FloatArray

_READ_SAMPLES = 1 << 15
"""Samples of all channels together that are asked of libsndfile at once."""
_ENDLESS_SAMPLES = 2**62
"""libsndfile's length of a file that doesn't give one is beyond this."""
_MOST_DAMAGES = 1000
"""Damaged places in one file after which the rest is given up."""


class _Sound(soundfile.SoundFile):  # type: ignore[misc]
    """A SoundFile that only moves forward.

    soundfile seeks after every read, which libsndfile refuses in a FLAC file that is cut off, and which costs MP3 and
    Ogg time; a file that says it can't seek is read straight on.
    """

    pieces: PieceFile

    def seekable(self) -> bool:
        return False


class SndfileSource:
    """A file that libsndfile understands."""

    def __init__(self, path: Path, structure: Structure) -> None:
        """Open `path`, of which `structure` was made, and decode its first samples.

        Raises:
            DecodeError: libsndfile doesn't know the format, or there are no samples.
        """
        self._path = path
        self._structure = structure
        lengths: list[int] = []
        with path.open("rb") as file:
            for part in structure.parts:
                with self._opened(file, part) as sound:
                    if not lengths:
                        self._rate_hz, self._channels = sound.samplerate, sound.channels
                        silent = not len(_read(sound)[0])
                    lengths.append(sound.frames)
        if silent and len(lengths) == 1:
            raise DecodeError(path, "contains no audio")
        length = sum(lengths) if max(lengths) < _ENDLESS_SAMPLES else None
        if structure.length_samples is not None:
            length = structure.length_samples
        self.info = AudioInfo(sample_rate=self._rate_hz, channels=self._channels, length_samples=length)

    def chunks(self, findings: Findings) -> Iterator[FloatArray]:
        """Yield (samples, channels) float32 from the start."""
        count = 0
        with self._path.open("rb") as file:
            for part in self._structure.parts:
                for chunk in self._part_chunks(file, part, findings):
                    count += len(chunk)
                    yield chunk
        announced = self.info.length_samples
        if announced is None or announced <= count:
            announced = round(count / self._structure.present) if self._structure.present else count
        judge(self._structure, findings, count, announced, self._rate_hz, slack_samples=self._rate_hz // 100)

    def _part_chunks(self, file: BinaryIO, part: tuple[Piece, ...], findings: Findings) -> Iterator[FloatArray]:
        count, position, stream = 0, 0, part[0]
        for _ in range(_MOST_DAMAGES):
            error = None
            with self._opened(file, part) as sound:
                if sound.samplerate != self._rate_hz:
                    findings.damaged("the sample rate changes within the file; parts at another rate were left out")
                    return
                while error is None:
                    chunk, error = _read(sound)
                    if not len(chunk):
                        break
                    count += len(chunk)
                    yield chunk
            if error is None:
                return
            rest = rest_of_flac(file, stream, count, position) if isinstance(stream, range) else None
            if rest is None:
                if self.info.length_samples is None:  # else the total tells
                    findings.damaged(f"damaged or cut off at {count / self._rate_hz:.2f} s")
                return
            start, position, part = rest
            gap_s = (start - count) / self._rate_hz
            findings.damaged(f"damaged at {count / self._rate_hz:.2f} s: {gap_s:.2f} s were replaced by silence")
            yield from silence(start - count, self._channels)
            count = start

    @contextlib.contextmanager
    def _opened(self, file: BinaryIO, part: tuple[Piece, ...]) -> Iterator[_Sound]:
        pieces = PieceFile(file, part)
        try:
            with deferred_interrupts():
                sound = _Sound(pieces)
        except soundfile.LibsndfileError as error:
            if pieces.error is not None:
                raise pieces.error from error
            raise DecodeError(self._path, "unsupported or damaged audio file") from error
        sound.pieces = pieces
        with sound:
            yield sound


def _read(sound: _Sound) -> tuple[FloatArray, str | None]:
    """Read on; with an error come the samples that were decoded before it."""
    out = np.full((max(_READ_SAMPLES // sound.channels, 1), sound.channels), np.nan, dtype=np.float32)
    error: str | None = None
    try:
        with deferred_interrupts():
            out = sound.read(len(out), out=out)
    except soundfile.LibsndfileError as raised:
        # soundfile doesn't say how much it got; untouched places still hold NaN.
        untouched = np.isnan(out).all(axis=1)
        out = out[: int(np.argmax(untouched))] if untouched.any() else out
        error = str(raised.error_string)
    if sound.pieces.error is not None:
        raise sound.pieces.error
    return out, error


def judge(
    structure: Structure, findings: Findings, count: int, announced: int, rate_hz: int, *, slack_samples: int
) -> None:
    """Say what is missing, from what was announced and what came."""
    seconds = f"{count / rate_hz:.2f} s"
    if announced - count > slack_samples:
        findings.damaged(f"damaged or cut off: {seconds} of {announced / rate_hz:.2f} s could be read")
    elif structure.cut_off or (count < announced and not structure.media):
        findings.damaged(f"cut off: the end is missing; {seconds} could be read")
    elif structure.damaged:
        findings.damaged(f"damaged; {seconds} could be read")
    if structure.problem is not None:
        findings.damaged(structure.problem)


def silence(samples: int, channels: int) -> Iterator[FloatArray]:
    """(samples, channels) zeros in chunks."""
    step = max(_READ_SAMPLES // channels, 1)
    for start in range(0, samples, step):
        yield np.zeros((min(step, samples - start), channels), dtype=np.float32)
