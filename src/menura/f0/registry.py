"""What the pipeline asks of an F0 method, which ones there are, and how each is loaded. Loads no torch itself."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from menura.errors import AssetMissingError, OptionError
from menura.options import ConversionOptions
from menura.voices.assets import find_asset

if TYPE_CHECKING:
    import torch

METHODS = ("rmvpe", "fcpe", "crepe", "crepe-tiny", "pm", "swift")
SWIFT_WEIGHTS = Path(__file__).parents[1] / "assets" / "f0" / "swift.safetensors"


@runtime_checkable
class F0Estimator(Protocol):
    """An F0 method, resident on a device. Frames are 10 ms, multiples of 8 (SwiftF0's 16 ms grid: 80 ms)."""

    name: str
    core_frames: int
    """Of the fixed absolute windows it is run in."""
    context_frames: int
    """Of real context wanted on each side."""

    @property
    def resident_bytes(self) -> int: ...

    def estimate(self, samples: torch.Tensor) -> torch.Tensor:
        """F0 of a batch of equally long windows, independent of each other.

        Args:
            samples: (batch, samples) at 16 kHz, float32.

        Returns:
            (batch, samples // 160 + 1) float32 in Hz, 0 where unvoiced; frame i is centred on sample 160 i.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Refinement:
    """What is done to an estimate; by default nothing."""

    repair: str = "off"
    """true_pitch or fold."""
    ceiling_hz: float = 0.0
    """Of the repair."""
    smoothing_frames: int = 0
    """Radius of the median; 0: none."""

    @classmethod
    def of(cls, options: ConversionOptions) -> Refinement:
        """What is asked for."""
        ceiling_hz = options.f0_ceiling if options.f0_repair != "off" else 0.0
        return cls(repair=options.f0_repair, ceiling_hz=ceiling_hz, smoothing_frames=options.f0_smoothing)


def resolve_method(method: str, home: Path | None = None) -> str:
    """The method itself, for 'auto' the best whose weights are there. Raises as `method_path` does."""
    if method != "auto":
        method_path(method, home)
        return method
    try:
        return resolve_method("rmvpe", home)
    except AssetMissingError:
        return "swift"


def method_path(method: str, home: Path | None = None) -> Path:
    """The file of a method's weights, or of its library. Raises OptionError or AssetMissingError."""
    if method not in METHODS:
        raise OptionError(None, f"'{method}' is not one of auto, {', '.join(METHODS)}", option="f0")
    if method == "pm":
        return _praat()
    return SWIFT_WEIGHTS if method == "swift" else find_asset(method, home)


def _praat() -> Path:
    """Where parselmouth is, found without importing it: it is under the GPL, and loads only where it is asked for."""
    spec = importlib.util.find_spec("parselmouth")
    if spec is None or spec.origin is None:
        problem = "pm is Praat's, by the package praat-parselmouth, which is not installed"
        advice = "Install it: pip install 'menura[pm]' (it is under the GPL). Or use {f0=swift}"
        raise AssetMissingError(None, problem, advice)
    return Path(spec.origin)


def load_estimator(method: str, path: Path, device: torch.device, *, half: bool = False) -> F0Estimator:
    """Load a method; RMVPE in half precision, where that is asked for. Raises CheckpointError."""
    if method == "swift":
        from menura.f0.swift import SwiftEstimator

        return SwiftEstimator.load(device, path)
    if method == "pm":
        from menura.f0.praat import PraatEstimator

        return PraatEstimator()
    from menura.f0.networks import CrepeEstimator, FcpeEstimator, RmvpeEstimator

    if method in ("crepe", "crepe-tiny"):
        return CrepeEstimator.load(path, device, name=method)
    return RmvpeEstimator.load(path, device, half=half) if method == "rmvpe" else FcpeEstimator.load(path, device)
