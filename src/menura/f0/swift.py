"""SwiftF0 (models/swift.py; MIT) as an F0Estimator. Its weights are inside the package."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from menura.errors import AssetMissingError
from menura.f0.registry import SWIFT_WEIGHTS
from menura.f0.rows import row_by_row
from menura.kernels.selftest import trusted_kernels
from menura.kernels.starter import NativeSwift
from menura.models.swift import HOP_SAMPLES, REACH_FRAMES, SwiftF0
from menura.models.weights import network_bytes
from menura.units import FRAME_SAMPLES

_LOW_HZ, _HIGH_HZ = 50.0, 1400.0
"""From about G1, where RVC's pitch bins begin too, to a soprano's F6; wider bands invite octave errors."""
_PIECE_FRAMES = 625
"""10 s, of the network's own 16 ms: bounds the memory of longer windows."""


class SwiftEstimator:
    """F0 by SwiftF0, resident on a device, which gives a frame every 16 ms, centred on sample 256 k.

    A frame of 10 ms takes the voicing of the nearest of these (the earlier of two equally near), and between two voiced
    ones log F0 is interpolated. Windows that begin on multiples of eight frames give what the whole recording gives.
    """

    name = "swift"
    core_frames = 800
    """8 s: on CPUs the fastest by a little, as more no longer stays in their caches."""
    context_frames = 24
    """The network reaches 2815 samples (17.6 frames) each way, the interpolation one frame of 16 ms more."""

    def __init__(self, model: SwiftF0, device: torch.device) -> None:
        self._model = model.to(device)

    @classmethod
    def load(cls, device: torch.device, weights: Path = SWIFT_WEIGHTS) -> SwiftEstimator:
        if not weights.is_file():
            raise AssetMissingError(weights, "SwiftF0's weights are missing", "Reinstall Menura")
        model = SwiftF0.from_tensors(load_file(str(weights)), _LOW_HZ, _HIGH_HZ)
        if device.type == "cpu" and (library := trusted_kernels()) is not None:
            model = NativeSwift(model, library)
        return cls(model, device)

    @property
    def resident_bytes(self) -> int:
        return network_bytes(self._model)

    @torch.inference_mode()
    def estimate(self, samples: Tensor) -> Tensor:
        return row_by_row(self._contours, samples)

    def _contours(self, samples: Tensor) -> Tensor:
        frames = max(1, samples.shape[1] // HOP_SAMPLES)
        pieces = [self._piece(samples, start, frames) for start in range(0, frames, _PIECE_FRAMES)]
        pitch_hz, voiced = (torch.cat(parts, dim=1) for parts in zip(*pieces, strict=True))
        return resampled_contour(pitch_hz, voiced, samples.shape[1] // FRAME_SAMPLES + 1)

    def _piece(self, samples: Tensor, start: int, frames: int) -> tuple[Tensor, Tensor]:
        """Estimates of at most `_PIECE_FRAMES` from a start on, of a recording's `frames`."""
        end, first = min(start + _PIECE_FRAMES, frames), max(0, start - REACH_FRAMES)
        last = samples.shape[1] if end == frames else (end + REACH_FRAMES) * HOP_SAMPLES
        pitch_hz, voiced = self._model(samples[:, first * HOP_SAMPLES : last])
        return pitch_hz[:, start - first : end - first], voiced[:, start - first : end - first]


def resampled_contour(pitch_hz: Tensor, voiced: Tensor, frames: int) -> Tensor:
    """(batch, frames) F0 every 10 ms, 0 where unvoiced, from (batch, n) every 16 ms from 0 on, the last one held."""
    # Frame j lies at 160 j / 256 = 5 j / 8 estimates: integers decide which is nearer.
    eighths = 5 * torch.arange(frames, device=pitch_hz.device)
    before = (eighths // 8).clamp_(max=pitch_hz.shape[1] - 1)
    after = (before + 1).clamp_(max=pitch_hz.shape[1] - 1)
    part = (eighths % 8) / 8
    nearest = torch.where(part <= 0.5, before, after)
    start = pitch_hz[:, before]
    between = start * (pitch_hz[:, after] / start) ** part
    value = torch.where(voiced[:, before] & voiced[:, after], between, pitch_hz[:, nearest])
    return torch.where(voiced[:, nearest], value, 0.0)
