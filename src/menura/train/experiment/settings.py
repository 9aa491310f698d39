"""What decides a training run, kept as `experiment.json`: data, networks, losses, schedule. Loads no torch."""

from __future__ import annotations

import dataclasses
import functools
import json
import reprlib
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from menura.errors import TrainingError
from menura.models.config import SynthesizerConfig
from menura.models.sizes import SOURCE_FILTER
from menura.options import PRECISIONS
from menura.system.files import read_small, replacing

EXPERIMENT_FILE = "experiment.json"
_LONGEST_FILE_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LossWeights:
    log_spectrum: float = 1.0
    """L1 of log magnitudes, over several resolutions."""
    mel: float = 2.0
    """L1 of log mel: over several resolutions, or at RVC's one (objective "vits")."""
    convergence: float = 1.0
    """Relative error of magnitudes."""
    kl: float = 1.0
    """Distance of posterior and prior (objective "vits" only)."""
    adversarial: float = 1.0
    feature_matching: float = 2.0


FILTER_WEIGHTS = LossWeights(log_spectrum=1.0, mel=3.0, convergence=1.0)
"""For the small network, which is trained straight from the prior."""
RVC_WEIGHTS = LossWeights(log_spectrum=0.0, mel=45.0, convergence=0.0)
"""RVC's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long, how fast, in what portions."""

    steps: int = 12_000
    batch_size: int = 8
    row_frames: int = 200
    """Longest stretch of a slice that a row of the batch takes."""
    learning_rate: float = 4e-4
    final_learning_rate: float = 1e-4
    """Reached by a half cosine over `steps`."""
    warmup_steps: int = 200
    gan_from_step: int | None = None
    """First step with discriminators (objective "vits" only); None for never."""
    discriminator_learning_rate: float = 2e-4
    keep_average: float = 0.999
    """Decay of the weights' running average, which is what is exported."""
    save_every_steps: int = 250
    log_every_steps: int = 25
    keep_last: int = 1
    """Checkpoints kept: the newest is `checkpoint.pt`, the one before it `checkpoint.1.pt`, and so on."""
    evaluate_every_steps: int | None = None
    """How often the validation slices are measured and previewed; None for never."""
    patience: int | None = None
    """Validations without improvement after which training stops; None for never."""
    max_gradient: float = 5.0
    """The generator's gradient is scaled down to this norm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentMix:
    """Which of a clip's content features a row takes; the weights need not sum to 1."""

    own: float = 0.25
    aligned: float = 0.4
    """Another speaker's rendition with the same timing, where the data has one."""
    perturbed: float = 0.35
    """The clip resampled (other formants), filtered and in noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings:
    dataset: str = ""
    """The folder of recordings when the experiment was made; not needed any more once they are prepared."""
    by_folder: bool = False
    """True if each sub-folder of it is a speaker's."""
    rights: str = ""
    """Who recorded it and what allows its use; kept in the voice's card."""
    f0: str = "swift"
    slicing: str = "silence"
    """"silence", "chunks" or "none"."""
    slice_s: float = 8.0
    """Longest slice; the length of chunks."""
    overlap_s: float = 0.3
    """Of chunks."""
    loudness: str = "none"
    """Normalised "before" slicing (each recording), "after" it (each slice), or not at all: "none"."""
    high_pass: bool = True
    perturbed: int = 0
    """Perturbed content variants of each slice."""
    denoise: float = 0.0
    """Strength of the noise reduction, 0 to 1; 0 for none."""
    held_out: float = 0.0
    """Share of each speaker's slices that is kept for validation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmStart:
    """Weights that training begins with; empty for random ones."""

    generator: str = ""
    """RVC's checkpoint of a generator ({model, ...}), or a voice file; below the experiment's folder."""
    discriminator: str = ""
    """RVC's checkpoint of the discriminators, likewise."""
    origin: str = ""
    """What the generator's file was called; for the card."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """All that decides what a training run computes."""

    synthesizer: SynthesizerConfig
    speakers: tuple[str, ...]
    objective: str = "direct"
    """"direct": sound straight from the prior, as in conversion; "vits": RVC's, through the posterior encoder."""
    seed: int = 0
    precision: str = "bf16"
    """"bf16" and "fp16" compute most of the networks in 16 bits (autocast), "fp32" all in float32."""
    weights: LossWeights = field(default_factory=LossWeights)
    schedule: Schedule = field(default_factory=Schedule)
    mix: ContentMix = field(default_factory=ContentMix)
    gradient_checkpointing: bool = False
    """Compute the decoder's residual blocks again in the backward pass instead of keeping their outputs."""
    data: DataSettings = field(default_factory=DataSettings)
    warm_start: WarmStart = field(default_factory=WarmStart)

    def __post_init__(self) -> None:
        """Raise TrainingError for what can't be trained."""
        direct = self.objective == "direct"
        wrong = {
            f"objective '{self.objective}' is not one of direct, vits": self.objective not in ("direct", "vits"),
            f"precision '{self.precision}' is not one of {', '.join(PRECISIONS)}": self.precision not in PRECISIONS,
            f"the objective 'direct' trains {SOURCE_FILTER} only, not {self.synthesizer.vocoder}": (
                direct and self.synthesizer.vocoder != SOURCE_FILTER
            ),
            f"the objective 'vits' can't train {SOURCE_FILTER}": (
                not direct and self.synthesizer.vocoder == SOURCE_FILTER
            ),
            "the objective 'direct' has no discriminators (gan_from_step)": (
                direct and self.schedule.gan_from_step is not None
            ),
            "a speaker's name must be a plain folder name": not all(is_one_part(name) for name in self.speakers),
            f"{len(self.speakers)} speakers are named, but the network has {self.synthesizer.n_speakers}": (
                len(self.speakers) != self.synthesizer.n_speakers
            ),
        }
        for problem, holds in wrong.items():
            if holds:
                raise TrainingError(None, problem, "Make a new experiment with 'menura train new'")


def is_one_part(name: str) -> bool:
    """Whether a name is a file's or folder's, leads nowhere else, and can be written in UTF-8."""
    fine = name not in ("", ".", "..") and "\0" not in name and Path(name).name == name
    return fine and not any("\ud800" <= letter <= "\udfff" for letter in name)


_WITHDRAWN = {
    "discriminators", "periodicity", "reconstruction_with_gan", "discriminators_alone_steps", "discriminator_every",
    "even_upsampling_from_step", "even_upsampling_over_steps",
}  # fmt: skip
"""Fields of earlier versions. They had an effect with the small HiFi-GAN only, which `Experiment` refuses."""
_RANGES: Mapping[str, tuple[float, float]] = {
    "steps": (1, 2**53),
    "batch_size": (1, 1024),
    "row_frames": (16, 10_000),
    "learning_rate": (1e-12, 1),
    "final_learning_rate": (0, 1),
    "discriminator_learning_rate": (1e-12, 1),
    "warmup_steps": (0, 2**53),
    "gan_from_step": (0, 2**53),
    "keep_average": (0, 1),
    "save_every_steps": (1, 2**53),
    "log_every_steps": (1, 2**53),
    "keep_last": (1, 1000),
    "evaluate_every_steps": (0, 2**53),
    "patience": (0, 2**53),
    "max_gradient": (1e-6, 1e9),
    "slice_s": (1, 30),
    "overlap_s": (0, 15),
    "perturbed": (0, 16),
    "denoise": (0, 1),
    "held_out": (0, 0.9),
    "seed": (0, 2**63 - 1),
    "own": (1e-6, 1e6),  # every slice has its own content, so that there is always one to draw
}
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "slicing": ("silence", "chunks", "none"),
    "loudness": ("none", "before", "after"),
    "f0": ("rmvpe", "fcpe", "swift"),
}


def save_experiment(folder: Path, experiment: Experiment) -> None:
    write_atomically(folder / EXPERIMENT_FILE, json.dumps(dataclasses.asdict(experiment), indent=1).encode())


def load_experiment(folder: Path) -> Experiment:
    path = folder / EXPERIMENT_FILE
    try:
        made: Experiment = built(Experiment, json.loads(read_small(path, _LONGEST_FILE_BYTES).decode()))
    except FileNotFoundError as error:
        raise TrainingError(folder, "no experiment here", "Make one with 'menura train new'") from error
    except TrainingError as error:
        raise TrainingError(path, error.problem, error.advice) from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise TrainingError(path, f"not a valid experiment ({error})") from error
    return made


def built(kind: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    """A dataclass from what JSON holds; its fields are checked, as files are edited by hand and come from others."""
    hints = _hints(kind)
    return kind(**{name: _checked(name, v, hints.get(name)) for name, v in values.items() if name not in _WITHDRAWN})


@functools.cache
def _hints(kind: Callable[..., Any]) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _checked(name: str, value: Any, hint: Any) -> Any:
    """The value, in the dataclasses and tuples that the hint names; None is the hint of an unknown name."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return built(hint, value)
    kinds = typing.get_args(hint) or (hint,)
    if typing.get_origin(hint) is tuple:
        if isinstance(value, list):
            return tuple(_checked(name, item, kinds[0]) for item in value)
        kinds = (list,)
    if hint is not None and not any(_fits(value, kind) for kind in kinds):
        raise TypeError(f"{name}: {reprlib.repr(value)} is not of type {getattr(hint, '__name__', hint)}")
    low, high = _RANGES.get(name, (-1e12, 1e12))
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and not low <= value <= high:  # NaN is in no range
        raise ValueError(f"{name}: {reprlib.repr(value)} is outside {low:g} to {high:g}")
    if value not in _CHOICES.get(name, (value,)):
        raise ValueError(f"{name}: {reprlib.repr(value)} is not one of {', '.join(_CHOICES[name])}")
    return value


def _fits(value: Any, kind: type) -> bool:
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, kind)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as partial:
        partial.write_bytes(data)
