"""Whether an experiment's disk has room for what is still to be written."""

from __future__ import annotations

import shutil
from pathlib import Path

from menura.errors import ResourceError
from menura.models.blank import without_weights
from menura.models.synthesizer import Synthesizer
from menura.train.checkpoint import BEST, checkpoint_paths
from menura.train.folders import FEATURES, SLICES
from menura.train.networks import make_discriminators
from menura.train.spec import Experiment

_BYTES_GENERATOR, _BYTES_DISCRIMINATOR = 16, 12
"""A weight in a checkpoint: itself, its average, two moments; discriminators have no average."""


def check_room(folder: Path, experiment: Experiment, *, seconds: float = 0.0, copied_bytes: int = 0) -> None:
    """Raise what training would after hours, where slices, features and checkpoints won't fit.

    Args:
        folder: the experiment's, which need not exist yet.
        experiment: of that folder.
        seconds: of the recordings, where they are still to be prepared; else 0.
        copied_bytes: files that are yet to be copied into it.

    Raises:
        ResourceError: the disk is too small.
    """
    needed = copied_bytes + _checkpoint_bytes(folder, experiment) + _prepared_bytes(folder, experiment, seconds)
    existing = next(place for place in (folder.resolve(), *folder.resolve().parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ResourceError(
            f"{existing}: {_told(free)} are free, training needs about {_told(needed)}; free space, or "
            "move the experiment to another disk."
        )


def _told(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _checkpoint_bytes(folder: Path, experiment: Experiment) -> int:
    """Those that are kept, the best, and one that is being written; less those that are there."""
    with without_weights():
        generator = Synthesizer(experiment.synthesizer, training=True)
        discriminators = make_discriminators(experiment)
    each = _BYTES_GENERATOR * sum(p.numel() for p in generator.parameters())
    each += _BYTES_DISCRIMINATOR * sum(p.numel() for p in discriminators.parameters())
    schedule = experiment.schedule
    kept = min(schedule.keep_last, schedule.steps // max(1, schedule.save_every_steps) + 1)
    there = len(checkpoint_paths(folder)) + (folder / BEST).is_file()
    return each * max(1, kept + 2 - there)


def _prepared_bytes(folder: Path, experiment: Experiment, seconds: float) -> float:
    if not seconds:
        return 0.0
    config = experiment.synthesizer
    features = 2 * config.sample_rate + 100 * config.content_dim * (1 + experiment.data.perturbed)
    there = sum(
        path.stat().st_size for part in (SLICES, FEATURES) for path in (folder / part).rglob("*") if path.is_file()
    )
    return max(0.0, seconds * (features + 2 * config.sample_rate) - there)
