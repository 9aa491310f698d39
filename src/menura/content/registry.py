"""What the pipeline asks of a content encoder, which ones there are, and how each is loaded. Loads no torch itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from menura.system.files import read_json
from menura.voices.assets import find_asset

if TYPE_CHECKING:
    import torch

    from menura.types import FloatArray

STARTER = "menura-starter"
STARTER_WEIGHTS = Path(__file__).parents[1] / "assets" / "starter" / "content.safetensors"
_STARTER_DIM = 384

Projection = Literal["none", "last", "layer9"]
"""RVC v2 takes the last layer as it is; v1 projects to 256: the last layer in Applio, the ninth in RVC WebUI."""


class RecordingStatistics(Protocol):
    """What an encoder must know of the whole recording, so that its result doesn't depend on windows."""

    def scaled(self, gain: float) -> RecordingStatistics:
        """The statistics the recording would have, had its samples been multiplied by `gain`."""


class StatisticsCollector(Protocol):
    """Collects RecordingStatistics in a first cheap pass over the recording."""

    def push(self, samples: FloatArray) -> None:
        """Take the next 16 kHz samples (any number, contiguous with those before)."""

    def finish(self) -> RecordingStatistics:
        """The statistics of all that was pushed (must work for silence and for a single sample)."""


@runtime_checkable
class ContentEncoder(Protocol):
    """Gives 50 vectors a second of what is said; resident on a device. Frames are 10 ms, and even in number."""

    name: str
    """As checkpoints name it: 'contentvec', 'menura-starter', ..."""
    dim: int
    core_frames: int
    """Of the fixed absolute windows it is run in."""
    context_frames: int
    """Of real context wanted on each side of a window."""
    edge_frames: int
    """Of reflection wanted before a recording and after it."""
    global_windows: bool
    """True if even strategy='whole' must use these fixed windows (encoders with limited positions)."""

    @property
    def resident_bytes(self) -> int: ...

    def collector(self) -> StatisticsCollector: ...

    def encode(self, samples: torch.Tensor, statistics: Sequence[RecordingStatistics] | None) -> torch.Tensor:
        """Content of a batch of equally long windows.

        Args:
            samples: (batch, samples) at 16 kHz, float32, on the encoder's device.
            statistics: one a row, of the recording it was cut from; None takes the window's own (as RVC does).

        Returns:
            (batch, vectors, dim) float32; vector i describes samples [320 i, 320 i + 320).
        """


def content_dim(name: str, version: str) -> int:
    """Width of the content that voices of an RVC version take from an encoder."""
    return _STARTER_DIM if name == STARTER else 256 if version == "v1" else 768


def projection_of(version: str, compat: str = "menura") -> Projection:
    """What voices of an RVC version take of an encoder of HuBERT's layout."""
    return "none" if version != "v1" else "layer9" if compat == "rvc" else "last"


def encoder_path(name: str, home: Path | None = None) -> Path:
    """The file or folder of the weights of menura-starter, contentvec, ... Raises AssetMissingError."""
    return STARTER_WEIGHTS if name == STARTER else find_asset(name, home)


def encoder_dim(name: str, path: Path, projection: Projection) -> int:
    """Width of the content that the encoder of `encoder_path` gives, from its configuration."""
    if name == STARTER:
        return _STARTER_DIM
    key, usual = ("hidden_size", 768) if projection == "none" else ("classifier_proj_size", 256)
    try:
        fields = read_json(path / "config.json")
    except (OSError, ValueError):
        fields = None  # loading it says what is wrong
    width = fields.get(key, usual) if isinstance(fields, dict) else usual
    return width if isinstance(width, int) else usual


def load_encoder(
    name: str, path: Path, device: torch.device, projection: Projection = "none", *, half: bool = False
) -> ContentEncoder:
    """Load an encoder from the weights of `encoder_path`. Raises AssetMissingError or CheckpointError.

    `half` lets the layers that gain by it compute in half precision.
    """
    if name == STARTER:
        from menura.content.starter import StarterEncoder

        return StarterEncoder.load(device, path)
    from menura.content.contentvec import ContentVec

    return ContentVec.load(path, device, projection, half=half)
