"""Training states on disk: written whole or not at all, the last few kept."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from menura.checkpoints.pickles import save_tensors
from menura.errors import TrainingError
from menura.system.files import replacing

CHECKPOINT = "checkpoint.pt"
BEST = "best.pt"


def checkpoint_paths(folder: Path) -> list[Path]:
    """The checkpoints that are there, newest first."""
    older = [path for path in folder.glob("checkpoint.*.pt") if path.suffixes[0][1:].isdecimal()]
    numbered = sorted(older, key=lambda path: int(path.suffixes[0][1:]))
    return [path for path in (folder / CHECKPOINT, *numbered) if path.is_file()]


def write_state(path: Path, state: Mapping[str, Any], *, keep: int = 1) -> None:
    """Write a training state; the one that was there becomes `.1`, that one `.2`, up to `keep` in all.

    Raises:
        ResourceError: there is no room, or no right to write.
    """
    with replacing(path) as partial:
        save_tensors(dict(state), partial)
        for number in range(keep - 1, 0, -1):
            before = path if number == 1 else _numbered(path, number - 1)
            if before.is_file():
                before.replace(_numbered(path, number))
        for old in path.parent.glob(f"{path.stem}.*{path.suffix}"):  # more were kept before
            place = old.suffixes[0][1:]
            if place.isdecimal() and int(place) >= keep:
                old.unlink()


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}.{number}{path.suffix}")


def read_state(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a training state.

    Raises:
        TrainingError: it is damaged.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, LookupError, pickle.UnpicklingError) as error:
        raise TrainingError(f"{path}: this training state is damaged ({error}); delete it.") from error
    if not isinstance(state, dict) or "step" not in state or "average" not in state:
        raise TrainingError(f"{path}: is no training state of Menura; delete it.")
    return state
