"""What happens to the synthesizer's sound before it is written: envelope, rate, exact length."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from menura.audio.envelope import EnvelopeMatcher
from menura.audio.resample import StreamResampler
from menura.types import AudioBlock

if TYPE_CHECKING:
    from menura.types import FloatArray

PEAK_LIMIT_OUT = 0.99
"""Louder output is scaled down to this, as RVC does."""


class OutputChain:
    """Push/flush: blocks at the voice's rate in, blocks at the output's rate out."""

    def __init__(
        self, *, stream_id: int, voice_rate: int, output_rate: int, length: int, envelope: EnvelopeMatcher | None
    ) -> None:
        self._stream_id, self._rate, self._length = stream_id, output_rate, length
        self._envelope = envelope
        self._resampler = StreamResampler(voice_rate, output_rate)
        self._done = 0

    def push(self, samples: FloatArray) -> AudioBlock:
        """What is ready after the next samples (possibly nothing)."""
        if self._envelope is not None:
            samples = self._envelope.push(samples)
        return self._block(self._resampler.push(samples))

    def flush(self) -> AudioBlock:
        """The rest, so that all blocks together hold exactly `length` samples."""
        parts = []
        if self._envelope is not None:
            parts.append(self._resampler.push(self._envelope.flush()))
        parts.append(self._resampler.flush())
        rest = np.concatenate(parts)
        missing = self._length - self._done - len(rest)
        return self._block(np.pad(rest, (0, missing)) if missing > 0 else rest)

    def _block(self, samples: FloatArray) -> AudioBlock:
        samples = samples[: self._length - self._done]
        block = AudioBlock(stream_id=self._stream_id, start_samples=self._done, samples=samples, sample_rate=self._rate)
        self._done += len(samples)
        return block
