"""Which content encoders there are, and how each is loaded. Loads no torch until one is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from menura.voices.assets import find_asset

if TYPE_CHECKING:
    import torch

    from menura.content.base import ContentEncoder
    from menura.content.contentvec import Projection

STARTER = "menura-starter"
STARTER_WEIGHTS = Path(__file__).parents[1] / "assets" / "starter" / "content.safetensors"


def encoder_path(name: str, home: Path | None = None) -> Path:
    """The file or folder of an encoder's weights. Raises AssetMissingError.

    Args:
        name: as voices carry it: menura-starter, contentvec, ...
        home: Menura's data folder.
    """
    return STARTER_WEIGHTS if name == STARTER else find_asset(name, home)


def load_encoder(name: str, path: Path, device: torch.device, projection: Projection = "none") -> ContentEncoder:
    """Load an encoder.

    Args:
        name: as voices carry it.
        path: its weights, from `encoder_path`.
        device: where to run it.
        projection: of encoders of HuBERT's layout.

    Raises:
        AssetMissingError, CheckpointError: the weights can't be used.
    """
    if name == STARTER:
        from menura.content.starter import StarterEncoder

        return StarterEncoder.load(device, path)
    from menura.content.contentvec import ContentVec

    return ContentVec.load(path, device, projection)
