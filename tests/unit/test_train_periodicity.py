"""The loss that hears a buzz at the frame rate, and harmonics that were lost."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from menura.train.losses import PeriodicityLoss
from menura.train.spec import starter_config

RATE, FRAMES = 24_000, 100
F0_HZ = 210.0


def voice(noise_db: float, seed: int) -> torch.Tensor:
    """(1, samples): pulses at F0, and noise."""
    torch.manual_seed(seed)
    t = torch.arange(FRAMES * 240) / RATE
    harmonics = sum(torch.sin(2 * math.pi * F0_HZ * k * t + k * k) for k in range(1, 50)) * 0.02
    return (harmonics + 10 ** (noise_db / 20) * torch.randn(len(t)))[None]


def f0(hz: float) -> torch.Tensor:
    return torch.full((1, FRAMES), hz)


@pytest.fixture
def loss() -> PeriodicityLoss:
    return PeriodicityLoss(starter_config(1))


def test_equal_sound_has_no_distance(loss: PeriodicityLoss) -> None:
    sound = voice(-40, 0)
    assert float(loss(sound, sound, f0(F0_HZ))) == 0


def test_a_buzz_at_the_frame_rate_is_heard(loss: PeriodicityLoss) -> None:
    noise, other = voice(-20, 0), voice(-20, 1)
    pattern = torch.randn(240) * 0.1
    buzz = noise + pattern.repeat(FRAMES)
    unvoiced = f0(0.0)
    assert float(loss(buzz, noise, unvoiced)) > 5 * float(loss(other, noise, unvoiced))


def test_lost_harmonics_are_heard(loss: PeriodicityLoss) -> None:
    clear, hoarse, again = voice(-50, 0), voice(-15, 1), voice(-50, 2)
    assert float(loss(hoarse, clear, f0(F0_HZ))) > 0.4
    assert float(loss(again, clear, f0(F0_HZ))) < 0.01
    # Where nothing is voiced, lost harmonics don't count.
    assert float(loss(hoarse, clear, f0(0.0))) < 0.3 * float(loss(hoarse, clear, f0(F0_HZ)))


def test_it_has_a_gradient_even_for_silence(loss: PeriodicityLoss) -> None:
    made = torch.zeros(1, FRAMES * 240, requires_grad=True)
    loss(made, voice(-40, 0), f0(F0_HZ)).backward()
    assert made.grad is not None
    assert torch.isfinite(made.grad).all()


@pytest.mark.parametrize("rate", [24_000, 32_000, 40_000, 48_000])
def test_every_rate(rate: int) -> None:
    config = dataclasses.replace(starter_config(1), sample_rate=rate, upsample_rates=(rate // 100, 1, 1, 1))
    sound = torch.randn(2, 40 * config.frame_samples)
    assert torch.isfinite(PeriodicityLoss(config)(sound, sound.roll(1), torch.full((2, 40), 100.0)))
