"""Which content encoders there are, what of them a voice takes, and how each is loaded. Loads no torch until one is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from menura.voices.assets import find_asset

if TYPE_CHECKING:
    import torch

    from menura.content.base import ContentEncoder

STARTER = "menura-starter"
STARTER_WEIGHTS = Path(__file__).parents[1] / "assets" / "starter" / "content.safetensors"
_STARTER_DIM = 384

Projection = Literal["none", "last", "layer9"]
"""RVC v2 takes the last layer as it is; v1 projects to 256: the last layer in Applio, the ninth in RVC WebUI."""


def content_dim(name: str, version: str) -> int:
    """Width of the content that voices of an RVC version take from an encoder."""
    return _STARTER_DIM if name == STARTER else 256 if version == "v1" else 768


def projection_of(version: str, compat: str = "menura") -> Projection:
    """What voices of an RVC version take of an encoder of HuBERT's layout."""
    if version != "v1":
        return "none"
    return "layer9" if compat == "rvc" else "last"


def encoder_path(name: str, home: Path | None = None) -> Path:
    """The file or folder of the weights of menura-starter, contentvec, ... Raises AssetMissingError."""
    return STARTER_WEIGHTS if name == STARTER else find_asset(name, home)


def load_encoder(name: str, path: Path, device: torch.device, projection: Projection = "none") -> ContentEncoder:
    """Load an encoder from the weights of `encoder_path`; a projection is of encoders of HuBERT's layout.

    Raises:
        AssetMissingError, CheckpointError: the weights can't be used.
    """
    if name == STARTER:
        from menura.content.starter import StarterEncoder

        return StarterEncoder.load(device, path)
    from menura.content.contentvec import ContentVec

    return ContentVec.load(path, device, projection)
