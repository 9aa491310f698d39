"""An experiment of a few thousand parameters, with features made of noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from menura.content.registry import RecordingStatistics
from menura.models.config import rvc_config, small_config
from menura.train.data.features import ClipFeatures, save_features
from menura.train.events import Stepped, ignore
from menura.train.experiment.settings import FILTER_WEIGHTS, RVC_WEIGHTS, Experiment, Schedule
from menura.train.run.trainer import Trainer, open_trainer

if TYPE_CHECKING:
    from menura.types import FloatArray

DIM = 12
CPU = torch.device("cpu")


SCHEDULE = Schedule(steps=20, batch_size=2, row_frames=40, warmup_steps=2, log_every_steps=1, save_every_steps=2)


def tiny_experiment(**changes: Any) -> Experiment:
    """Menura's small network, a few thousand weights of it."""
    config = dataclasses.replace(
        small_config(24_000, 2), spec_channels=257, segment_size_frames=12, **tiny_filters(), content_dim=DIM
    )
    values = {"synthesizer": config, "objective": "direct", "weights": FILTER_WEIGHTS}
    return _experiment(values | changes)


def tiny_rvc(**changes: Any) -> Experiment:
    """RVC's network and objective; its discriminators are as wide as they are."""
    config = rvc_config("v2", 24_000, 2, content="menura-starter", has_f0=True, vocoder="HiFi-GAN")
    config = dataclasses.replace(config, spec_channels=257, segment_size_frames=12, **tiny_network(), content_dim=DIM)
    values = {"synthesizer": config, "objective": "vits", "weights": RVC_WEIGHTS}
    return _experiment(values | changes)


def _experiment(changes: dict[str, Any]) -> Experiment:
    values = {"speakers": ("anna", "bert"), "schedule": SCHEDULE, "seed": 3, "precision": "fp32"}
    return Experiment(**(values | changes))


def clip(speaker: str, seed: int, frames: int = 120) -> ClipFeatures:
    rng = np.random.default_rng(seed)
    content = {
        kind: torch.from_numpy(rng.normal(size=(2, frames // 2, DIM))).to(torch.float16)
        for kind in ("own", "aligned", "perturbed")
    }
    audio = torch.from_numpy((rng.normal(size=frames * 240) * 3000).astype(np.int16))
    f0_hz = torch.from_numpy(rng.uniform(100, 200, frames).astype(np.float32))
    return ClipFeatures(speaker=speaker, audio=audio, f0_hz=f0_hz, content=content)


def write_features(folder: Path) -> None:
    for seed, speaker in enumerate(("anna", "bert", "bert")):
        save_features(folder / "features" / f"{seed}.{speaker}.safetensors", clip(speaker, seed))


def run(folder: Path, until: int) -> Trainer:
    trainer = open_trainer(folder, CPU)
    trainer.run(folder, until_step=until, on_event=ignore)
    return trainer


class Heard(list[Any]):
    """Keeps events of one kind."""

    def __init__(self, kind: type = Stepped) -> None:
        self.kind = kind

    def __call__(self, event: object) -> None:
        if isinstance(event, self.kind):
            self.append(event)


def tiny_filters() -> dict[str, Any]:
    """What makes the small network tiny, whatever its rates."""
    return tiny_network() | {"resblock_kernel_sizes": (7, 5), "resblock_dilation_sizes": ((1,), (1,))}


def tiny_network() -> dict[str, Any]:
    """What makes RVC's networks tiny, whatever their rates."""
    return {
        "inter_channels": 8,
        "hidden_channels": 8,
        "filter_channels": 16,
        "n_layers": 1,
        "resblock_kernel_sizes": (3,),
        "resblock_dilation_sizes": ((1, 3, 5),),
        "upsample_initial_channel": 16,
        "gin_channels": 8,
    }


class FakeEncoder:
    """Every value of a vector is the mean of the samples it stands for."""

    name, core_frames, context_frames, edge_frames, global_windows = "fake", 800, 100, 100, True

    def __init__(self, dim: int = DIM) -> None:
        self.dim = dim

    @property
    def resident_bytes(self) -> int:
        return 0

    def collector(self) -> FakeEncoder:
        return self

    def push(self, samples: FloatArray) -> None:
        pass

    def finish(self) -> FakeEncoder:
        return self

    def scaled(self, gain: float) -> FakeEncoder:
        return self

    def encode(self, samples: torch.Tensor, statistics: Sequence[RecordingStatistics] | None) -> torch.Tensor:
        vectors = samples[:, : samples.shape[1] // 320 * 320].unflatten(1, (-1, 320)).mean(dim=2)
        return vectors[:, :, None].repeat(1, 1, self.dim)


RVC_CONFIG: dict[str, Any] = {
    "train": {"segment_size": 12_800, "batch_size": 4, "learning_rate": 1e-4},
    "data": {"sampling_rate": 40_000, "filter_length": 1024, "hop_length": 400, "win_length": 2048},
    "model": {
        "inter_channels": 64,
        "hidden_channels": 96,
        "filter_channels": 384,
        "n_heads": 4,
        "n_layers": 3,
        "kernel_size": 3,
        "p_dropout": 0,
        "resblock": "2",
        "resblock_kernel_sizes": [3, 5],
        "resblock_dilation_sizes": [[1, 2], [2, 6]],
        "upsample_rates": [10, 8, 5],
        "upsample_initial_channel": 128,
        "upsample_kernel_sizes": [20, 16, 11],
        "use_spectral_norm": False,
        "gin_channels": 32,
        "spk_embed_dim": 109,
    },
}
"""A config file as RVC's training has it, of an odd network."""
