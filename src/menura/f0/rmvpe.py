"""RMVPE as an F0Estimator."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from menura.checkpoints.assets import load_weights
from menura.models.rmvpe import Rmvpe, decode_salience, log_mel

THRESHOLD = 0.03
"""Frames of less salience are unvoiced (RVC's)."""


class RmvpeEstimator:
    """F0 by RMVPE, resident on a device."""

    name = "rmvpe"
    core_frames = 1920
    """19.2 s; with the context 2240 frames, a multiple of the U-Net's 32."""
    context_frames = 160

    def __init__(self, model: Rmvpe, *, device: torch.device, threshold: float = THRESHOLD) -> None:
        self._model = model.to(device)
        self._threshold = threshold

    @classmethod
    def load(cls, path: Path, device: torch.device) -> RmvpeEstimator:
        """Read rmvpe.pt.

        Raises:
            CheckpointError: damaged, or something else.
            UnsafeCheckpointError: it carries code.
        """
        return cls(Rmvpe.from_tensors(load_weights(path)), device=device)

    def estimate(self, samples: Tensor) -> Tensor:
        """F0 of a batch of windows: see F0Estimator."""
        with torch.inference_mode():
            return decode_salience(self._model(log_mel(samples)), self._threshold)
