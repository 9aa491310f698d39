"""Converted sound on its way out: envelope, rate and exact length; then kept until its peak is known, and written."""

from __future__ import annotations

from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from menura.audio.encode import AudioWriter
from menura.audio.processor import Chain, ExactLength
from menura.audio.resample import StreamResampler
from menura.audio.spool import DEFAULT_MEMORY_BYTES, SampleSpool
from menura.errors import EncodeError
from menura.pipeline.background import StoppedError
from menura.system.files import check_writable, writing
from menura.types import AudioBlock

if TYPE_CHECKING:
    from menura.audio.envelope import EnvelopeMatcher
    from menura.pipeline.clock import StageClock
    from menura.types import FloatArray

PEAK_LIMIT_OUT = 0.99
"""Louder output is scaled down to this, as RVC does."""


class OutputChain:
    """Push/flush: blocks at the voice's rate in, blocks at the output's rate out."""

    def __init__(
        self, *, stream_id: int, voice_rate: int, output_rate: int, length: int, envelope: EnvelopeMatcher | None
    ) -> None:
        self._stream_id, self._rate, self._done = stream_id, output_rate, 0
        before = () if envelope is None else (envelope,)
        self._chain = Chain(*before, StreamResampler(voice_rate, output_rate), ExactLength(length))

    def push(self, samples: FloatArray) -> AudioBlock:
        """What is ready after the next samples (possibly nothing)."""
        return self._block(self._chain.push(samples))

    def flush(self) -> AudioBlock:
        """The rest, so that all blocks together hold exactly `length` samples."""
        return self._block(self._chain.flush())

    def _block(self, samples: FloatArray) -> AudioBlock:
        block = AudioBlock(stream_id=self._stream_id, start_samples=self._done, samples=samples, sample_rate=self._rate)
        self._done += len(samples)
        return block


class SpooledOutput:
    """One output file. `append` what is final, then `publish` once, or `discard`.

    Args:
        path: the file; folders above it are made.
        rate: of its samples, in Hz.
        format: one of FORMATS.
        clock: counts the time.
        memory_bytes: kept in memory before the disk is used.

    Raises:
        EncodeError: no file of that name can be written.
    """

    def __init__(
        self, path: Path, *, rate: int, format: str, clock: StageClock, memory_bytes: int = DEFAULT_MEMORY_BYTES
    ) -> None:
        check_writable(path, EncodeError)
        with writing(path, EncodeError):
            path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._rate, self._format, self._clock = rate, format, clock
        self._spool = SampleSpool(path.parent, memory_bytes)

    @property
    def length_samples(self) -> int:
        """Samples so far."""
        return self._spool.length_samples

    def append(self, samples: FloatArray) -> None:
        """Add (samples,). Raises ResourceError when the disk is full."""
        with self._clock.measure("encode"):
            self._spool.append(samples)

    def publish(self, stop: Event) -> int:
        """Write the file, its peak limited, and forget the samples: how many were written.

        Raises:
            EncodeError: it can't be written.
            StoppedError: `stop` was set; nothing is left.
        """
        count, gain = self.length_samples, output_gain(self._spool.peak)
        with self._clock.measure("encode"), self._spool:
            _check(stop)
            with AudioWriter(self.path, self._rate, self._format, expected_samples=count) as writer:
                for samples in self._spool.blocks(self._rate, gain):
                    _check(stop)
                    writer.write(samples)
        return count

    def discard(self) -> None:
        """Forget the samples."""
        self._spool.close()


def output_gain(peak: float) -> float:
    """1, or what brings a peak down to PEAK_LIMIT_OUT."""
    return PEAK_LIMIT_OUT / peak if peak > PEAK_LIMIT_OUT else 1.0


def _check(stop: Event) -> None:
    if stop.is_set():
        raise StoppedError
