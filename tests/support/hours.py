"""Hours with a tiny voice: what came of them, as JSON from a process of its own."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from menura.types import AudioInfo

if TYPE_CHECKING:
    from torch import Tensor

    from menura.pipeline.recording import Reader
    from menura.types import FloatArray

RATE = 22_050
VOICE_RATE = 4000
COMPARED_S = 30


class Bursts:
    """Noise in bursts of irregular length and level, made as it is read; no length is too much for it."""

    name = "<bursts>"
    warning = None
    notes = ()

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds
        self.info = AudioInfo(sample_rate=RATE, channels=1, length_samples=seconds * RATE)
        self._carrier = np.random.default_rng(1).standard_normal(RATE).astype(np.float32)

    def second(self, number: int) -> FloatArray:
        rng = np.random.default_rng((7, number))
        levels = rng.choice(np.array([0.0, 0.0, 0.1, 0.3], dtype=np.float32), 35)
        return self._carrier * np.repeat(levels, RATE // 35)

    def open(self) -> Reader:
        return self

    def blocks(self, block_samples: int, apart: bool = False) -> Iterator[FloatArray]:
        for number in range(self.seconds):
            yield self.second(number)


def envelope(samples: FloatArray, rate: int) -> FloatArray:
    """Mean level every half millisecond, smoothed over 10 ms."""
    places = np.arange(0, len(samples), rate / 2000)
    total = np.concatenate([[0.0], np.cumsum(np.abs(samples, dtype=np.float64))])
    half = 0.005 * rate
    high = np.interp(np.minimum(places + half, len(samples)), np.arange(len(total)), total)
    low = np.interp(np.maximum(places - half, 0), np.arange(len(total)), total)
    return np.asarray(high - low, dtype=np.float32)


def lag_ms(output: FloatArray, source: FloatArray) -> float:
    """By how much the output's loudness comes later than the source's."""
    a, b = envelope(output, VOICE_RATE), envelope(source, RATE)
    a, b = a - a.mean(), b - b.mean()
    size = 2 * len(a)
    correlation = np.fft.irfft(np.fft.rfft(a, size) * np.conj(np.fft.rfft(b, size)), size)
    lag = int(np.argmax(correlation))
    return 0.5 * (lag if lag < size // 2 else lag - size)


def convert(seconds: int) -> dict[str, float]:
    """Length, and lags at the start and the end of a conversion that is thrown away as it comes."""
    import torch

    from menura.pipeline.engine import Engine
    from menura.pipeline.output import MemorySink
    from menura.system.device import peak_memory_mb
    from support.tiny import FakeF0, TinyNetworks, tiny_models, tiny_request

    recording = Bursts(seconds)
    models = dataclasses.replace(tiny_models(), f0=FakeF0(threshold=0.03))
    net = models.synthesizer
    decode, hop = net.decode_tiled, net.config.frame_samples
    silence = net.source(torch.zeros(1, 1), torch.zeros(1, dtype=torch.float64), None, 0.0)[0, 0, 0].detach()

    def heard(z: Tensor, g: Tensor, source: Tensor, core: tuple[int, int]) -> Tensor:
        """A random voice's loudness follows nothing, so its source is heard instead: a sine where there is F0."""
        level = decode(z, g, source, core).abs().max()
        return (source[:, 0, core[0] * hop : core[1] * hop] - silence).clamp(-level, level)

    net.decode_tiled = heard  # type: ignore[assignment, method-assign]
    request, sink = tiny_request(rms_mix_rate=0.9, noise_scale=0.0), MemorySink()
    kept = COMPARED_S * VOICE_RATE
    start = end = np.zeros(0, dtype=np.float32)
    length = 0
    with Engine(TinyNetworks(models)) as engine:
        engine.submit(recording, request, sink)
        while not engine.idle:
            engine.step()
            for block in sink.take():
                start = np.concatenate([start, block.samples])[:kept]
                end = np.concatenate([end, block.samples])[-kept:]
                length += len(block.samples)
    first = np.concatenate([recording.second(k) for k in range(COMPARED_S)])
    last = np.concatenate([recording.second(k) for k in range(seconds - COMPARED_S, seconds)])
    return {
        "samples": length,
        "start_ms": lag_ms(start, first),
        "end_ms": lag_ms(end, last),
        "peak_mb": peak_memory_mb(),
    }


def main(arguments: list[str]) -> None:
    """Convert so many seconds, once for each argument."""
    import torch

    torch.set_num_threads(1)
    json.dump([convert(int(seconds)) for seconds in arguments], sys.stdout)
