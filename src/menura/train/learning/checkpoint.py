"""Checkpoints on disk: written whole or not at all, the last few kept; and whether the disk has room for them."""

from __future__ import annotations

import itertools
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from menura.checkpoints.pickles import save_tensors
from menura.errors import ResourceError, TrainingError
from menura.models.weights import without_weights
from menura.system.files import replacing
from menura.train.experiment.folder import BEST, FEATURES, SLICES, checkpoint_paths, size_of
from menura.train.experiment.settings import Experiment
from menura.train.learning.networks import make_discriminators, make_generator

_BYTES_GENERATOR, _BYTES_DISCRIMINATOR = 16, 12
"""A weight in a checkpoint: itself, its average, two moments; discriminators have no average."""


def write_state(path: Path, state: Mapping[str, Any], *, keep: int = 1) -> None:
    """Write a checkpoint; the one that was there becomes `.1`, that one `.2`, up to `keep` in all."""
    with replacing(path) as partial:
        save_tensors(dict(state), partial)
        names = [path, *(path.with_name(f"{path.stem}.{number}{path.suffix}") for number in range(1, keep))]
        for older, newer in itertools.pairwise(reversed(names)):
            if newer.is_file():
                newer.replace(older)
        remove_older(path, keep=keep)


def remove_older(path: Path, *, keep: int = 1) -> None:
    """Delete the checkpoints before this one, but for `keep` - 1 of them."""
    for old in path.parent.glob(f"{path.stem}.*{path.suffix}"):
        place = old.suffixes[0][1:]
        if place.isdecimal() and int(place) >= keep:
            old.unlink()


def read_state(path: Path, device: torch.device) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, LookupError, pickle.UnpicklingError) as error:
        raise TrainingError(path, f"damaged checkpoint ({error})", "Delete it") from error
    if not isinstance(state, dict) or not isinstance(state.get("step"), int) or "average" not in state:
        raise TrainingError(path, "not a checkpoint of Menura", "Delete it")
    return state


def check_disk_space(folder: Path, experiment: Experiment, *, seconds: float = 0.0, copied_bytes: int = 0) -> None:
    """Raise at once what training would raise after hours: slices, features and checkpoints won't fit.

    `seconds` are of recordings that are still to be prepared. The folder need not exist yet.
    """
    needed = copied_bytes + _checkpoint_bytes(folder, experiment)
    if seconds:
        config = experiment.synthesizer
        features = 2 * config.sample_rate + 100 * config.content_dim * (1 + experiment.data.perturbed)
        there = sum(size_of(folder / part) for part in (SLICES, FEATURES) if (folder / part).is_dir())
        needed += max(0, round(seconds * (features + 2 * config.sample_rate)) - there)
    existing = next(place for place in (folder.resolve(), *folder.resolve().parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        problem = f"training needs about {_size_text(needed)} of disk space, {_size_text(free)} are free"
        raise ResourceError(existing, problem, "Free space, or move the experiment to another disk")


def _size_text(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.0f} MB"


def _checkpoint_bytes(folder: Path, experiment: Experiment) -> int:
    """Those that are kept, the best, and one that is being written; less those that are there."""
    with without_weights():
        each = _BYTES_GENERATOR * sum(p.numel() for p in make_generator(experiment).parameters())
        if experiment.objective == "vits":
            each += _BYTES_DISCRIMINATOR * sum(p.numel() for p in make_discriminators(experiment).parameters())
    schedule = experiment.schedule
    kept = min(schedule.keep_last, schedule.steps // max(1, schedule.save_every_steps) + 1)
    there = len(checkpoint_paths(folder)) + (folder / BEST).is_file()
    return each * max(1, kept + 2 - there)
