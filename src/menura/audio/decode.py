"""Reading recordings as blocks of float32, in bounded memory, from whatever container they are in.

The container is recognised by its content: libsndfile first, then PyAV where the extra `media` is installed. A damaged
file gives what can be decoded, and a warning; a file that gives nothing raises `DecodeError`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

import numpy as np

from menura.audio.containers import inspect
from menura.audio.containers.structure import Structure
from menura.audio.places import MEDIA_SUFFIXES
from menura.audio.processor import CANCELLED, MixDown, mix_down
from menura.audio.sources import MEDIA_ADVICE, NO_SAMPLES, UNSUPPORTED, MediaSource, SndfileSource
from menura.errors import DecodeError
from menura.system.files import temporary_folder, writing
from menura.types import FloatArray

MINIMUM_RATE_HZ = 4_000
MAXIMUM_RATE_HZ = 384_000
_MOST_WINDOW_VALUES = 1 << 20


class AudioReader:
    """An opened recording. Each call of `blocks` is a new pass from the beginning."""

    def __init__(self, path: Path, structure: Structure, source: SndfileSource | MediaSource) -> None:
        self.path = path
        self.info = source.info
        self._structure, self._source = structure, source
        self._damage: dict[str, None] = {}
        self._cancelled = False

    @property
    def warning(self) -> str | None:
        """What was wrong with the file, as far as it has been read; None if nothing was."""
        return "; ".join(self._damage) or None

    @property
    def notes(self) -> tuple[str, ...]:
        """What else there is to say of it, as far as it has been read."""
        return self._source.notes + ((CANCELLED,) if self._cancelled else ())

    def length_samples(self) -> int:
        """The recording's length: by its header, or counted by reading all of it where the header doesn't say."""
        if self.info.length_samples is not None:
            return self.info.length_samples
        return sum(len(block) for block in self.blocks(self.info.sample_rate))

    def blocks(self, block_samples: int, apart: bool = False) -> Iterator[FloatArray]:
        """Yield the recording from its start as float32 (samples,), mixed down (see MixDown); or with channels `apart`.

        Every block has `block_samples` samples, the last one what is left. How many there are in all is only certain
        at the end: `info.length_samples` is the header's word.
        """
        if block_samples < 1:
            raise ValueError(f"Blocks must have at least one sample, not {block_samples}.")
        pending: list[FloatArray] = []
        held = 0
        for chunk in self._apart() if apart else self._mixed():
            pending.append(chunk)
            held += len(chunk)
            if held < block_samples:
                continue
            joined = np.concatenate(pending)
            whole = held - held % block_samples
            for start in range(0, whole, block_samples):
                yield joined[start : start + block_samples]
            pending, held = [joined[whole:]], held - whole
        if held:
            yield np.concatenate(pending)

    def _apart(self) -> Iterator[FloatArray]:
        count = self.info.channels
        for chunk in self.chunks():
            yield chunk if chunk.shape[1] == count else np.repeat(mix_down(chunk)[:, None], count, axis=1)

    def _mixed(self) -> Iterator[FloatArray]:
        """Chunks of any length; the number of channels may change on the way."""
        for channels, chunks in groupby(self.chunks(), key=lambda chunk: chunk.shape[1]):
            mixer = MixDown(max(1, min(self.info.sample_rate, _MOST_WINDOW_VALUES // channels)))
            for chunk in chunks:
                yield mixer.push(chunk)
            yield mixer.flush()
            self._cancelled |= mixer.cancelled

    def chunks(self) -> Iterator[FloatArray]:
        """Yield the recording as float32 (samples, channels), in any lengths; how many channels may change."""
        count = 0
        try:
            for chunk in self._source.chunks(self._damage.setdefault):
                count += len(chunk)
                finite = np.isfinite(chunk)
                if not finite.all():
                    self._damage.setdefault("NaN or infinite samples were replaced by silence")
                    chunk = np.where(finite, chunk, np.float32(0))
                yield chunk
        except OSError as error:
            raise _unreadable(self.path, error) from error
        if not count:
            raise DecodeError(self.path, NO_SAMPLES)
        self._judge(count)

    def _judge(self, count: int) -> None:
        """Say what is missing, from what was announced and the samples that came."""
        structure, damaged, rate_hz = self._structure, self._damage.setdefault, self.info.sample_rate
        announced = self.info.length_samples or 0
        if announced <= count:
            announced = round(count / structure.present) if structure.present else count
        seconds = f"{count / rate_hz:.2f} s"
        if announced - count > self._source.slack_s * rate_hz:
            damaged(f"damaged or cut off: {seconds} of {announced / rate_hz:.2f} s could be read")
        elif structure.cut_off or (count < announced and not structure.media):
            damaged(f"cut off: the end is missing; {seconds} could be read")
        elif structure.damaged:
            damaged(f"damaged; {seconds} could be read")
        if structure.problem is not None:
            damaged(structure.problem)


def open_audio(path: Path | str) -> AudioReader:
    """Open a recording of any known format, rate (4 to 384 kHz) and channel count; DecodeError where it is none."""
    path = Path(path)
    if os.path.isdir(path):
        raise DecodeError(path, "is a folder, not a recording")
    if os.path.exists(path) and not os.path.isfile(path):
        raise DecodeError(path, "is not a regular file; pipes and devices are not supported")
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise DecodeError(path, "the file is empty")
            structure = inspect(file)
        source = _open_source(path, structure)
    except OSError as error:
        raise _unreadable(path, error) from error
    rate_hz = source.info.sample_rate
    if not MINIMUM_RATE_HZ <= rate_hz <= MAXIMUM_RATE_HZ:
        raise DecodeError(path, f"sample rate of {rate_hz} Hz is outside {MINIMUM_RATE_HZ} to {MAXIMUM_RATE_HZ} Hz")
    return AudioReader(path, structure, source)


def _unreadable(path: Path, error: OSError) -> DecodeError:
    if isinstance(error, FileNotFoundError):
        return DecodeError(path, "no such file")
    return DecodeError(path, f"can't be read: {error.strerror or error}")


def _open_source(path: Path, structure: Structure) -> SndfileSource | MediaSource:
    if not structure.parts:
        raise DecodeError(path, structure.problem or UNSUPPORTED)
    try:
        return SndfileSource(path, structure)
    except DecodeError as error:
        failure = error
    if MediaSource.available():
        try:
            return MediaSource(path, structure)
        except DecodeError as error:
            # A header without samples is libsndfile's to name; of other files PyAV knows more.
            failure = failure if failure.problem == NO_SAMPLES else error
    elif failure.problem != NO_SAMPLES:
        needs_media = structure.media or path.suffix.lower() in MEDIA_SUFFIXES
        failure = DecodeError(path, "this format needs PyAV" if needs_media else failure.problem, MEDIA_ADVICE)
    raise failure


@contextmanager
def spooled_input(stream: BinaryIO, folder: Path | None = None) -> Iterator[Path]:
    """Copy a stream that can't be read twice to a temporary file, gone when the block ends; may raise ResourceError."""
    with ExitStack() as stack:
        with writing(folder or Path(tempfile.gettempdir())):
            path = stack.enter_context(temporary_folder(parent=folder)) / "stdin"
            with path.open("wb") as file:
                shutil.copyfileobj(stream, file, 1 << 20)
        yield path
