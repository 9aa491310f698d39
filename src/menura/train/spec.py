"""What an experiment is: its folder, its data, its networks, its schedule. Loads no torch."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from menura.errors import TrainingError
from menura.models.config import SynthesizerConfig
from menura.models.sizes import SOURCE_FILTER, small_config
from menura.options import PRECISIONS
from menura.system.files import replacing

EXPERIMENT_FILE = "experiment.json"
DIRECT_VOCODERS = ("HiFi-GAN", SOURCE_FILTER)
"""What the objective 'direct' can train."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossWeights:
    """How much each loss counts."""

    log_spectrum: float = 1.0
    """L1 of log magnitudes, over several resolutions."""
    mel: float = 2.0
    """L1 of log mel, over several resolutions."""
    convergence: float = 1.0
    """Relative error of magnitudes."""
    periodicity: float = 0.0
    """Bands' autocorrelations at the pitch and at the frame rate."""
    kl: float = 1.0
    """Distance of posterior and prior (objective "vits" only)."""
    adversarial: float = 1.0
    feature_matching: float = 2.0
    reconstruction_with_gan: float = 1.0
    """Scales the spectral losses once discriminators take part."""


DIRECT_WEIGHTS = LossWeights(
    log_spectrum=0.3,
    mel=3.0,
    convergence=2.0,
    periodicity=6.0,
    adversarial=4.0,
    feature_matching=10.0,
    reconstruction_with_gan=1.5,
)
"""For the small network with HiFi-GAN that is trained straight from the prior."""

FILTER_WEIGHTS = dataclasses.replace(DIRECT_WEIGHTS, log_spectrum=1.0, convergence=1.0, periodicity=0.0)
"""For the one with filters, whose harmonics need no loss of their own."""


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
    discriminators_alone_steps: int = 0
    """Of the steps with discriminators the first ones, in which only they learn: what is at chance teaches nothing."""
    discriminator_learning_rate: float = 2e-4
    discriminator_every: int = 1
    keep_average: float = 0.999
    """Decay of the weights' running average, which is what is exported."""
    save_every_steps: int = 250
    log_every_steps: int = 25
    keep_last: int = 1
    """Checkpoints kept: the newest is `checkpoint.pt`, the one before it `checkpoint.1.pt`, and so on."""
    evaluate_every_steps: int | None = None
    """How often held-out slices are measured and previewed; None for never."""
    patience: int | None = None
    """Measurements of held-out slices without a better one after which training stops; None for never."""
    max_gradient: float = 5.0
    """The generator's gradient is scaled down to this norm."""
    even_upsampling_from_step: int | None = None
    """From this step on the decoder's first upsampling is kept free of a pattern of its own; None for never."""
    even_upsampling_over_steps: int = 0
    """Steps over which what there is of it is taken out; 0: at once."""

    def even_part(self, step: int) -> float:
        """Which part of the upsampling's own pattern goes after this step: all of it in equal portions."""
        begin = self.even_upsampling_from_step
        if begin is None or step < begin:
            return 0.0
        return 1 / max(1, begin + self.even_upsampling_over_steps - step)


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
    """What is learnt from, and how it is cut."""

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
    """Content variants a slice gets as if another throat had spoken it in another room."""
    denoise: float = 0.0
    """Strength of the noise reduction, 0 to 1; 0 for none."""
    held_out: float = 0.0
    """Share of each speaker's slices that is kept for measuring."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmStart:
    """Weights that training begins with; empty for random ones."""

    generator: str = ""
    """RVC's training state of a generator ({model, ...}), or a voice file; below the experiment's folder."""
    discriminator: str = ""
    """RVC's training state of the discriminators, likewise."""
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
    discriminators: str = "small"
    """"rvc": those of RVC's own training, with its losses; "small": fewer and narrower, with losses of their own."""
    gradient_checkpointing: bool = False
    """Compute the decoder's residual blocks again in the backward pass instead of keeping what they made."""
    data: DataSettings = field(default_factory=DataSettings)
    warm_start: WarmStart = field(default_factory=WarmStart)

    def __post_init__(self) -> None:
        """Raise TrainingError for what can't be trained."""
        if self.objective not in ("direct", "vits"):
            raise TrainingError(f"objective: '{self.objective}' is not one of direct, vits.")
        if self.precision not in PRECISIONS:
            raise TrainingError(f"precision: '{self.precision}' is not one of {', '.join(PRECISIONS)}.")
        if self.discriminators not in ("small", "rvc"):
            raise TrainingError(f"discriminators: '{self.discriminators}' is not one of small, rvc.")
        if self.objective == "direct" and self.synthesizer.vocoder not in DIRECT_VOCODERS:
            raise TrainingError(
                f"objective: 'direct' trains {' and '.join(DIRECT_VOCODERS)}, not {self.synthesizer.vocoder}."
            )
        if not all(is_one_part(name) for name in self.speakers):
            raise TrainingError("speakers: their names are folders' in the experiment, so no paths.")
        if len(self.speakers) != self.synthesizer.n_speakers:
            raise TrainingError(
                f"{len(self.speakers)} speakers are named, the network has {self.synthesizer.n_speakers}."
            )


def is_one_part(name: str) -> bool:
    """Whether a name is a file's or folder's and leads nowhere else."""
    return name not in ("", ".", "..") and "\0" not in name and Path(name).name == name


def starter_config(n_speakers: int, *, vocoder: str = SOURCE_FILTER) -> SynthesizerConfig:
    """The starter pack's small architecture: 24 kHz, for 384 wide content."""
    return small_config(24_000, n_speakers, vocoder=vocoder)


_PLAIN = (int, float, str, bool, type(None))
_PARTS: Mapping[str, Callable[..., Any]] = {
    "weights": LossWeights,
    "schedule": Schedule,
    "mix": ContentMix,
    "data": DataSettings,
    "warm_start": WarmStart,
}


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
        values["synthesizer"] = _built(SynthesizerConfig, _tuples(values["synthesizer"]))
        values["speakers"] = tuple(values["speakers"])
        for name, kind in _PARTS.items():
            values[name] = _built(kind, values.get(name, {}))
        made: Experiment = _built(Experiment, values)
    except FileNotFoundError as error:
        raise TrainingError(f"{folder}: no experiment; make one with 'menura train new'.") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise TrainingError(f"{path}: can't be read ({error}).") from error
    return made


def _built(kind: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    """A dataclass whose plain fields have the types that they are said to have: people edit the file."""
    made = kind(**values)
    for name, hint in typing.get_type_hints(kind).items():
        value, allowed = getattr(made, name), typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        plain = tuple(each for each in allowed if isinstance(each, type) and each in _PLAIN)
        wide = (*plain, int) if float in plain else plain
        if plain and (not isinstance(value, wide) or (isinstance(value, bool) and bool not in plain)):
            raise TypeError(f"{name}: {value!r} is no {' or '.join(each.__name__ for each in plain)}")
    return made


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _tuple(value) for name, value in values.items()}


def _tuple(value: Any) -> Any:
    return tuple(_tuple(item) for item in value) if isinstance(value, list) else value


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        ResourceError: there is no room, or no right to write.
    """
    with replacing(path) as partial:
        partial.write_bytes(data)
