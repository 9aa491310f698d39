"""A store for one stream's samples between two passes: in memory while small, then in a temporary file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from menura.system.files import writing
from menura.types import FloatArray

_SAMPLE_BYTES = 4


class SampleSpool:
    """Appends mono float32 samples, then gives them back in blocks as often as asked; use it as a context manager.

    Keeps up to `memory_bytes` in memory and more than that in a nameless temporary file in `folder`, which is gone
    when the spool is closed, garbage-collected or the process ends.

    Raises:
        ResourceError: on `append`, when the disk is full.
    """

    def __init__(self, folder: Path, memory_bytes: int) -> None:
        self._folder = folder
        # Closed by close(): a context manager here would end with the constructor.
        self._file = tempfile.SpooledTemporaryFile(memory_bytes, dir=str(folder), prefix="menura-")  # noqa: SIM115
        self.length_samples = 0
        self.peak = 0.0
        """Largest absolute value so far."""

    def append(self, samples: FloatArray) -> None:
        """Add (samples,) float32 at the end."""
        if not len(samples):
            return
        samples = np.ascontiguousarray(samples, dtype=np.float32)
        with writing(self._folder):
            self._file.seek(self.length_samples * _SAMPLE_BYTES)
            self._file.write(samples.data.cast("B"))
        self.length_samples += samples.size
        self.peak = max(self.peak, float(np.max(np.abs(samples))))

    def blocks(self, block_samples: int, gain: float = 1.0) -> Iterator[FloatArray]:
        """Yield all samples times `gain`, `block_samples` at a time."""
        for start in range(0, self.length_samples, block_samples):
            self._file.seek(start * _SAMPLE_BYTES)
            count = min(block_samples, self.length_samples - start)
            samples = np.frombuffer(self._file.read(count * _SAMPLE_BYTES), dtype=np.float32)
            yield samples * np.float32(gain)

    def close(self) -> None:
        with suppress(OSError):  # what a full disk left in a buffer isn't wanted either
            self._file.close()

    def __enter__(self) -> SampleSpool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
