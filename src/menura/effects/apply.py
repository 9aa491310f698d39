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
from menura.effects.loudness import LoudnessMeter, Match
from menura.effects.processors import chain_of
from menura.options import ConversionOptions
from menura.types import AudioInfo, FloatArray


class Output(Protocol):
    """A file to come, as the pipeline's FileSink."""

    format: str | None
    match: Match | None

    def check(self) -> None: ...
    def open(self, sample_rate: int, channels: int) -> None: ...
    def write(self, samples: FloatArray) -> None: ...
    def finish(self, check: Callable[[], None]) -> None: ...
    def discard(self) -> None: ...


def apply_effects(
    source: Path, output: Output, effects: Iterable[Effect], options: ConversionOptions, check: Callable[[], None]
) -> tuple[AudioInfo, str | None]:
    """Write a recording with effects, all of its channels, at the rate and loudness of the options or its own rate.

    Returns what was written, and what of the recording couldn't be read. Raises DecodeError, EncodeError, and what
    `check` does.
    """
    reader = open_audio(source)
    output.check()
    own_hz, channels = reader.info.sample_rate, reader.info.channels
    written_hz = codec_rate(output.format or "wav", options.sample_rate or own_hz)
    chain, resampler, count = chain_of(effects, own_hz), StreamResampler(own_hz, written_hz), 0
    before, after, peak = LoudnessMeter(own_hz), LoudnessMeter(own_hz), 0.0
    try:
        output.open(written_hz, channels)
        for chunk in reader.blocks(own_hz, apart=True):
            check()
            made = chain.push(chunk)
            if options.loudness == "source":
                before.push(chunk)
                after.push(made)
                peak = max(peak, float(np.abs(chunk).max(initial=0.0)))
            ready = resampler.push(made)
            count += len(ready)
            output.write(ready)
        made = chain.flush()
        rest = np.concatenate([resampler.push(made), resampler.flush()])
        output.write(rest)
        if options.loudness == "source":
            after.push(made)
            output.match = Match.of(after.powers(), before.powers(), peak)
        output.finish(check)
    finally:
        output.discard()
    return AudioInfo(sample_rate=written_hz, channels=channels, length_samples=count + len(rest)), reader.warning
