"""What an experiment is: its folder, its data, its networks, its schedule. Loads no torch."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from menura.errors import TrainingError
from menura.models.config import SynthesizerConfig

EXPERIMENT_FILE = "experiment.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class LossWeights:
    """How much each loss counts."""

    log_spectrum: float = 1.0
    """L1 of log magnitudes, over several resolutions."""
    mel: float = 2.0
    """L1 of log mel, over several resolutions."""
    convergence: float = 1.0
    """Relative error of magnitudes."""
    kl: float = 1.0
    """Distance of posterior and prior (objective "vits" only)."""
    adversarial: float = 1.0
    feature_matching: float = 2.0
    reconstruction_with_gan: float = 1.0
    """Scales the spectral losses once discriminators take part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long, how fast, in what portions."""

    steps: int = 12_000
    batch_size: int = 8
    row_frames: int = 200
    """Frames that the text encoder sees of each row."""
    learning_rate: float = 4e-4
    final_learning_rate: float = 1e-4
    """Reached by a half cosine over `steps`."""
    warmup_steps: int = 200
    gan_from_step: int | None = None
    """First step with discriminators; None for never."""
    discriminator_learning_rate: float = 2e-4
    discriminator_every: int = 1
    keep_average: float = 0.999
    """Decay of the weights' running average, which is what is exported."""
    save_every_steps: int = 250
    log_every_steps: int = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentMix:
    """Which of a clip's content features a row takes; the weights need not sum to 1."""

    own: float = 0.25
    aligned: float = 0.4
    """Another speaker's rendition with the same timing, where the data has one."""
    perturbed: float = 0.35
    """The clip resampled (other formants), filtered and in noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """All that decides what a training run computes."""

    synthesizer: SynthesizerConfig
    speakers: tuple[str, ...]
    objective: str = "direct"
    """"direct": sound straight from the prior, as in conversion; "vits": RVC's, through the posterior encoder."""
    seed: int = 0
    precision: str = "bf16"
    """"bf16" computes convolutions in bfloat16 (autocast), "fp32" all in float32."""
    weights: LossWeights = field(default_factory=LossWeights)
    schedule: Schedule = field(default_factory=Schedule)
    mix: ContentMix = field(default_factory=ContentMix)

    def __post_init__(self) -> None:
        """Raise TrainingError for what can't be trained."""
        if self.objective not in ("direct", "vits"):
            raise TrainingError(f"objective: '{self.objective}' is not one of direct, vits.")
        if self.precision not in ("bf16", "fp32"):
            raise TrainingError(f"precision: '{self.precision}' is not one of bf16, fp32.")
        if len(self.speakers) != self.synthesizer.n_speakers:
            raise TrainingError(
                f"{len(self.speakers)} speakers are named, the network has {self.synthesizer.n_speakers}."
            )


def starter_config(n_speakers: int, *, initial_channels: int = 256) -> SynthesizerConfig:
    """The starter pack's small architecture: 24 kHz, for 384 wide content."""
    return SynthesizerConfig(
        spec_channels=513,
        segment_size_frames=36,
        inter_channels=192,
        hidden_channels=128,
        filter_channels=512,
        n_heads=2,
        n_layers=4,
        kernel_size=3,
        p_dropout=0.0,
        resblock="1",
        resblock_kernel_sizes=(3, 7),
        resblock_dilation_sizes=((1, 3, 5), (1, 3, 5)),
        upsample_rates=(10, 6, 2, 2),
        upsample_initial_channel=initial_channels,
        upsample_kernel_sizes=(20, 12, 4, 4),
        n_speakers=n_speakers,
        gin_channels=256,
        sample_rate=24_000,
        content_dim=384,
        version="v2",
        has_f0=True,
        vocoder="HiFi-GAN",
        content_encoder="menura-starter",
    )


def save_experiment(folder: Path, experiment: Experiment) -> None:
    """Write `experiment.json`."""
    write_atomically(folder / EXPERIMENT_FILE, json.dumps(dataclasses.asdict(experiment), indent=1).encode())


def load_experiment(folder: Path) -> Experiment:
    """Read `experiment.json`.

    Raises:
        TrainingError: there is none, or it isn't valid.
    """
    path = folder / EXPERIMENT_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values["synthesizer"] = SynthesizerConfig(**_tuples(values["synthesizer"]))
        values["speakers"] = tuple(values["speakers"])
        for name, kind in (("weights", LossWeights), ("schedule", Schedule), ("mix", ContentMix)):
            values[name] = kind(**values.get(name, {}))
        return Experiment(**values)
    except FileNotFoundError as error:
        raise TrainingError(f"{folder}: no experiment; make one with 'menura train new'.") from error
    except (ValueError, TypeError, KeyError) as error:
        raise TrainingError(f"{path}: can't be read ({error}).") from error


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _tuple(value) for name, value in values.items()}


def _tuple(value: Any) -> Any:
    return tuple(_tuple(item) for item in value) if isinstance(value, list) else value


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    partial.write_bytes(data)
    partial.replace(path)
