"""What the computing thread itself takes on a GPU, where the networks take nothing: milliseconds a second of sound.

    python -m benchmarks.host [--profile]

The GPU is pretended (tests/support), the networks are stand-ins of the real ones' shapes, and whatever else is given to
the device is taken out of the time. What is left is what the host does in the thread that feeds the device: it bounds
the speed however fast that is. The least CPU time of three runs.
"""

from __future__ import annotations

import argparse
import cProfile
import dataclasses
import importlib
import pstats
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from benchmarks.full_size import INDEX_VECTORS, V2_40K
from menura.checkpoints.voice import load_voice
from menura.content.contentvec import ContentVec, MomentCollector
from menura.content.registry import STARTER_WEIGHTS
from menura.content.starter import StarterEncoder
from menura.f0.networks import RmvpeEstimator
from menura.f0.swift import SwiftEstimator
from menura.loading.loader import VoiceModels
from menura.loading.request import Request
from menura.models.config import SOURCE_FILTER, SynthesizerConfig
from menura.models.synthesizer import Synthesizer
from menura.options import ConversionOptions
from menura.pipeline.engine import Done, run_batch
from menura.pipeline.output import FileSink
from menura.pipeline.recording import ArrayRecording
from menura.retrieval.faiss_index import FaissIndex, build_index
from menura.retrieval.torch_index import TorchIndex
from menura.types import Prior
from menura.voices.library import VoiceEntry

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
pretended_gpu: Any = importlib.import_module("support.pretended_gpu")

RATE = 16_000
STARTER_VOICE = STARTER_WEIGHTS.parent / "voices" / "wren" / "voice.safetensors"
TRIES = 3
RECORDINGS = {"5 minutes": (300.0,), "12 x 5 s": (5.0,) * 12}


class FreeEncoder:
    """A content encoder that says nothing."""

    global_windows, resident_bytes = False, 0

    def __init__(self, like: type[Any], dim: int) -> None:
        self.name, self.dim = "free", dim
        self.core_frames, self.context_frames = like.core_frames, like.context_frames
        self.edge_frames = like.edge_frames
        self.collector = MomentCollector

    def encode(self, samples: Tensor, _statistics: Any) -> Tensor:
        return samples.new_zeros(len(samples), (samples.shape[1] - 80) // 320, self.dim)


class FreeF0:
    """An F0 network that always hears the same."""

    resident_bytes = 0

    def __init__(self, like: type[Any]) -> None:
        self.name, self.core_frames, self.context_frames = "free", like.core_frames, like.context_frames

    def estimate(self, samples: Tensor) -> Tensor:
        return samples.new_full((len(samples), samples.shape[1] // 160 + 1), 150.0)


class FreeVoice:
    """A voice that is silent."""

    resident_bytes = 0

    def __init__(self, config: SynthesizerConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        with torch.device("meta"):
            real = Synthesizer(config)
        self.flow_context_frames, self.decode_context_frames = real.flow_context_frames, real.decode_context_frames
        self.needs_noise = config.vocoder == SOURCE_FILTER

    def condition(self, speaker_id: Tensor) -> Tensor:
        return speaker_id.new_zeros(len(speaker_id), self.config.gin_channels, 1, dtype=torch.float32)

    def encode(self, content: Tensor, _coarse: Tensor | None, _lengths: Tensor | None, _reach: int | None) -> Prior:
        zeros = content.new_zeros(len(content), self.config.inter_channels, content.shape[1])
        return Prior(mean=zeros, log_scale=zeros, mask=None)

    def reverse_flow(self, z_p: Tensor, _mask: Tensor | None, _g: Tensor) -> Tensor:
        return z_p

    def source(self, f0_hz: Tensor, _phase_cycles: Tensor, _noise: Tensor | None, _noise_scale: float) -> Tensor:
        return f0_hz

    def decode_tiled(self, z: Tensor, _g: Tensor, _source: Tensor | None, core: tuple[int, int]) -> Tensor:
        return z.new_zeros(len(z), (core[1] - core[0]) * self.config.frame_samples)


@dataclasses.dataclass(frozen=True)
class Networks:
    """In a Loader's place."""

    models: VoiceModels
    device: torch.device

    def load(self, _request: Request) -> VoiceModels:
        return self.models


class DeviceTime:
    """CPU time of what is given to the device, in the thread that made this: there it would take next to none."""

    def __init__(self) -> None:
        self.seconds, self.calls = 0.0, 0
        self._thread, self._inside = threading.get_ident(), False

    @contextmanager
    def counted(self) -> Iterator[None]:
        """While it's in place, what of torch has to do with the device counts."""
        with pytest.MonkeyPatch.context() as patch:
            self._wrap(patch, pretended_gpu._OnTheDevice, "__torch_function__", lambda given: _concerns_it(given[1:]))
            self._wrap(patch, pretended_gpu.PretendedEvent, "synchronize", lambda _given: True)
            yield

    def _wrap(self, patch: pytest.MonkeyPatch, owner: type, name: str, counts: Callable[[Any], bool]) -> None:
        plain = getattr(owner, name)

        def timed(*given: Any) -> Any:
            if self._inside or threading.get_ident() != self._thread:
                return plain(*given)
            start_s = time.thread_time()
            if not counts(given):
                self.seconds += time.thread_time() - start_s
                return plain(*given)
            self._inside = True
            try:
                return plain(*given)
            finally:
                self._inside = False
                self.seconds += time.thread_time() - start_s
                self.calls += 1

        patch.setattr(owner, name, timed)


def _concerns_it(given: Any) -> bool:
    """Whether a call has tensors on the device, or asks for some there."""
    _, _, args, kwargs = (*given, (), {})[:4]
    kwargs = kwargs or {}
    leaves = tree_leaves((args, list(kwargs.values())))
    return kwargs.get("pin_memory", False) or any(
        isinstance(leaf, pretended_gpu.PretendedTensor) or (isinstance(leaf, torch.device) and leaf.type == "cuda")
        for leaf in leaves
    )


def full_size(device: torch.device, folder: Path) -> VoiceModels:
    """A v2 40k voice with ContentVec, RMVPE and an index."""
    path = folder / "bench.index"
    if not path.exists():
        vectors = np.random.default_rng(0).standard_normal((INDEX_VECTORS, 768)).astype(np.float32)
        path.write_bytes(build_index(vectors).data)
    encoder, f0 = FreeEncoder(ContentVec, 768), FreeF0(RmvpeEstimator)
    network: Any = FreeVoice(V2_40K, device)
    index = TorchIndex(FaissIndex.load(path), device)
    return VoiceModels(synthesizer=network, encoder=encoder, f0=f0, index=index)


def starter(device: torch.device, _folder: Path) -> VoiceModels:
    """A starter voice, with the starter encoder and SwiftF0."""
    config = load_voice(STARTER_VOICE).config
    encoder, f0 = FreeEncoder(StarterEncoder, config.content_dim), FreeF0(SwiftEstimator)
    network: Any = FreeVoice(config, device)
    return VoiceModels(synthesizer=network, encoder=encoder, f0=f0, index=None)


def measured(models: VoiceModels, lengths_s: Sequence[float], folder: Path, profile: cProfile.Profile | None) -> float:
    """Milliseconds of this thread a second of sound."""
    sound = np.random.default_rng(1).standard_normal(round(max(lengths_s) * RATE)).astype(np.float32) * np.float32(0.1)
    items = [
        (ArrayRecording(sound[: round(seconds * RATE)], RATE), FileSink(folder / f"{number}.wav"))
        for number, seconds in enumerate(lengths_s)
    ]
    voice = VoiceEntry(name="free", path=folder / "free", index_path=None, builtin=False, source="", f0_median_hz=None)
    request = Request(
        options=ConversionOptions(),
        voice=voice,
        config=models.synthesizer.config,
        content_path=folder,
        f0_method="free",
        f0_hz=None,
    )
    networks: Any = Networks(models, models.synthesizer.device)
    device_time = DeviceTime()
    with device_time.counted(), profile or nullcontext():
        start_s = time.thread_time()
        ends = run_batch(networks, items, request)
        took_s = time.thread_time() - start_s
    assert all(isinstance(end, Done) for end in ends)
    return 1000 * (took_s - device_time.seconds) / sum(lengths_s)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--profile", action="store_true", help="also print where the time goes (it takes longer then)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, pretended_gpu.pretended_gpu(total_bytes=24 << 30, shapes_only=True):
        folder = Path(name)
        for voice in (full_size, starter):
            models = voice(pretended_gpu.CUDA, folder)
            for title, lengths_s in RECORDINGS.items():
                least = min(measured(models, lengths_s, folder, None) for _ in range(TRIES))
                print(f"{voice.__name__:10} {title:10} {least:6.2f} ms/s", flush=True)
                if asked.profile:
                    profile = cProfile.Profile()
                    measured(models, lengths_s, folder, profile)
                    pstats.Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
