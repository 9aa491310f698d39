"""Effects on a recording, without any conversion."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import numpy as np

from menura.audio.decode import open_audio
from menura.audio.encode import codec_rate
from menura.audio.processor import StreamResampler
from menura.effects.definitions import Effect
from menura.effects.processors import chain_of
from menura.types import AudioInfo, FloatArray


class Output(Protocol):
    """A file to come, as the pipeline's FileSink."""

    format: str | None

    def check(self) -> None: ...
    def open(self, sample_rate: int, channels: int) -> None: ...
    def write(self, samples: FloatArray) -> None: ...
    def finish(self, check: Callable[[], None]) -> None: ...
    def discard(self) -> None: ...


def apply_effects(
    source: Path, output: Output, effects: Iterable[Effect], rate_hz: int | None, check: Callable[[], None]
) -> tuple[AudioInfo, str | None]:
    """Write a recording with effects, all of its channels, at its own rate or another.

    Returns what was written, and what of the recording couldn't be read. Raises DecodeError, EncodeError, and what
    `check` does.
    """
    reader = open_audio(source)
    output.check()
    own_hz, channels = reader.info.sample_rate, reader.info.channels
    written_hz = codec_rate(output.format or "wav", rate_hz or own_hz)
    chain, resampler, count = chain_of(effects, own_hz), StreamResampler(own_hz, written_hz), 0
    try:
        output.open(written_hz, channels)
        for chunk in reader.blocks(own_hz, apart=True):
            check()
            ready = resampler.push(chain.push(chunk))
            count += len(ready)
            output.write(ready)
        rest = np.concatenate([resampler.push(chain.flush()), resampler.flush()])
        output.write(rest)
        output.finish(check)
    finally:
        output.discard()
    return AudioInfo(sample_rate=written_hz, channels=channels, length_samples=count + len(rest)), reader.warning
