"""Decoding by libsndfile: wav rf64 w64 flac ogg opus mp3 aiff au caf and its other formats."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from menura.errors import DecodeError
from menura.types import AudioInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import BinaryIO

    from menura.types import FloatArray

_READ_SAMPLES = 1 << 15
"""Samples of all channels together that are asked of libsndfile at once."""


class _Sound(soundfile.SoundFile):  # type: ignore[misc]
    """A SoundFile that only moves forward.

    soundfile seeks after every read, which libsndfile refuses in a FLAC file that is cut off, and which costs MP3 and
    Ogg time; a file that says it can't seek is read straight on.
    """

    def seekable(self) -> bool:
        return False


class SndfileSource:
    """A file that libsndfile understands."""

    def __init__(self, path: Path) -> None:
        """Open `path` and decode its first samples.

        Raises:
            DecodeError: libsndfile doesn't know the format, or there are no samples.
        """
        self._path = path
        with self._open_file() as file, self._open_sound(file) as sound:
            unknown = sound.frames >= 2**62  # libsndfile's "as long as it goes"
            self.info = AudioInfo(
                sample_rate=sound.samplerate,
                channels=sound.channels,
                length_samples=None if unknown else sound.frames,
            )
            if not len(_read(sound)[0]):
                raise DecodeError(f"{path}: the file holds no samples.")

    def frames(self, warn: Callable[[str], None]) -> Iterator[FloatArray]:
        """Yield (samples, channels) float32 from the start; call `warn` where the file is damaged or cut off."""
        count = 0
        with self._open_file() as file, self._open_sound(file) as sound:
            while True:
                frames, error = _read(sound)
                count += len(frames)
                if error is not None:
                    warn(f"{self._path}: damaged after {count / sound.samplerate:.2f} s ({error}).")
                if len(frames):
                    yield frames
                elif error is None:
                    break
            promised = self.info.length_samples
            if promised is not None and count < promised:
                warn(
                    f"{self._path}: cut off: {count / sound.samplerate:.2f} s of "
                    f"{promised / sound.samplerate:.2f} s are there."
                )

    def _open_file(self) -> BinaryIO:
        # By number: soundfile would take a name's ending for the format.
        return open(os.open(self._path, os.O_RDONLY | getattr(os, "O_BINARY", 0)), "rb")

    def _open_sound(self, file: BinaryIO) -> _Sound:
        try:
            return _Sound(file)
        except soundfile.LibsndfileError as error:
            raise DecodeError(f"{self._path}: is not audio that Menura can read ({error.error_string}).") from error


def _read(sound: _Sound) -> tuple[FloatArray, str | None]:
    """Read on; with an error come the samples that were decoded before it."""
    out = np.full((max(_READ_SAMPLES // sound.channels, 1), sound.channels), np.nan, dtype=np.float32)
    try:
        return sound.read(len(out), out=out), None
    except soundfile.LibsndfileError as error:
        # soundfile doesn't say how much it got; untouched places still hold NaN.
        untouched = np.isnan(out).all(axis=1)
        count = int(np.argmax(untouched)) if untouched.any() else len(out)
        return out[:count], error.error_string.strip().rstrip(".")
