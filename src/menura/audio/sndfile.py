"""Decoding by libsndfile: wav rf64 w64 flac ogg opus mp3 aiff au caf and its other formats."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from menura.audio.containers.structure import Piece, PieceFile, Structure
from menura.audio.containers.xiph import rest_of_flac
from menura.errors import DecodeError
from menura.system.interrupts import deferred_interrupts
from menura.types import AudioInfo, FloatArray

NO_SAMPLES = "contains no audio"
UNSUPPORTED = "unsupported or damaged audio file"
ANOTHER_RATE = "the sample rate changes within the file; parts at another rate were left out"
_READ_SAMPLES = 1 << 15
"""Samples of all channels together that are asked of libsndfile at once."""
_ENDLESS_SAMPLES = 2**62
"""libsndfile's length of a file that doesn't give one is beyond this."""
_MOST_DAMAGES = 1000
"""Damaged places in one file after which the rest is given up."""


@dataclass
class Findings:
    """What reading a file brought to light, each text once and without the file's name."""

    damage: dict[str, None] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)

    def damaged(self, problem: str) -> None:
        """Not all of the recording can be read; begins in lower case, without a full stop."""
        self.damage[problem] = None

    def note(self, text: str) -> None:
        """Something worth knowing of a whole recording; a sentence."""
        self.notes[text] = None


class _Sound(soundfile.SoundFile):  # type: ignore[misc]
    """Only moves forward: soundfile seeks after every read, which a FLAC that is cut off refuses and MP3 pays for."""

    def seekable(self) -> bool:
        return False


class SndfileSource:
    """A file that libsndfile understands."""

    slack_s = 0.01
    """A header's length may be this much longer than the sound without anything being missing."""

    def __init__(self, path: Path, structure: Structure) -> None:
        """Open `path`, of which `structure` was made, and decode its first samples.

        Raises:
            DecodeError: libsndfile doesn't know the format, or there are no samples.
        """
        self._path, self._parts = path, structure.parts
        lengths: list[int] = []
        with path.open("rb") as file:
            for part in self._parts:
                with self._opened(file, part) as sound:
                    if not lengths:
                        rate_hz, channels = sound.samplerate, sound.channels
                        silent = not len(_read(sound)[0])
                    lengths.append(sound.frames)
        if silent and len(lengths) == 1:
            raise DecodeError(path, NO_SAMPLES)
        length = structure.length_samples
        if length is None and max(lengths) < _ENDLESS_SAMPLES:
            length = sum(lengths)
        self.info = AudioInfo(sample_rate=rate_hz, channels=channels, length_samples=length)

    def chunks(self, findings: Findings) -> Iterator[FloatArray]:
        """Yield (samples, channels) float32 from the start."""
        with self._path.open("rb") as file:
            for part in self._parts:
                yield from self._part_chunks(file, part, findings)

    def _part_chunks(self, file: BinaryIO, part: tuple[Piece, ...], findings: Findings) -> Iterator[FloatArray]:
        count, position, stream, rate_hz = 0, 0, part[0], self.info.sample_rate
        for _ in range(_MOST_DAMAGES):
            damaged = False
            with self._opened(file, part) as sound:
                if sound.samplerate != rate_hz:
                    findings.damaged(ANOTHER_RATE)
                    return
                while not damaged:
                    chunk, damaged = _read(sound)
                    if not len(chunk):
                        break
                    count += len(chunk)
                    yield chunk
            if not damaged:
                return
            rest = rest_of_flac(file, stream, count, position) if isinstance(stream, range) else None
            if rest is None:
                if self.info.length_samples is None:  # else the total tells
                    findings.damaged(f"damaged or cut off at {count / rate_hz:.2f} s")
                return
            start, position, part = rest
            gap_s = (start - count) / rate_hz
            findings.damaged(f"damaged at {count / rate_hz:.2f} s: {gap_s:.2f} s were replaced by silence")
            yield from silence(start - count, self.info.channels)
            count = start

    @contextlib.contextmanager
    def _opened(self, file: BinaryIO, part: tuple[Piece, ...]) -> Iterator[_Sound]:
        with PieceFile(file, part) as pieces:
            try:
                with deferred_interrupts():
                    sound = _Sound(pieces)
            except soundfile.LibsndfileError as error:
                raise DecodeError(self._path, UNSUPPORTED) from error
            with sound:
                yield sound


def _read(sound: _Sound) -> tuple[FloatArray, bool]:
    """Read on; where that fails, True and the samples that were decoded before."""
    out = np.full((max(_READ_SAMPLES // sound.channels, 1), sound.channels), np.nan, dtype=np.float32)
    try:
        with deferred_interrupts():
            return sound.read(len(out), out=out), False
    except soundfile.LibsndfileError:
        # soundfile doesn't say how much it got; untouched places still hold NaN.
        untouched = np.isnan(out).all(axis=1)
        return out[: int(np.argmax(untouched))] if untouched.any() else out, True


def silence(samples: int, channels: int) -> Iterator[FloatArray]:
    """(samples, channels) zeros in chunks."""
    step = max(_READ_SAMPLES // channels, 1)
    for start in range(0, samples, step):
        yield np.zeros((min(step, samples - start), channels), dtype=np.float32)
