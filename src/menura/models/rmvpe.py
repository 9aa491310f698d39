"""RMVPE (Wei et al. 2023, arXiv:2306.15412): a U-Net over log-mel frames and a bidirectional GRU, to F0 salience.

Keys follow the published rmvpe.pt (`E2E(4, 1, (2, 2))`). Batch norms are folded into the convolutions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from menura.models.layers import Span
from menura.models.mel import magnitude_spectrogram, mel_filterbank, reflect_pad
from menura.models.weights import reading_weights, without_weights

SAMPLE_RATE_HZ, HOP_SAMPLES = 16_000, 160
N_FFT, N_MELS = 1024, 128
LOW_HZ, MEL_FLOOR = 30.0, 1e-5
FIRST_BIN_CENTS = 1997.3794084376191
"""Cents above 10 Hz of the first class (31.7 Hz)."""
BIN_CENTS = 20.0
NEIGHBOUR_BINS = 4
"""F0 is the mean of the bins around the strongest, weighted by their salience."""
BLOCK_FRAMES = 32_000
"""Longer windows go in blocks of 320 s that don't see each other, as in Applio: cuDNN's recurrent layers, and thus RVC
WebUI, fail above 65,535 frames. Only compatible modes have such windows."""
_STRETCH_FRAMES = 1024
"""Frames of the U-Net's last level at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RmvpeConfig:
    """Sizes of the network; the defaults are the published file's."""

    channels: int = 16
    """After the first block; doubled at every level."""
    levels: int = 5
    blocks: int = 4
    """Residual blocks at a level."""
    bottleneck_layers: int = 4
    output_planes: int = 3
    gru_size: int = 256
    classes: int = 360


def mel_filters() -> Tensor:
    """What `log_mel` needs, to be made once."""
    return mel_filterbank(sample_rate=SAMPLE_RATE_HZ, n_fft=N_FFT, n_mels=N_MELS, low_hz=LOW_HZ, htk=True)


def log_mel(samples: Tensor, filters: Tensor) -> Tensor:
    """RMVPE's input: (batch, samples) at 16 kHz, at least one, to (batch, 128, samples // 160 + 1).

    Frame i is centred on sample 160 i, the ends are reflected.
    """
    half = N_FFT // 2
    magnitude = magnitude_spectrogram(reflect_pad(samples, half, half), n_fft=N_FFT, hop_length=HOP_SAMPLES)
    return (filters @ magnitude).clamp(min=MEL_FLOOR).log()


def decode_salience(salience: Tensor, threshold: float) -> Tensor:
    """(..., classes) of salience to F0, (...,) float32 in Hz: 0 (unvoiced) where none is above the threshold."""
    if salience.device.type == "mps":  # which has no double precision
        return decode_salience(salience.cpu(), threshold).to(salience.device)
    peak, centre = salience.max(dim=-1, keepdim=True)
    offsets = torch.arange(-NEIGHBOUR_BINS, NEIGHBOUR_BINS + 1, device=salience.device)
    weights = F.pad(salience, (NEIGHBOUR_BINS, NEIGHBOUR_BINS)).gather(-1, centre + NEIGHBOUR_BINS + offsets).double()
    cents = FIRST_BIN_CENTS + BIN_CENTS * (centre + offsets).double()
    mean = (weights * cents).sum(dim=-1) / weights.sum(dim=-1).clamp(min=1e-30)
    f0_hz = 10.0 * torch.exp2(mean / 1200.0)
    return torch.where(peak.squeeze(-1) > threshold, f0_hz, torch.zeros_like(f0_hz)).float()


class Conv(nn.Conv2d):
    """A 3 x 3 convolution with its batch norm folded in, and a ReLU.

    `half` keeps the file's half-precision weights and the norm's scale beside them: single precision when used. The
    widest layers have four fifths of the weights and see the fewest places, so that converting costs little.
    """

    scale: Tensor | None

    def __init__(self, inputs: int, outputs: int, *, half: bool) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        if half:
            self.weight = nn.Parameter(torch.empty(self.weight.shape, dtype=torch.float16))
        self.register_buffer("scale", torch.empty(outputs) if half else None)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """relu(convolution) + residual."""
        if self.scale is None:
            y = super().forward(x)
        else:
            y = F.conv2d(x, self.weight.to(x.dtype), padding=1).mul_(self.scale[:, None, None])
            y = y.add_(cast("Tensor", self.bias)[:, None, None])
        y = y.relu_()
        return y if residual is None else y.add_(residual)


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, *, half: bool) -> None:
        super().__init__()
        self.first: nn.Module = Conv(inputs, outputs, half=half)
        self.second: nn.Module = Conv(outputs, outputs, half=half)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(self.first(x), x if self.shortcut is None else self.shortcut(x))
        return result


def _blocks(inputs: int, outputs: int, count: int, *, half: bool = False) -> nn.Sequential:
    return nn.Sequential(*(Block(inputs if n == 0 else outputs, outputs, half=half) for n in range(count)))


class Rmvpe(nn.Module):
    """Log-mel frames to salience over 360 bins of 20 cents."""

    input_scale: Tensor
    input_shift: Tensor

    def __init__(self, config: RmvpeConfig, *, half: bool = False) -> None:
        """Make the network with random weights; `half`: the widest layers' in half precision."""
        super().__init__()
        self.config = config
        widths = [config.channels * 2**level for level in range(config.levels)]
        bottom = 2 * widths[-1]
        self.register_buffer("input_scale", torch.ones(1))
        self.register_buffer("input_shift", torch.zeros(1))
        self.down = nn.ModuleList(
            _blocks(inputs, width, config.blocks) for inputs, width in zip([1, *widths], widths, strict=False)
        )
        inner = [widths[-1], *[bottom] * (config.bottleneck_layers - 1)]
        self.bottleneck = nn.Sequential(*(_blocks(inputs, bottom, config.blocks, half=half) for inputs in inner))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * width, width, 3, stride=2, padding=1, output_padding=1) for width in widths[::-1]
        )
        self.merge = nn.ModuleList(_blocks(2 * width, width, config.blocks) for width in widths[::-1])
        self.planes = nn.Conv2d(config.channels, config.output_planes, 3, padding=1)
        self.gru: nn.Module = nn.GRU(
            config.output_planes * N_MELS, config.gru_size, batch_first=True, bidirectional=True
        )
        self.classes = nn.Linear(2 * config.gru_size, config.classes)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], config: RmvpeConfig | None = None) -> Rmvpe:
        """Build the network from rmvpe.pt's tensors (any float dtype; computed with in float32).

        The widest layers stay in half precision where all of their weights are, as in the published file. Raises
        ValueError if a tensor is missing or of another shape.
        """
        config = config or RmvpeConfig()
        widest = [t.dtype for name, t in tensors.items() if name.startswith("unet.intermediate.") and t.dim() == 4]
        half = set(widest) == {torch.float16}
        with without_weights():
            model = cls(config, half=half)
        with reading_weights():
            model.load_state_dict(_state(tensors, config, half=half), assign=True)
        return model.eval().requires_grad_(False)

    def forward(self, mel: Tensor) -> Tensor:
        """(batch, 128, frames) of `log_mel` to salience (batch, frames, classes) in 0..1."""
        parts = [self.salience(self.features(block)) for block in self.blocks(mel)]
        return torch.cat(parts, dim=1)[:, : mel.shape[-1]]

    def use_half(self) -> None:
        """Compute in half precision from now on."""
        for part in self.children():
            part.half()

    def blocks(self, mel: Tensor) -> Sequence[Tensor]:
        """Log-mel frames in blocks, the last one filled up; up to the length of one they are as they were."""
        if mel.shape[-1] <= BLOCK_FRAMES:
            return (mel,)
        return torch.split(reflect_pad(mel, 0, -mel.shape[-1] % (1 << self.config.levels)), BLOCK_FRAMES, dim=-1)

    def features(self, mel: Tensor) -> Tensor:
        """The U-Net's output (batch, frames, features); frames are rounded up to its multiple by reflection."""
        x = reflect_pad(mel, 0, -mel.shape[-1] % (1 << self.config.levels))  # every level halves time
        x = x.transpose(1, 2).unsqueeze(1) * self.input_scale + self.input_shift
        x = x.to(self.planes.weight.dtype)
        return self._unet(x.contiguous(memory_format=torch.channels_last)).transpose(1, 2).flatten(2)

    def salience(self, features: Tensor) -> Tensor:
        """(batch, frames, features) to (batch, frames, classes): many small products, frame by frame, both ways."""
        salience: Tensor = self.classes(self.gru(features)[0]).sigmoid()
        return salience

    def _unet(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for level in self.down:
            x = level(x)
            skips.append(x)
            x = F.avg_pool2d(x, 2)
        x = self.bottleneck(x)
        for number in range(len(self.up) - 1):
            x = self._merged(number, x, skips.pop())
        return self._last_level(x, skips.pop())

    def _merged(self, level: int, x: Tensor, skip: Tensor) -> Tensor:
        merged: Tensor = self.merge[level](torch.cat((self.up[level](x).relu_(), skip), dim=1))
        return merged

    def _last_level(self, x: Tensor, skip: Tensor) -> Tensor:
        """The level that takes most memory, a stretch of frames after the other, each with all that it depends on."""
        frames, last = skip.shape[2], len(self.up) - 1
        halo = 2 * (self.config.blocks + 2)  # two convolutions a block, the planes', and the upsampling; even
        parts = []
        for stretch in Span(0, frames).tiles(_STRETCH_FRAMES):
            wide = stretch.widened(halo, frames)
            below = x[:, :, wide.start // 2 : wide.stop // 2]
            planes = self.planes(self._merged(last, below, skip[:, :, wide.slice]))
            parts.append(planes[:, :, stretch.shifted(-wide.start).slice])
        return torch.cat(parts, dim=2)


def _state(tensors: Mapping[str, Tensor], config: RmvpeConfig, *, half: bool) -> dict[str, Tensor]:
    """Rmvpe's state from rmvpe.pt's tensors, the batch norms folded.

    One at a time: the whole file in single precision beside the result would double the memory.
    """
    state: dict[str, Tensor] = {}
    state["input_scale"], state["input_shift"] = _scale_and_shift(tensors, "unet.encoder.bn")
    for name, tensor in tensors.items():
        for theirs, ours in (("cnn.", "planes."), ("fc.0.gru.", "gru."), ("fc.1.", "classes.")):
            if name.startswith(theirs):
                state[ours + name.removeprefix(theirs)] = tensor.float()
    for level in range(config.levels):
        base = f"unet.decoder.layers.{level}.conv1"
        state |= _folded(tensors, f"up.{level}", f"{base}.0", f"{base}.1", out_dim=1)
    stages = (
        ("down", "unet.encoder.layers.{}.conv", config.levels),
        ("bottleneck", "unet.intermediate.layers.{}.conv", config.bottleneck_layers),
        ("merge", "unet.decoder.layers.{}.conv2", config.levels),
    )
    for stage, their_stage, layers in stages:
        for layer, n in product(range(layers), range(config.blocks)):
            ours, theirs = f"{stage}.{layer}.{n}", f"{their_stage.format(layer)}.{n}"
            for part, conv, norm in (("first", 0, 1), ("second", 3, 4)):
                names = f"{ours}.{part}", f"{theirs}.conv.{conv}", f"{theirs}.conv.{norm}"
                state |= _folded(tensors, *names, half=half and stage == "bottleneck")
            for kind in ("weight", "bias"):
                if (shortcut := tensors.get(f"{theirs}.shortcut.{kind}")) is not None:
                    state[f"{ours}.shortcut.{kind}"] = shortcut.float()
    return state


def _scale_and_shift(tensors: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """What a batch norm comes to."""
    parts = ("weight", "bias", "running_mean", "running_var")
    weight, bias, mean, variance = (tensors[f"{name}.{part}"].double() for part in parts)
    scale = weight * (variance + 1e-5).rsqrt()
    return scale.float(), (bias - mean * scale).float()


def _folded(
    tensors: Mapping[str, Tensor], ours: str, conv: str, norm: str, *, out_dim: int = 0, half: bool = False
) -> dict[str, Tensor]:
    """A convolution's state with its norm folded in, or beside its half-precision weights."""
    scale, shift = _scale_and_shift(tensors, norm)
    weight = tensors[f"{conv}.weight"]
    if half:
        kept = weight.contiguous(memory_format=torch.channels_last)
        return {f"{ours}.weight": kept, f"{ours}.scale": scale, f"{ours}.bias": shift}
    folded = torch.empty_like(weight, dtype=torch.float32, memory_format=torch.channels_last)
    torch.mul(weight, scale.reshape([-1 if axis == out_dim else 1 for axis in range(4)]), out=folded)
    return {f"{ours}.weight": folded, f"{ours}.bias": shift}
