"""The starter pack's content encoder as the pipeline sees it. Its weights are inside the package."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from menura.content.registry import STARTER, STARTER_WEIGHTS, RecordingStatistics
from menura.errors import AssetMissingError
from menura.kernels.linear import use_onednn
from menura.kernels.selftest import trusted_kernels
from menura.kernels.starter import use_encoder_kernels
from menura.models.weights import network_bytes
from menura.models.whisper_encoder import MEL_HOP, N_FFT, LogMel, WhisperContentEncoder
from menura.system.device import sent
from menura.types import FloatArray

_SILENT_LOG_MEL = -10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelStatistics:
    """The largest log10 mel power of a recording, from which Whisper's clamp counts down."""

    log_mel_max: float

    def scaled(self, gain: float) -> LevelStatistics:
        return LevelStatistics(log_mel_max=max(_SILENT_LOG_MEL, self.log_mel_max + 2 * math.log10(gain)))


class LevelCollector:
    """Finds LevelStatistics block by block; the result doesn't depend on how the recording was cut into blocks."""

    def __init__(self, log_mel: LogMel) -> None:
        self._log_mel = log_mel
        self._pending: FloatArray = np.zeros(0, dtype=np.float32)
        self._largest = _SILENT_LOG_MEL

    def push(self, samples: FloatArray) -> None:
        self._pending = np.concatenate([self._pending, samples])
        frames = (len(self._pending) - N_FFT) // MEL_HOP + 1
        if frames > 0:
            self._measure(self._pending[: (frames - 1) * MEL_HOP + N_FFT])
            self._pending = self._pending[frames * MEL_HOP :]

    def finish(self) -> LevelStatistics:
        if len(self._pending):
            self._measure(np.pad(self._pending, (0, max(0, N_FFT - len(self._pending)))))
        return LevelStatistics(log_mel_max=self._largest)

    def _measure(self, samples: FloatArray) -> None:
        mel = self._log_mel(torch.from_numpy(np.ascontiguousarray(samples))[None], centred=False)
        self._largest = max(self._largest, float(mel.max()))


class StarterEncoder:
    """Three blocks of Whisper tiny.en less its speaker directions; a `ContentEncoder`."""

    name = STARTER
    core_frames = 800
    context_frames = 100
    edge_frames = 100
    """Whisper says more of a sound the more it hears around it, and costs little."""
    global_windows = True

    def __init__(self, model: WhisperContentEncoder, device: torch.device) -> None:
        self.model = model.to(device).eval()
        self.dim = model.dim
        self._log_mel = LogMel()

    @classmethod
    def load(cls, device: torch.device, weights: Path = STARTER_WEIGHTS) -> StarterEncoder:
        if not weights.is_file():
            raise AssetMissingError(weights, "the starter encoder's weights are missing", "Reinstall Menura")
        tensors = {key: value.to(torch.float32) for key, value in load_file(str(weights)).items()}
        model = WhisperContentEncoder(n_directions=tensors["speaker_directions"].shape[1])
        model.load_state_dict(tensors)
        if device.type == "cpu":
            use_onednn(model)
            if (library := trusted_kernels()) is not None:
                use_encoder_kernels(model, library)
        return cls(model, device)

    @property
    def resident_bytes(self) -> int:
        return network_bytes(self.model)

    def collector(self) -> LevelCollector:
        return LevelCollector(self._log_mel)

    @torch.inference_mode()
    def encode(self, samples: Tensor, statistics: Sequence[RecordingStatistics] | None) -> Tensor:
        largest = None
        if statistics is not None:
            levels = [item.log_mel_max for item in statistics if isinstance(item, LevelStatistics)]
            largest = sent(torch.tensor(levels, dtype=torch.float32), samples.device)
        content: Tensor = self.model(samples, largest)
        return content
