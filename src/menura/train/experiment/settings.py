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
from typing import Any, TypeVar

from menura.errors import TrainingError
from menura.models.config import SOURCE_FILTER, SynthesizerConfig
from menura.options import PRECISIONS
from menura.system.files import read_small, replacing

EXPERIMENT_FILE = "experiment.json"
Made = TypeVar("Made")
_type_hints = functools.cache(typing.get_type_hints)


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
    longest_s: float | None = None
    """What a session may take, from its preparation on; then the voice is made of what there is. None for no end."""
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
    """How recordings become slices; what isn't explained is as in TrainingOptions."""

    dataset: str = ""
    """The folder of recordings when the experiment was made; not needed any more once they are prepared."""
    by_folder: bool = False
    """Each sub-folder of it is a speaker's."""
    rights: str = ""
    """Who recorded it and what allows its use; kept in the voice's card."""
    f0: str = "swift"
    slicing: str = "silence"
    slice_s: float = 8.0
    overlap_s: float = 0.3
    loudness: str = "none"
    high_pass: bool = True
    perturbed: int = 0
    """Perturbed content variants of each slice."""
    denoise: float = 0.0
    held_out: float = 0.0
    """Share of each speaker's slices that is kept for validation."""
    least_s: float = 0.0
    """Sound that a speaker's slices must have together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmStart:
    """Weights that training begins with; empty for random ones."""

    generator: str = ""
    """RVC's checkpoint of a generator ({model, ...}), or a voice file; below the experiment's folder."""
    discriminator: str = ""
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
    sharpness: float = 0.0
    """How much deeper formants become in the voice that is exported (Source-filter only)."""

    def __post_init__(self) -> None:
        """Raise TrainingError for what can't be trained."""
        direct, vocoder, n_speakers = self.objective == "direct", self.synthesizer.vocoder, self.synthesizer.n_speakers
        wrong = {
            f"the objective '{self.objective}' can't train {vocoder}: 'direct' trains {SOURCE_FILTER} only, 'vits' all "
            "else": direct != (vocoder == SOURCE_FILTER),
            "the objective 'direct' has no discriminators (gan_from_step)": (
                direct and self.schedule.gan_from_step is not None
            ),
            "a speaker's name must be a plain folder name": not all(map(is_one_part, self.speakers)),
            f"{len(self.speakers)} speakers are named, but the network has {n_speakers}": (
                len(self.speakers) != n_speakers
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
_ANY_COUNT, _COUNT, _SHARE = (0, 2**53), (1, 2**53), (0, 1)
_RANGES: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(("steps", "save_every_steps", "log_every_steps"), _COUNT),
    **dict.fromkeys(("warmup_steps", "gan_from_step", "evaluate_every_steps", "patience"), _ANY_COUNT),
    **dict.fromkeys(("final_learning_rate", "keep_average", "denoise", "sharpness"), _SHARE),
    **dict.fromkeys(("learning_rate", "discriminator_learning_rate"), (1e-12, 1)),
    "batch_size": (1, 1024),
    "row_frames": (16, 10_000),
    "keep_last": (1, 1000),
    "max_gradient": (1e-6, 1e9),
    "slice_s": (1, 30),
    "overlap_s": (0, 15),
    "perturbed": (0, 16),
    "held_out": (0, 0.9),
    "least_s": (0, 1e6),
    "longest_s": (1, 1e9),
    "seed": (0, 2**63 - 1),
    "own": (1e-6, 1e6),  # every slice has its own content, so that there is always one to draw
}
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "objective": ("direct", "vits"),
    "precision": PRECISIONS,
    "slicing": ("silence", "chunks", "none"),
    "loudness": ("none", "before", "after"),
    "f0": ("rmvpe", "fcpe", "swift"),
}


def save_experiment(folder: Path, experiment: Experiment) -> None:
    write_dataclass(folder / EXPERIMENT_FILE, experiment)


def load_experiment(folder: Path) -> Experiment:
    path = folder / EXPERIMENT_FILE
    try:
        return read_dataclass(Experiment, path, most_bytes=4 << 20)
    except FileNotFoundError as error:
        raise TrainingError(folder, "no experiment here", "Make one with 'menura train new'") from error
    except TrainingError as error:
        raise TrainingError(path, error.problem, error.advice) from error
    except (OSError, ValueError) as error:
        raise TrainingError(path, f"not a valid experiment ({error})") from error


def write_dataclass(path: Path, made: Any) -> None:
    write_atomically(path, json.dumps(dataclasses.asdict(made), indent=1).encode())


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as partial:
        partial.write_bytes(data)


def read_dataclass(kind: Callable[..., Made], path: Path, *, most_bytes: int) -> Made:
    """A dataclass from a JSON file; its fields are checked, as files are edited by hand and come from others.

    Raises:
        OSError, ValueError, TrainingError: it can't be read, is none, or has impossible values.
    """
    try:
        made: Made = _built(kind, json.loads(read_small(path, most_bytes).decode()))
    except (TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(str(error)) from error
    return made


def _built(kind: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    hints = _type_hints(kind)  # a name that has none is refused by the dataclass
    known = {name: value for name, value in values.items() if name not in _WITHDRAWN}
    return kind(**{name: _checked(name, value, hints.get(name, object)) for name, value in known.items()})


def _checked(name: str, value: Any, hint: Any) -> Any:
    """The value, in the dataclasses and tuples that the hint names."""
    if dataclasses.is_dataclass(hint):
        return _built(hint, value)  # type: ignore[arg-type]
    kinds = typing.get_args(hint) or (hint,)
    if typing.get_origin(hint) is tuple:
        if isinstance(value, list):
            return tuple(_checked(name, item, kinds[0]) for item in value)
        kinds = (list,)
    truth = isinstance(value, bool)
    if not isinstance(value, (*kinds, int) if float in kinds else kinds) or (truth and bool not in kinds):
        raise TypeError(f"{name}: {reprlib.repr(value)} is not of type {getattr(hint, '__name__', hint)}")
    low, high = _RANGES.get(name, (-1e12, 1e12))
    if isinstance(value, (int, float)) and not truth and not low <= value <= high:  # NaN is in no range
        raise ValueError(f"{name}: {reprlib.repr(value)} is outside {low:g} to {high:g}")
    if value not in _CHOICES.get(name, (value,)):
        raise ValueError(f"{name}: {reprlib.repr(value)} is not one of {', '.join(_CHOICES[name])}")
    return value
