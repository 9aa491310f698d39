"""RMVPE as an F0Estimator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from menura.checkpoints.pickles import load_weights
from menura.errors import CheckpointError
from menura.kernels.rmvpe import use_kernels
from menura.kernels.selftest import trusted_kernels
from menura.models.rmvpe import HOP_SAMPLES, Rmvpe, decode_salience, log_mel
from menura.models.weights import network_bytes

_THRESHOLD = 0.03
"""Frames of less salience are unvoiced (RVC's)."""


class RmvpeEstimator:
    """F0 by RMVPE, resident on a device."""

    name = "rmvpe"
    core_frames = 1920
    """19.2 s; with the context 2240 frames, a multiple of the U-Net's 32."""
    context_frames = 160

    def __init__(self, model: Rmvpe, *, device: torch.device) -> None:
        self._model = model.to(device)

    @classmethod
    def load(cls, path: Path, device: torch.device) -> RmvpeEstimator:
        """Read rmvpe.pt.

        Raises:
            CheckpointError: damaged, or something else.
            UnsafeCheckpointError: it carries code.
        """
        try:
            model = Rmvpe.from_tensors(load_weights(path))
        except ValueError as error:
            raise CheckpointError(path, f"isn't rmvpe.pt: {error}", "Fetch it again") from error
        library = trusted_kernels() if device.type == "cpu" else None
        if library is not None:
            use_kernels(model, library)
        return cls(model, device=device)

    @property
    def resident_bytes(self) -> int:
        return network_bytes(self._model)

    def estimate(self, samples: Tensor) -> Tensor:
        with torch.inference_mode():
            features = self._model.features(log_mel(samples))
            with threads_that_gain(self._model):
                salience = self._model.salience(features)
            return decode_salience(salience, _THRESHOLD)[:, : samples.shape[-1] // HOP_SAMPLES + 1]


@contextmanager
def threads_that_gain(model: Rmvpe) -> Iterator[None]:
    """Let torch use one thread of the CPU for its own recurrent layer; the kernels' gains by several.

    Torch's products are so small that threads gain nothing by sharing one, and wait for each other after
    each of thousands: on a busy machine six times as long.
    """
    before = torch.get_num_threads()
    if isinstance(model.gru, torch.nn.GRU):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
