"""Content encoders: folders with HuBERT base in transformers' layout."""

from __future__ import annotations

from pathlib import Path

from menura.checkpoints.pickles import load_weights, unreadable
from menura.errors import AssetMissingError, CheckpointError
from menura.models.hubert import Hubert, HubertConfig
from menura.system.files import read_json

CONFIG_NAME = "config.json"
WEIGHTS_NAMES = ("model.safetensors", "pytorch_model.bin")
"""The first goes before the second."""
_ADVICE = "Use ContentVec's files, or another HuBERT base in transformers' layout"


def load_hubert(folder: Path) -> Hubert:
    """Read an encoder's folder: config.json with model.safetensors or pytorch_model.bin.

    Raises:
        AssetMissingError: a file is not there.
        CheckpointError: a file is damaged, or is of another architecture.
        UnsafeCheckpointError: the weights hold more than weights.
    """
    config_path = folder / CONFIG_NAME
    weights_path = next((folder / name for name in WEIGHTS_NAMES if (folder / name).is_file()), None)
    if not config_path.is_file() or weights_path is None:
        lacking = CONFIG_NAME if weights_path else " or ".join(WEIGHTS_NAMES)
        raise AssetMissingError(folder, f"lacks {lacking}", "'menura assets list --all' says where it comes from")
    try:
        fields = read_json(config_path)
    except (OSError, ValueError) as error:
        raise unreadable(config_path, "JSON") from error
    if not isinstance(fields, dict):
        raise CheckpointError(config_path, "isn't a model's configuration", "Fetch it again")
    try:
        config = HubertConfig.from_json(fields)
    except ValueError as error:
        raise CheckpointError(config_path, str(error), _ADVICE) from error
    try:
        return Hubert.from_tensors(load_weights(weights_path), config)
    except ValueError as error:
        raise CheckpointError(weights_path, str(error), _ADVICE) from error
