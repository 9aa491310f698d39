"""Recordings of clients: what their headers say need not be true, and what reads them is never surprised."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from menura.errors import DecodeError, MenuraError
from menura.pipeline.recording import FileRecording, Reader
from menura.server.folder import TooLargeError
from menura.types import AudioInfo, FloatArray

_log = logging.getLogger("menura")


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundedRecording(FileRecording):
    """A file whose reading raises TooLargeError where it turns out to be longer than it may."""

    most_s: float
    advice: str

    def open(self) -> Reader:
        with unsurprising(self.name):
            reader = FileRecording.open(self)
        if (reader.info.length_samples or 0) > self.most_s * reader.info.sample_rate:
            raise self.too_long()
        return _BoundedReader(reader, self)

    def too_long(self) -> TooLargeError:
        limit = f"{self.most_s / 3600:g} hours" if self.most_s >= 3600 else f"{self.most_s:g} s"
        return TooLargeError(self.name, f"is longer than {limit}", self.advice, "inputs")


class _BoundedReader:
    def __init__(self, reader: Reader, recording: BoundedRecording) -> None:
        self._reader, self._recording = reader, recording

    @property
    def info(self) -> AudioInfo:
        return self._reader.info

    @property
    def warning(self) -> str | None:
        return self._reader.warning

    @property
    def notes(self) -> tuple[str, ...]:
        return self._reader.notes

    def blocks(self, block_samples: int, apart: bool = False) -> Iterator[FloatArray]:
        left = self._recording.most_s * self.info.sample_rate
        with unsurprising(self._recording.name):
            for block in self._reader.blocks(block_samples, apart):
                left -= len(block)
                if left < 0:
                    raise self._recording.too_long()
                yield block


@contextmanager
def unsurprising(name: str) -> Iterator[None]:
    """What nobody foresaw is the recording's fault; it mustn't end the conversion of all others."""
    try:
        yield
    except (MenuraError, OSError, MemoryError):
        raise
    except Exception as error:
        _log.exception("a recording can't be read")
        raise DecodeError(name, "can't be read") from error
