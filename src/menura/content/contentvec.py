"""ContentVec and other encoders of HuBERT base's layout, as RVC voices use them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from menura.checkpoints.hubert import load_hubert
from menura.content.registry import Projection, RecordingStatistics
from menura.errors import CheckpointError
from menura.kernels.hubert import use_kernels
from menura.kernels.linear import use_onednn
from menura.kernels.selftest import trusted_kernels
from menura.models.hubert import ChannelStatistics, Hubert
from menura.models.weights import network_bytes
from menura.system.device import sent
from menura.system.memory import MappedPages
from menura.types import FloatArray

_LAYER_OF_RVC_V1 = 9
_SUM_FRAMES = 1 << 15
"""Frames of the first layer that one float64 sum covers (10 s): fixed, so that the result is the same bit for bit."""
_LONG_PASS_SAMPLES = 3 * 16_000
"""After so much the weights are left to the system's cache of files: reading them takes a hundredth of the pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MomentStatistics:
    """Moments of a recording's 10-sample vectors at stride 5, which fix the first layer's group norm exactly."""

    mean: npt.NDArray[np.float64]
    """(kernel,)"""
    second: npt.NDArray[np.float64]
    """(kernel, kernel) mean outer product."""

    def scaled(self, gain: float) -> MomentStatistics:
        return MomentStatistics(mean=self.mean * gain, second=self.second * gain**2)


class MomentCollector:
    """Collects MomentStatistics; how the samples are cut into blocks makes no difference."""

    def __init__(self, kernel: int = 10, stride: int = 5) -> None:
        self._kernel, self._stride = kernel, stride
        self._pending: FloatArray = np.zeros(0, dtype=np.float32)
        self._frames = 0
        self._sum = np.zeros(kernel, dtype=np.float64)
        self._products = np.zeros((kernel, kernel), dtype=np.float64)

    def push(self, samples: FloatArray) -> None:
        self._pending = np.concatenate([self._pending, samples])
        step = _SUM_FRAMES * self._stride
        needed = step - self._stride + self._kernel
        while len(self._pending) >= needed:
            self._add(self._pending[:needed])
            self._pending = self._pending[step:]

    def finish(self) -> MomentStatistics:
        rest = self._pending
        if not self._frames and len(rest) < self._kernel:
            rest = np.pad(rest, (0, self._kernel - len(rest)))  # less than one vector counts as followed by silence
        if len(rest) >= self._kernel:
            self._add(rest)
        return MomentStatistics(mean=self._sum / self._frames, second=self._products / self._frames)

    def _add(self, samples: FloatArray) -> None:
        frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), self._kernel)[:: self._stride]
        self._frames += len(frames)
        self._sum += frames.sum(axis=0)
        self._products += frames.T @ frames


class ContentVec:
    """A ContentEncoder of HuBERT base's layout, resident on a device."""

    core_frames = 2000
    """20 s. Attention grows with the square of a window and context is paid once a window: 20 s costs least."""
    context_frames = 150
    """1.5 s a side: the positional convolution reaches 1.28 s, the convolutions before it 12 ms more."""
    edge_frames = 32
    """Voices learn from slices without any; RVC's second of it would cost a file of 5 s a quarter more."""
    global_windows = False

    def __init__(
        self, model: Hubert, *, device: torch.device, projection: Projection = "none", name: str = "contentvec"
    ) -> None:
        if projection != "none" and model.final_proj is None:
            raise CheckpointError(name, "has no final_proj, which v1 voices need", "Use ContentVec's files")
        if projection == "layer9" and model.config.num_hidden_layers < _LAYER_OF_RVC_V1:
            problem = f"has {model.config.num_hidden_layers} layers; v1 voices need 9 in RVC's mode"
            raise CheckpointError(name, problem, "Leave out {compat}")
        self.name, self._projection, config = name, projection, model.config
        self.dim = config.hidden_size if projection == "none" else config.classifier_proj_size
        self._layer = _LAYER_OF_RVC_V1 if projection == "layer9" else config.num_hidden_layers
        self._model = model.to(device)
        self._pages = MappedPages([*self._model.parameters(), *self._model.buffers()])

    @classmethod
    def load(
        cls, folder: Path, device: torch.device, projection: Projection = "none", *, half: bool = False
    ) -> ContentVec:
        """Read config.json with pytorch_model.bin or model.safetensors. Raises AssetMissingError or CheckpointError."""
        model = load_hubert(folder)
        if half:
            model.use_half()
        if device.type == "cpu":
            use_onednn(model)
            if (library := trusted_kernels()) is not None:
                use_kernels(model, library)
        return cls(model, device=device, projection=projection, name=folder.name)

    @property
    def resident_bytes(self) -> int:
        return network_bytes(self._model)

    def collector(self) -> MomentCollector:
        config = self._model.config
        return MomentCollector(config.conv_kernel[0], config.conv_stride[0])

    @torch.inference_mode()
    def encode(self, samples: Tensor, statistics: Sequence[RecordingStatistics] | None) -> Tensor:
        if not self._model.config.frame_count(samples.shape[-1]):
            return samples.new_zeros(len(samples), 0, self.dim)
        known = self._channel_statistics(statistics) if statistics else None
        content: Tensor
        (content,) = self._model(samples, layers=[self._layer], statistics=known)
        if self._projection != "none" and self._model.final_proj is not None:
            content = self._model.final_proj(content)
        if samples.numel() >= _LONG_PASS_SAMPLES:
            self._pages.release()
        return content

    def _channel_statistics(self, statistics: Sequence[RecordingStatistics]) -> ChannelStatistics:
        rows = [row for row in statistics if isinstance(row, MomentStatistics)]
        moments = [np.stack([row.mean for row in rows]), np.stack([row.second for row in rows])]
        device = self._model.feature_extractor.first.device
        if device.type == "mps":  # which has no double precision
            device = torch.device("cpu")
        return self._model.channel_statistics(*(sent(torch.from_numpy(moment), device) for moment in moments))
