"""RMVPE (Wei et al. 2023, arXiv:2306.15412): a U-Net over log-mel frames and a bidirectional GRU, to F0 salience.

Keys follow the published rmvpe.pt (`E2E(4, 1, (2, 2))`). Batch norms are folded into the convolutions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from menura.models.blank import reading_weights, without_weights
from menura.models.mel import magnitude_spectrogram, mel_filterbank, reflect_pad
from menura.models.spans import Span

SAMPLE_RATE_HZ = 16_000
HOP_SAMPLES = 160
N_FFT = 1024
N_MELS = 128
LOW_HZ = 30.0
HIGH_HZ = 8000.0
MEL_FLOOR = 1e-5

FIRST_BIN_CENTS = 1997.3794084376191
"""Cents above 10 Hz of the first class (31.7 Hz)."""
BIN_CENTS = 20.0
NEIGHBOUR_BINS = 4
"""F0 is the mean of the bins around the strongest, weighted by their salience."""


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

    @property
    def frame_multiple(self) -> int:
        """The U-Net halves time at every level: frames must be a multiple of this."""
        return 1 << self.levels


def log_mel(samples: Tensor) -> Tensor:
    """RMVPE's input: (batch, samples) at 16 kHz, at least one, to (batch, 128, samples // 160 + 1).

    Frame i is centred on sample 160 i, the ends are reflected.
    """
    half = N_FFT // 2
    magnitude = magnitude_spectrogram(reflect_pad(samples, half, half), n_fft=N_FFT, hop_length=HOP_SAMPLES)
    filters = mel_filterbank(
        sample_rate=SAMPLE_RATE_HZ, n_fft=N_FFT, n_mels=N_MELS, low_hz=LOW_HZ, high_hz=HIGH_HZ, htk=True
    )
    return (filters.to(samples) @ magnitude).clamp(min=MEL_FLOOR).log()


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


_STRETCH_FRAMES = 1024
"""Frames of the U-Net's last level at once."""


class Conv(nn.Conv2d):
    """A 3 x 3 convolution with its batch norm folded in, and a ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """relu(convolution) + residual."""
        y = super().forward(x).relu_()
        return y if residual is None else y.add_(residual)


class HalfConv(nn.Module):
    """The same with the file's half-precision weights and the batch norm beside them: single precision when used.

    The widest layers have four fifths of the weights and see the fewest places, so that converting costs little.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.empty(outputs, inputs, 3, 3, dtype=torch.float16))
        self.register_buffer("scale", torch.empty(outputs, 1, 1))
        self.register_buffer("bias", torch.empty(outputs, 1, 1))

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """relu(convolution) + residual."""
        y = F.conv2d(x, self.weight.to(x.dtype), padding=1).mul_(self.scale).add_(self.bias).relu_()
        return y if residual is None else y.add_(residual)


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, *, half: bool = False) -> None:
        super().__init__()
        kind = HalfConv if half else Conv
        self.first: nn.Module = kind(inputs, outputs)
        self.second: nn.Module = kind(outputs, outputs)
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

        Raises ValueError if one is missing or of another shape.
        """
        config = config or RmvpeConfig()
        source = _Source(tensors)
        with without_weights():
            model = cls(config, half=source.is_half)
        with reading_weights():
            model.load_state_dict(source.state(config), assign=True)
        return model.eval().requires_grad_(False)

    def forward(self, mel: Tensor) -> Tensor:
        """(batch, 128, frames) of `log_mel` to salience (batch, frames, classes) in 0..1."""
        return self.salience(self.features(mel))[:, : mel.shape[-1]]

    def features(self, mel: Tensor) -> Tensor:
        """The U-Net's output (batch, frames, features); frames are rounded up to its multiple by reflection."""
        x = reflect_pad(mel, 0, -mel.shape[-1] % self.config.frame_multiple)
        x = x.transpose(1, 2).unsqueeze(1) * self.input_scale + self.input_shift
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


class _Source:
    """Reads rmvpe.pt's tensors into Rmvpe's state, folding the batch norms."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    def _tensor(self, name: str) -> Tensor:
        # One at a time: the whole file in single precision beside the result would double the memory.
        return self.tensors[name].to(torch.float32)

    @cached_property
    def is_half(self) -> bool:
        """True if all of the widest layers' weights are in half precision, as the published file has them."""
        widest = [t for name, t in self.tensors.items() if name.startswith("unet.intermediate.") and t.dim() == 4]
        return bool(widest) and all(tensor.dtype == torch.float16 for tensor in widest)

    def state(self, config: RmvpeConfig) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {}
        state["input_scale"], state["input_shift"] = self._norm("unet.encoder.bn")
        for level in range(config.levels):
            for n in range(config.blocks):
                self._block(state, f"down.{level}.{n}", f"unet.encoder.layers.{level}.conv.{n}")
                self._block(state, f"merge.{level}.{n}", f"unet.decoder.layers.{level}.conv2.{n}")
            self._conv(state, f"up.{level}", f"unet.decoder.layers.{level}.conv1", (0, 1), out_dim=1)
        for layer in range(config.bottleneck_layers):
            for n in range(config.blocks):
                self._block(state, f"bottleneck.{layer}.{n}", f"unet.intermediate.layers.{layer}.conv.{n}")
        for name in self.tensors:
            for theirs, ours in (("cnn.", "planes."), ("fc.0.gru.", "gru."), ("fc.1.", "classes.")):
                if name.startswith(theirs):
                    state[ours + name[len(theirs) :]] = self._tensor(name)
        return state

    def _norm(self, name: str) -> tuple[Tensor, Tensor]:
        """Scale and shift that a batch norm comes to."""
        weight, bias, mean, variance = (
            self._tensor(f"{name}.{part}").double() for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = weight * (variance + 1e-5).rsqrt()
        return scale.float(), (bias - mean * scale).float()

    def _block(self, state: dict[str, Tensor], ours: str, theirs: str) -> None:
        self._conv(state, f"{ours}.first", f"{theirs}.conv", (0, 1))
        self._conv(state, f"{ours}.second", f"{theirs}.conv", (3, 4))
        for kind in ("weight", "bias"):
            if f"{theirs}.shortcut.{kind}" in self.tensors:
                state[f"{ours}.shortcut.{kind}"] = self._tensor(f"{theirs}.shortcut.{kind}")

    def _conv(
        self, state: dict[str, Tensor], ours: str, theirs: str, places: tuple[int, int], out_dim: int = 0
    ) -> None:
        scale, shift = self._norm(f"{theirs}.{places[1]}")
        weight = self.tensors[f"{theirs}.{places[0]}.weight"]
        if self.is_half and ours.startswith("bottleneck."):
            state[f"{ours}.weight"] = weight.half().contiguous(memory_format=torch.channels_last)
            state[f"{ours}.scale"], state[f"{ours}.bias"] = scale[:, None, None], shift[:, None, None]
            return
        shape = [1, 1, 1, 1]
        shape[out_dim] = -1
        folded = torch.empty_like(weight, dtype=torch.float32, memory_format=torch.channels_last)
        state[f"{ours}.weight"] = torch.mul(weight, scale.reshape(shape), out=folded)
        state[f"{ours}.bias"] = shift
