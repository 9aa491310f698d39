"""Flat files of named tensors, as networks other than voices come in."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from menura.checkpoints.pickles import check_size, load_tensors, unreadable
from menura.errors import CheckpointError


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read named tensors: safetensors, or a torch file without code; mapped into memory where possible.

    Raises:
        CheckpointError: damaged, or something else than named tensors.
        UnsafeCheckpointError: it holds more than weights.
    """
    if path.suffix == ".safetensors":
        check_size(path)
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise unreadable(path, "safetensors") from error
    loaded = load_tensors(path, mapped=True)
    if not isinstance(loaded, dict) or not all(isinstance(t, Tensor) for t in loaded.values()):
        raise CheckpointError(path, "holds something other than named tensors", "Fetch it again")
    return dict(loaded)
