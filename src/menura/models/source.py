"""The harmonic source of the NSF vocoders (Wang et al., 2019): a sine at F0 whose phase never restarts.

RVC sums phase within a window only, from zero. Here it is the float64 prefix sum of all F0 before the window, which the
caller carries, so that two windows that overlap have the same sine and a seam between them can't be heard.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from menura.system.device import sent

SINE_AMPLITUDE = 0.1
VOICED_NOISE_STD = 0.003
UNVOICED_NOISE_STD = SINE_AMPLITUDE / 3


def wide(x: Tensor) -> Tensor:
    """The tensor in float64; on the CPU where the device has none (Apple's GPUs)."""
    return (x.cpu() if x.device.type == "mps" else x).to(torch.float64)


def advance_phase(phase_cycles: Tensor, f0_hz: Tensor, frame_s: float) -> Tensor:
    """The phase (batch,) float64 before some frames of F0 (batch, frames) to that after them, in [0, 1)."""
    return torch.remainder(phase_cycles + wide(f0_hz).sum(dim=1) * frame_s, 1.0)


def sample_phases(phase_cycles: Tensor, f0_hz: Tensor, frame_samples: int, sample_rate: int) -> Tensor:
    """Phase at every sample, (batch, frames * frame_samples) float64 in [0, 1), where `wide` puts F0 (batch, frames).

    The first sample of a frame is already one step of its F0 beyond the phase before it.
    """
    step = wide(f0_hz) / sample_rate
    before = sent(phase_cycles, step.device)[:, None] + (step.cumsum(dim=1) - step) * frame_samples
    within = torch.arange(1, frame_samples + 1, dtype=torch.float64, device=step.device)
    return torch.remainder(before[:, :, None] + step[:, :, None] * within, 1.0).flatten(1)


class SineSource(nn.Module):
    """Sine, overtones and noise, mixed by a learned linear layer and tanh (`m_source` of RVC's checkpoints)."""

    def __init__(self, sample_rate: int, frame_samples: int, overtones: int = 0) -> None:
        super().__init__()
        self.sample_rate, self.frame_samples, self.overtones = sample_rate, frame_samples, overtones
        self.l_linear = nn.Linear(1 + overtones, 1)

    def forward(self, f0_hz: Tensor, phase_cycles: Tensor, noise: Tensor | None, noise_scale: float) -> Tensor:
        """The excitation (batch, 1, frames * frame_samples).

        Args:
            f0_hz: (batch, frames), 0 where unvoiced.
            phase_cycles: (batch,) float64, phase before the first sample.
            noise: (batch, frames * frame_samples) standard normal, or None for none.
            noise_scale: 1 is RVC's level: 0.003 rms under the sine, a third of its amplitude where unvoiced.
        """
        phases = sample_phases(phase_cycles, f0_hz, self.frame_samples, self.sample_rate)
        voiced = (f0_hz > 0).repeat_interleave(self.frame_samples, dim=1)
        weight = self.l_linear.weight[0]
        mixed = weight[0] * sine_wave(phases, voiced)
        for overtone in range(1, 1 + self.overtones):
            mixed = mixed + weight[overtone] * sine_wave((1 + overtone) * phases, voiced)
        # Independent noise on every overtone adds up to one noise of the weights' norm.
        gain = torch.linalg.vector_norm(weight) if self.overtones else weight[0]
        return torch.tanh(with_noise(mixed, voiced, noise, gain * noise_scale) + self.l_linear.bias)[:, None]


def sine_wave(phases: Tensor, voiced: Tensor) -> Tensor:
    """RVC's sine, 0 where unvoiced: (batch, samples) float32 from phases in cycles, on the device of `voiced`."""
    # Reduced to one turn before it is narrowed: float32 then costs 4e-7 radians at most.
    turn = torch.remainder(phases, 1.0).float().to(voiced.device)
    return turn.mul_(2 * math.pi).sin_().mul_(SINE_AMPLITUDE).mul_(voiced)


def with_noise(wave: Tensor, voiced: Tensor, noise: Tensor | None, gain: Tensor | float) -> Tensor:
    """The wave plus RVC's noise, which is stronger where there is no voice; all (batch, samples), gain 1 is RVC's."""
    if noise is None:
        return wave
    return wave + torch.where(voiced, VOICED_NOISE_STD, UNVOICED_NOISE_STD) * noise * gain
