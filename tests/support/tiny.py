"""A tiny voice and stand-in networks whose results depend only on nearby samples, so that the engine can be judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from menura.effects.text import parsed
from menura.loading.loader import VoiceModels
from menura.loading.request import Request
from menura.models.config import SynthesizerConfig
from menura.models.synthesizer import Synthesizer
from menura.options import ConversionOptions
from menura.pipeline.conversion import Conversion
from menura.pipeline.engine import Failed, run_batch
from menura.pipeline.execute import Executor
from menura.pipeline.output import MemorySink
from menura.pipeline.progress import Worked
from menura.pipeline.recording import Recording
from menura.voices.library import VoiceEntry

if TYPE_CHECKING:
    from menura.types import FloatArray

DIM = 8


def tiny_config(
    *, has_f0: bool = True, rates: tuple[int, ...] = (5, 2, 2, 2), n_speakers: int = 3
) -> SynthesizerConfig:
    """A voice of a few thousand parameters; 4 kHz by default."""
    product = int(np.prod(rates))
    return SynthesizerConfig(
        spec_channels=65,
        segment_size_frames=32,
        inter_channels=4,
        hidden_channels=8,
        filter_channels=16,
        n_heads=2,
        n_layers=2,
        kernel_size=3,
        p_dropout=0.0,
        resblock="1",
        resblock_kernel_sizes=(3, 5),
        resblock_dilation_sizes=((1, 3), (1, 3)),
        upsample_rates=rates,
        upsample_initial_channel=16,
        upsample_kernel_sizes=tuple(2 * r + r % 2 for r in rates),
        n_speakers=n_speakers,
        gin_channels=4,
        sample_rate=product * 100,
        content_dim=DIM,
        version="v2",
        has_f0=has_f0,
        vocoder="HiFi-GAN",
        content_encoder="fake",
    )


def tiny_voice(config: SynthesizerConfig | None = None) -> Synthesizer:
    """Random weights from a fixed seed, loud enough to hear differences."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        net = Synthesizer(config or tiny_config())
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, 0.0, 0.25)
    return net.eval()


@dataclass(frozen=True, slots=True)
class FakeStatistics:
    """Mean square of a recording, as something a collector must get right."""

    power: float

    def scaled(self, gain: float) -> FakeStatistics:
        return FakeStatistics(self.power * gain * gain)


class FakeCollector:
    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def push(self, samples: FloatArray) -> None:
        self.total += float(np.sum(samples.astype(np.float64) ** 2))
        self.count += len(samples)

    def finish(self) -> FakeStatistics:
        return FakeStatistics(self.total / max(1, self.count))


class FakeEncoder:
    """Content = a fixed projection of each 320 samples, normalised by the recording's power."""

    name, dim, core_frames, context_frames, edge_frames, global_windows = "fake", DIM, 800, 100, 32, False

    def __init__(self) -> None:
        self.windows: list[int] = []
        generator = torch.Generator().manual_seed(3)
        self._projection = torch.randn(320, DIM, generator=generator) / 18

    def collector(self) -> FakeCollector:
        return FakeCollector()

    def encode(self, samples: Tensor, statistics: Sequence[FakeStatistics] | None) -> Tensor:
        self.windows.append(samples.shape[1])
        frames = max(0, (samples.shape[1] - 80) // 320)
        powers = [s.power for s in statistics] if statistics else samples.pow(2).mean(dim=1).tolist()
        scale = torch.tensor([1 / np.sqrt(p + 1e-8) for p in powers], dtype=torch.float32)[:, None, None]
        return samples[:, : frames * 320].reshape(len(samples), frames, 320) @ self._projection * scale


class FakeF0:
    """F0 = 100 to 300 Hz by the loudness of each frame; silence is unvoiced."""

    name, core_frames, context_frames = "fake", 1600, 80

    def __init__(self, threshold: float = 1e-4) -> None:
        self.windows: list[int] = []
        self._threshold = threshold

    def estimate(self, samples: Tensor) -> Tensor:
        self.windows.append(samples.shape[1])
        frames = samples.shape[1] // 160
        level = samples[:, : frames * 160].reshape(len(samples), frames, 160).abs().mean(dim=2)
        f0 = torch.where(level > self._threshold, 100 + 200 * level.clamp(max=1.0), torch.zeros(()))
        return torch.cat([f0, f0[:, -1:]], dim=1)


def tiny_models(*, has_f0: bool = True) -> VoiceModels:
    """A voice with stand-in analysis networks."""
    return VoiceModels(
        synthesizer=tiny_voice(tiny_config(has_f0=has_f0)),
        encoder=FakeEncoder(),
        f0=FakeF0() if has_f0 else None,
        index=None,
    )


def tiny_request(
    *, median_hz: float | None = None, f0_hz: FloatArray | None = None, has_f0: bool = True, **options: object
) -> Request:
    """A request for the tiny voice, whose files nobody reads, for what the engine makes, as loud as it comes."""
    file = Path(__file__)  # there must be some: they are part of a request's identity
    voice = VoiceEntry(name="tiny", path=file, index_path=None, builtin=False, source="", f0_median_hz=median_hz)
    return Request(
        options=ConversionOptions(**({"loudness": "voice"} | options)),  # type: ignore[arg-type]
        voice=voice,
        config=tiny_config(has_f0=has_f0),
        content_path=file,
        f0_method="fake" if f0_hz is None else "file",
        f0_hz=f0_hz,
        effects=parsed(str(options.get("effects", ""))),
    )


class TinyNetworks:
    """In a Loader's place: one set of networks, whatever is asked for."""

    device = torch.device("cpu")

    def __init__(self, models: VoiceModels | None = None) -> None:
        self.models = models or tiny_models()

    def load(self, _request: Request) -> VoiceModels:
        return self.models


def converted_alone(job: Conversion) -> FloatArray:
    """All samples of one conversion, without an engine."""
    executor, steps = Executor(TinyNetworks.device), job.steps()
    parts: list[FloatArray] = [np.zeros(0, dtype=np.float32)]
    answers: list[FloatArray] | None = None
    while True:
        try:
            step = steps.send(answers)
        except StopIteration:
            return np.concatenate(parts)
        answers = None
        if isinstance(step, np.ndarray):
            parts.append(step)
        if not isinstance(step, (np.ndarray, Worked)):
            answers = executor.execute(step)


def converted_together(
    recordings: Sequence[Recording], request: Request, models: VoiceModels, frame_budget: int = 100_000
) -> list[FloatArray | Exception]:
    """What becomes of recordings that an engine converts together: for each its sound, or what ended it."""
    sinks = [MemorySink() for _ in recordings]
    items = list(zip(recordings, sinks, strict=True))
    ends = run_batch(TinyNetworks(models), items, request, frame_budget=frame_budget)
    return [end.error if isinstance(end, Failed) else sink.joined() for end, sink in zip(ends, sinks, strict=True)]
