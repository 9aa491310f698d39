"""Reading recordings as blocks of mono float32, in bounded memory, from whatever container they are in.

The container is recognised by its content: libsndfile first, then PyAV where the extra `media` is installed. A damaged
file gives what can be decoded, and a warning; a file that gives nothing raises `DecodeError`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

import numpy as np

from menura.audio.containers import survey
from menura.audio.media import MediaSource, media_missing_message
from menura.audio.processor import mix_down
from menura.audio.sndfile import SndfileSource
from menura.audio.suffixes import MEDIA_SUFFIXES
from menura.errors import DecodeError, ResourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from menura.types import AudioInfo, FloatArray

MINIMUM_RATE_HZ = 4_000
MAXIMUM_RATE_HZ = 384_000
_NO_SAMPLES = "the file holds no samples."


class Source(Protocol):
    """One container format library's view of a file. `frames` may be called again and starts at the beginning."""

    info: AudioInfo

    def frames(self, warn: Callable[[str], None]) -> Iterator[FloatArray]:
        """Yield (samples, channels) float32 of any length; report damage to `warn`, raise DecodeError for none."""


class AudioReader:
    """An opened recording. Each call of `blocks` is a new pass from the beginning."""

    def __init__(self, path: Path, source: Source) -> None:
        self.path = path
        self.info = source.info
        self._source = source
        self._warnings: dict[str, None] = {}

    @property
    def warning(self) -> str | None:
        """What was wrong with the file, as far as it has been read; None if nothing was."""
        return " ".join(self._warnings) or None

    def blocks(self, block_samples: int) -> Iterator[FloatArray]:
        """Yield the recording from its start as float32 (samples,), channels averaged.

        Every block has `block_samples` samples, the last one what is left. How many samples there are in all is only
        certain at the end: `info.length_samples` is the header's word.

        Raises:
            DecodeError: the file can't be read any more, or nothing of it could be decoded.
        """
        if block_samples < 1:
            raise ValueError(f"Blocks must have at least one sample, not {block_samples}.")
        pending: list[FloatArray] = []
        held = 0
        empty = True
        for frames in self._frames():
            pending.append(self._mono(frames))
            held += len(frames)
            empty &= not held
            if held < block_samples:
                continue
            joined = np.concatenate(pending)
            whole = held - held % block_samples
            for start in range(0, whole, block_samples):
                yield joined[start : start + block_samples]
            pending, held = [joined[whole:]], held - whole
        if held:
            yield np.concatenate(pending)
        if empty:
            raise DecodeError(f"{self.path}: {_NO_SAMPLES}")

    def _frames(self) -> Iterator[FloatArray]:
        try:
            yield from self._source.frames(self._warn)
        except OSError as error:
            raise _unreadable(self.path, error) from error

    def close(self) -> None:
        """Nothing stays open between passes; present so that a reader is used as a context manager."""

    def __enter__(self) -> AudioReader:
        """Return the reader."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the reader."""
        self.close()

    def _mono(self, frames: FloatArray) -> FloatArray:
        finite = np.isfinite(frames)
        if not finite.all():
            self._warn("Samples that are not finite numbers were replaced by silence.")
            frames = np.where(finite, frames, np.float32(0))
        return mix_down(frames)

    def _warn(self, message: str) -> None:
        self._warnings[message] = None


def open_audio(path: Path | str) -> AudioReader:
    """Open a recording of any known format, rate (4 to 384 kHz) and channel count.

    Raises:
        DecodeError: the file is missing, empty, a folder, no audio, or has no samples; or it needs the extra `media`.
    """
    path = Path(path)
    try:
        _check_readable(path)
        source = _open_source(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    rate_hz = source.info.sample_rate
    if not MINIMUM_RATE_HZ <= rate_hz <= MAXIMUM_RATE_HZ:
        raise DecodeError(f"{path}: its rate of {rate_hz} Hz is outside {MINIMUM_RATE_HZ} to {MAXIMUM_RATE_HZ} Hz.")
    return AudioReader(path, source)


def _check_readable(path: Path) -> None:
    if os.path.isdir(path):
        raise DecodeError(f"{path}: is a folder, not a recording.")
    if os.path.exists(path) and not os.path.isfile(path):
        raise DecodeError(f"{path}: is no file; recordings are read twice, so pipes and devices can't be.")
    with path.open("rb") as file:
        if not file.read(1):
            raise DecodeError(f"{path}: the file is empty.")


def _unreadable(path: Path, error: OSError) -> DecodeError:
    if isinstance(error, FileNotFoundError):
        return DecodeError(f"{path}: no such file.")
    return DecodeError(f"{path}: can't be read: {error.strerror or error}.")


def _open_source(path: Path) -> Source:
    with path.open("rb") as file:
        found = survey(file)
    if not found.parts:
        raise DecodeError(f"{path}: is not audio that Menura can read.")
    try:
        return SndfileSource(path, found)
    except DecodeError as error:
        sndfile_error = error
    if MediaSource.available():
        try:
            return MediaSource(path, found)
        except DecodeError as error:
            # A header without samples is libsndfile's to name; of other files PyAV knows more.
            raise (sndfile_error if str(sndfile_error).endswith(_NO_SAMPLES) else error) from None
    if path.suffix.lower() in MEDIA_SUFFIXES or MediaSource.recognises(path):
        raise DecodeError(media_missing_message(path))
    raise sndfile_error


@contextmanager
def spooled_input(stream: BinaryIO, folder: Path | None = None) -> Iterator[Path]:
    """Copy a stream that can't be read twice, such as standard input, to a temporary file, gone when the block ends.

    Raises:
        ResourceError: the temporary folder has no room for it.
    """
    with ExitStack() as stack:
        try:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="menura-", dir=folder))) / "stdin"
            with path.open("wb") as file:
                shutil.copyfileobj(stream, file, 1 << 20)
        except OSError as error:
            place = folder or tempfile.gettempdir()
            advice = "choose another folder" if folder else "point TMPDIR at a larger disk"
            raise ResourceError(
                f"Standard input can't be kept in {place}: {error.strerror or error}; free space there or {advice}."
            ) from error
        yield path
