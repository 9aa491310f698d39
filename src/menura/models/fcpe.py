"""FCPE (fast context-based pitch estimation, arXiv:2509.15140): convolutions over log-mel frames, to F0 salience.

Keys follow the file `fcpe_c_v001.pt` that the package torchfcpe 0.0.4 carries (its `conv_only` kind, without
attention).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from menura.models.mel import magnitude_spectrogram, mel_filterbank, reflect_pad
from menura.models.weights import classic, reading_weights, without_weights

SAMPLE_RATE_HZ, HOP_SAMPLES = 16_000, 160
N_FFT, N_MELS = 1024, 128
MEL_FLOOR, POWER_FLOOR = 1e-5, 1e-9
DEPTHWISE_TAPS = 31
NEIGHBOUR_BINS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class FcpeConfig:
    """Sizes of the network, from the file's `config_dict`."""

    hidden_dims: int
    n_layers: int
    out_dims: int

    @classmethod
    def from_fields(cls, fields: Mapping[str, object]) -> FcpeConfig:
        """Read a file's `config_dict`. Raises ValueError for another network or another mel spectrogram."""
        model, mel = (part if isinstance(part := fields.get(name), Mapping) else {} for name in ("model", "mel"))
        expected = {"sr": SAMPLE_RATE_HZ, "num_mels": N_MELS, "n_fft": N_FFT, "win_size": N_FFT}
        expected |= {"hop_size": HOP_SAMPLES, "fmin": 0, "fmax": SAMPLE_RATE_HZ // 2}
        wrong = [name for name, value in expected.items() if mel.get(name) != value]
        sizes = {name: model.get(name) for name in cls.__slots__}
        wrong += [name for name, value in sizes.items() if not isinstance(value, int) or value < 1]
        if wrong or not model.get("conv_only"):
            raise ValueError(f"describes another network than FCPE's ({', '.join(wrong) or 'conv_only'})")
        return cls(**sizes)  # type: ignore[arg-type]


def mel_filters() -> Tensor:
    """What `log_mel` needs, to be made once."""
    return mel_filterbank(sample_rate=SAMPLE_RATE_HZ, n_fft=N_FFT, n_mels=N_MELS)


def log_mel(samples: Tensor, filters: Tensor) -> Tensor:
    """FCPE's input: (batch, samples) at 16 kHz to (batch, samples // 160 + 1, 128).

    Frame i is centred on sample 160 i + 80, the ends are reflected.
    """
    length = samples.shape[-1]
    left = (N_FFT - HOP_SAMPLES) // 2
    right = max(left, N_FFT - length - left)
    # Too short to be mirrored: silence, as torchfcpe has it.
    padded = reflect_pad(samples, left, right) if right < length else F.pad(samples, (left, right))
    magnitude = magnitude_spectrogram(padded, n_fft=N_FFT, hop_length=HOP_SAMPLES, power_floor=POWER_FLOOR)
    mel = (filters @ magnitude).clamp(min=MEL_FLOOR).log().transpose(1, 2)
    missing = length // HOP_SAMPLES + 1 - mel.shape[1]
    return torch.cat((mel, mel[:, -1:].expand(-1, missing, -1)), dim=1) if missing > 0 else mel


class _Layer(nn.Module):
    """A conformer's convolution module beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        # Two-dimensional, because torch is over ten times slower at one-dimensional depthwise convolutions.
        taps = (1, DEPTHWISE_TAPS)
        self.depthwise = nn.Conv2d(2 * width, 2 * width, taps, padding=(0, DEPTHWISE_TAPS // 2), groups=2 * width)
        self.narrow = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = F.glu(self.widen(self.norm(x)), dim=-1)
        y = self.depthwise(y.transpose(1, 2).unsqueeze(2)).squeeze(2).transpose(1, 2)
        result: Tensor = x + self.narrow(F.silu(y))
        return result


class Fcpe(nn.Module):
    """Log-mel frames to salience over 360 bins of 20 cents."""

    cents: Tensor

    def __init__(self, config: FcpeConfig) -> None:
        super().__init__()
        width = config.hidden_dims
        self.first = nn.Conv1d(N_MELS, width, 3, padding=1)
        self.first_norm = nn.GroupNorm(4, width)
        self.second = nn.Conv1d(width, width, 3, padding=1)
        self.layers = nn.ModuleList(_Layer(width) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, config.out_dims)
        self.register_buffer("cents", torch.empty(config.out_dims))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], config: FcpeConfig) -> Fcpe:
        """Build the network from the file's `model` tensors. Raises ValueError if one is missing or misshapen."""
        with without_weights():
            model = cls(config)
        with reading_weights():
            model.load_state_dict(_state(tensors, config), assign=True)
        return model.eval().requires_grad_(False)

    def forward(self, mel: Tensor) -> Tensor:
        """(batch, frames, 128) of `log_mel` to salience (batch, frames, out_dims) in 0..1."""
        x = self.second(F.leaky_relu(self.first_norm(self.first(mel.transpose(1, 2)))))
        x = x.transpose(1, 2).contiguous()
        for layer in self.layers:
            x = layer(x)
        salience: Tensor = self.output(self.norm(x)).sigmoid()
        return salience

    def decode(self, salience: Tensor, threshold: float) -> Tensor:
        """Salience to F0, (batch, frames) in Hz: the mean of the bins around the strongest, weighted by their salience.

        0 (unvoiced) where no salience is above the threshold.
        """
        peak, centre = salience.max(dim=-1, keepdim=True)
        offsets = torch.arange(-NEIGHBOUR_BINS, NEIGHBOUR_BINS + 1, device=salience.device)
        # At the table's two ends the last bin counts repeatedly, as in torchfcpe.
        bins = (centre + offsets).clamp(0, salience.shape[-1] - 1)
        weights = salience.gather(-1, bins)
        mean = (weights * self.cents[bins]).sum(dim=-1) / weights.sum(dim=-1).clamp(min=1e-30)
        f0_hz = 10.0 * torch.exp2(mean / 1200.0)
        return torch.where(peak.squeeze(-1) > threshold, f0_hz, torch.zeros_like(f0_hz))


def _state(tensors: Mapping[str, Tensor], config: FcpeConfig) -> dict[str, Tensor]:
    """The file's tensors under this module's names, the output's weight norm folded."""
    tensors = classic(tensors)
    names = {"first": "input_stack.0", "first_norm": "input_stack.1", "second": "input_stack.3", "norm": "norm"}
    for n in range(config.n_layers):
        for ours, theirs in {"norm": "0", "widen": "2", "depthwise": "4.conv", "narrow": "6"}.items():
            names[f"layers.{n}.{ours}"] = f"net.encoder_layers.{n}.conformer.net.{theirs}"
    state = {f"{a}.{kind}": tensors[f"{b}.{kind}"].float() for a, b in names.items() for kind in ("weight", "bias")}
    for name, tensor in state.items():
        if name.endswith(("widen.weight", "narrow.weight")):
            state[name] = tensor.squeeze(-1)
        elif name.endswith("depthwise.weight"):
            state[name] = tensor.unsqueeze(2).contiguous(memory_format=torch.channels_last)
    gain, direction = (tensors[f"output_proj.weight_{part}"].double() for part in "gv")
    state["output.weight"] = (gain * direction / direction.norm(dim=1, keepdim=True)).float()
    state["output.bias"], state["cents"] = tensors["output_proj.bias"].float(), tensors["cent_table"].float()
    return state
