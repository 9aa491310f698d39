"""How one long recording scales with the actors of a Ray cluster, where networks only take time, as on devices.

    python -m benchmarks.scale [--minutes 21] [--workers 4 1]

The cluster is Ray's, local, with a CPU for each actor, whatever this machine has. In the networks' place actors sleep,
as if each had a device; all else is done. Both times are the file's, with all actors loaded before.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import soundfile
import torch
from torch import Tensor

from benchmarks.host import STARTER_VOICE, FreeEncoder, FreeF0, FreeVoice
from menura.checkpoints.voice import load_voice
from menura.content.starter import StarterEncoder
from menura.f0.swift import SwiftEstimator
from menura.jobs import ray as cluster
from menura.jobs.scheduler import Message, share
from menura.loading.loader import Loader, VoiceModels
from menura.loading.request import Request
from menura.options import ConversionOptions, EngineOptions
from menura.types import FileResult, Item, State
from menura.voices.library import VoiceEntry

RATE = 16_000
CONTENT, F0, VOICE = 0.03, 0.02, 0.03
"""Seconds that networks take for a second of sound: together about a full-size voice's on some cores of a CPU."""


class SlowEncoder(FreeEncoder):
    def encode(self, samples: Tensor, statistics: Any) -> Tensor:
        time.sleep(CONTENT * samples.numel() / RATE)
        return super().encode(samples, statistics)


class SlowF0(FreeF0):
    def estimate(self, samples: Tensor) -> Tensor:
        time.sleep(F0 * samples.numel() / RATE)
        return super().estimate(samples)


class SlowVoice(FreeVoice):
    def decode_tiled(self, z: Tensor, g: Tensor, source: Tensor | None, core: tuple[int, int]) -> Tensor:
        time.sleep(VOICE * len(z) * (core[1] - core[0]) / 100)
        return super().decode_tiled(z, g, source, core)


def slow_models() -> VoiceModels:
    """A starter voice's, that take time and compute nothing."""
    config = load_voice(STARTER_VOICE).config
    voice: Any = SlowVoice(config, torch.device("cpu"))
    encoder, f0 = SlowEncoder(StarterEncoder, config.content_dim), SlowF0(SwiftEstimator)
    return VoiceModels(synthesizer=voice, encoder=encoder, f0=f0, index=None)


class SlowWorker(cluster.ClusterWorker):
    """In an actor: a worker with such networks."""

    def load(self) -> Iterator[Message]:
        models = slow_models()
        patch.object(Loader, "_load", lambda _loader, _request: models).start()  # in this process, for good
        yield from super().load()


class Assembled(cluster.Actors):
    """Actors that begin when all have loaded."""

    _met = False

    def wait(self, links: Sequence[cluster.Actor], timeout_s: float) -> list[cluster.Actor]:
        if not self._met:
            self._ray.wait([link.answer for link in links], num_returns=len(links))
            self._met = True
        return super().wait(links, timeout_s)


def request_in(folder: Path) -> Request:
    """For the voice that isn't there."""
    path = folder / "voice"
    path.touch()
    voice = VoiceEntry(name="slow", path=path, index_path=None, builtin=False, source="", f0_median_hz=None)
    options = ConversionOptions(format="wav")
    config = load_voice(STARTER_VOICE).config
    return Request(options=options, voice=voice, config=config, content_path=path, f0_method="slow", f0_hz=None)


def converted(ray: Any, item: Item, request: Any, workers: int) -> FileResult:
    """What becomes of a recording that so many actors share."""
    with patch.object(cluster, "ClusterWorker", SlowWorker):
        actors = Assembled(ray, request, EngineOptions(threads=1, device="cpu"), gpus=0)
    (result,) = share([item], actors, workers=workers, request=request).files
    assert result.state is State.DONE, result.error
    return result


def measured(minutes: float, counts: Sequence[int]) -> Iterator[tuple[int, FileResult]]:
    """What so many actors made of a recording that is so long; the same sound, each time."""
    root = str(Path(__file__).resolve().parent.parent)
    os.environ["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory() as name, patch.object(cluster, "physical_cores", lambda: max(counts)):
        folder = Path(name)
        sound = np.random.default_rng(1).standard_normal(round(60 * minutes * RATE)).astype(np.float32)
        soundfile.write(folder / "long.wav", 0.1 * sound, RATE)
        outputs = [folder / f"{count}.wav" for count in counts]
        with cluster.connected("local") as ray:
            for count, output in zip(counts, outputs, strict=True):
                item = Item(source=folder / "long.wav", output=output)
                yield count, converted(ray, item, request_in(folder), count)
        assert all(filecmp.cmp(outputs[0], output, shallow=False) for output in outputs)


def main() -> None:
    """Print the times, and how they scale."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=21.0, help="length of the recording")
    parser.add_argument("--workers", type=int, nargs="+", default=[4, 1], help="how many actors share it, each time")
    asked = parser.parse_args()
    took_s = dict[int, float]()
    for count, result in measured(asked.minutes, asked.workers):
        took_s[count] = result.wall_s
        print(f"{count} actors, {result.parts} parts: {result.wall_s:7.2f} s; {result.stages}", flush=True)
    fewest = min(took_s)
    for count in sorted({*took_s} - {fewest}):
        print(f"{count} actors are {took_s[fewest] / took_s[count]:.2f} times as fast as {fewest}")


if __name__ == "__main__":
    main()
