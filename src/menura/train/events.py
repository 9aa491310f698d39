"""What a training session tells: each event once, as it happens; a step counts as done. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from menura.errors import ErrorDetails


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparing:
    stage: str
    """"slices" or "features"."""
    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    report: Path
    seconds: Mapping[str, float]
    """Sound in slices, by speaker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    step: int
    last_step: int
    log_every_steps: int
    seconds: float
    """Sound that is learnt from."""
    curves: Path | None
    """Folder of TensorBoard's curves; None where the package tensorboard is not installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped:
    step: int
    losses: Mapping[str, float]
    """By name; on a GPU empty but for the steps that are logged: to read them is to wait for it."""
    learning_rate: float
    seconds: float
    """That it took; on a GPU the mean of the steps since losses were read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    step: int
    mel: float
    """Mean distance of log mel spectra, on slices that the voice doesn't learn from."""
    best_step: int
    overtraining: bool
    """True where it has been rising for some time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    step: int
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexed:
    path: Path
    vectors: int
    cells: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    paths: tuple[Path, ...]
    """The voice first, its card last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    note: ErrorDetails


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    step: int
    last_step: int
    """As planned by the experiment."""
    reason: str
    """"steps": all; "patience": no improvement; "time": it ran out; "until": as far as asked; "cancelled"."""
    best_step: int | None
    """Whose weights were exported, where validation chose; None for the newest."""
    voice: Path | None = None
    """The exported voice; None where training isn't complete."""
    index: Path | None = None
    checkpoint_bytes: int = 0
    """On disk, needed for further training only."""


TrainingEvent: TypeAlias = (
    Preparing | Prepared | Started | Stepped | Validated | Saved | Trained | Indexed | Exported | Noted | Finished
)
ENDS = ("steps", "patience", "time")
"""Reasons for which the voice is made."""
OnEvent: TypeAlias = Callable[[TrainingEvent], None]


def ignore(event: TrainingEvent) -> None:
    """The default listener."""
