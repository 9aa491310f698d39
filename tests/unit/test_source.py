"""The harmonic source: RVC's wave, and a phase that runs on over any split."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from menura.models.refinegan import SmoothSineSource, lowpass_decimate
from menura.models.source import SineSource, advance_phase, sample_phases

RATE, HOP = 4000, 40
FRAME_S = HOP / RATE
F0_HZ = torch.tensor([[0.0, 110.0, 123.4, 880.0, 0.0, 0.0, 55.5, 333.3, 700.1]])
START = torch.zeros(1, dtype=torch.float64)


def make_source(weight: float = 1.0, bias: float = 0.0) -> SineSource:
    source = SineSource(RATE, HOP)
    with torch.no_grad():
        source.l_linear.weight.fill_(weight)
        source.l_linear.bias.fill_(bias)
    return source.requires_grad_(False)


def reference_wave(f0_hz: Tensor) -> list[float]:
    """The definition, a sample at a time."""
    phase, wave = 0.0, []
    for hz in f0_hz[0].tolist():
        for _ in range(HOP):
            phase += hz / RATE
            wave.append(math.tanh(0.1 * math.sin(2 * math.pi * phase)) if hz > 0 else 0.0)
    return wave


def test_wave_is_the_definition() -> None:
    wave = make_source()(F0_HZ, START, None, 1.0)
    assert wave.shape == (1, 1, F0_HZ.shape[1] * HOP)
    torch.testing.assert_close(wave[0, 0], torch.tensor(reference_wave(F0_HZ)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("split", range(1, F0_HZ.shape[1]))
def test_phase_runs_on_over_a_split(split: int) -> None:
    source = make_source()
    whole = source(F0_HZ, START, None, 1.0)
    later = advance_phase(START, F0_HZ[:, :split], FRAME_S)
    parts = [source(F0_HZ[:, :split], START, None, 1.0), source(F0_HZ[:, split:], later, None, 1.0)]
    torch.testing.assert_close(torch.cat(parts, dim=2), whole, atol=1e-6, rtol=0)


def test_phase_stays_exact_for_an_hour() -> None:
    f0_hz = torch.full((1, 360_000), 333.3)
    step = float(f0_hz[0, 0]) / RATE
    phases = sample_phases(START, f0_hz[:, -2:], HOP, RATE)
    after_an_hour = sample_phases(advance_phase(START, f0_hz[:, :-2], FRAME_S), f0_hz[:, -2:], HOP, RATE)
    expected = (359_998 * HOP * step) % 1.0
    moved = torch.remainder(after_an_hour - phases - expected + 0.5, 1.0) - 0.5
    assert moved.abs().max() < 1e-6


def test_unvoiced_frames_let_the_phase_stand() -> None:
    assert advance_phase(torch.tensor([0.25], dtype=torch.float64), torch.zeros(1, 50), FRAME_S).item() == 0.25


def test_noise_levels() -> None:
    noise = torch.ones(1, F0_HZ.shape[1] * HOP)
    source = make_source()
    silent, noisy = source(F0_HZ, START, None, 1.0), source(F0_HZ, START, noise, 0.5)
    added = (torch.atanh(noisy) - torch.atanh(silent))[0, 0].view(-1, HOP)
    voiced = F0_HZ[0] > 0
    torch.testing.assert_close(added[voiced], torch.full_like(added[voiced], 0.0015), atol=1e-6, rtol=0)
    torch.testing.assert_close(added[~voiced], torch.full_like(added[~voiced], 0.1 / 6), atol=1e-6, rtol=0)


def test_no_noise_is_the_same_as_none() -> None:
    noise = torch.randn(1, F0_HZ.shape[1] * HOP)
    source = make_source(1.5, 0.02)
    assert torch.equal(source(F0_HZ, START, noise, 0.0), source(F0_HZ, START, None, 1.0))


def test_rows_are_independent() -> None:
    source = make_source()
    both = source(torch.cat([F0_HZ, F0_HZ.flip(1)]), torch.tensor([0.1, 0.7], dtype=torch.float64), None, 1.0)
    alone = source(F0_HZ.flip(1), torch.tensor([0.7], dtype=torch.float64), None, 1.0)
    assert torch.equal(both[1:], alone)


def test_overtones_are_multiples_of_the_phase() -> None:
    source = SineSource(RATE, HOP, overtones=2).requires_grad_(False)
    weights = torch.tensor([0.7, -0.3, 0.2])
    source.l_linear.weight.copy_(weights)
    source.l_linear.bias.zero_()
    turns = sample_phases(START, F0_HZ, HOP, RATE)[0]
    voiced = (F0_HZ[0] > 0).repeat_interleave(HOP)
    waves = torch.stack([0.1 * torch.sin(2 * math.pi * n * turns) * voiced for n in (1, 2, 3)])
    expected = torch.tanh(weights.double() @ waves)
    torch.testing.assert_close(source(F0_HZ, START, None, 1.0)[0, 0].double(), expected, atol=1e-6, rtol=0)


def test_noise_of_overtones_has_the_level_of_their_sum() -> None:
    source = SineSource(RATE, HOP, overtones=1).requires_grad_(False)
    source.l_linear.weight.copy_(torch.tensor([[3.0, -4.0]]))
    source.l_linear.bias.zero_()
    unvoiced = torch.zeros(1, 2)
    sound = torch.atanh(source(unvoiced, START, torch.ones(1, 2 * HOP), 0.3))
    torch.testing.assert_close(sound, torch.full_like(sound, 0.3 * 5 * 0.1 / 3), atol=1e-6, rtol=0)


def test_smooth_source_is_its_definition() -> None:
    """RefineGAN's: F0 interpolated between frame centres, phase summed from the recording's start."""
    source = SmoothSineSource(RATE, HOP).requires_grad_(False)
    smooth = torch.nn.functional.interpolate(F0_HZ.double()[None], size=F0_HZ.shape[1] * HOP, mode="linear")[0, 0]
    sine = 0.1 * torch.sin(2 * math.pi * torch.cumsum(smooth / RATE, dim=0)) * (smooth > 0)
    expected = torch.tanh(source.merge[0].weight[0, 0].double() * sine)
    torch.testing.assert_close(source(F0_HZ, START, None, 1.0)[0, 0].double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("split", range(1, F0_HZ.shape[1] - 1))
def test_smooth_phase_runs_on_over_a_split(split: int) -> None:
    """But for half a frame at a window's edge, where the neighbour's F0 isn't known."""
    source = SmoothSineSource(RATE, HOP).requires_grad_(False)
    whole = source(F0_HZ, START, None, 1.0)
    later = advance_phase(START, F0_HZ[:, :split], FRAME_S)
    part = source(F0_HZ[:, split:], later, None, 1.0)
    torch.testing.assert_close(part[..., HOP:], whole[..., (split + 1) * HOP :], atol=1e-6, rtol=0)


def test_what_a_conversion_made_serves_training() -> None:
    rate = 7  # no other test's
    with torch.inference_mode():
        lowpass_decimate(torch.zeros(1, 1, 70), rate)
    sound = torch.zeros(1, 1, 70, requires_grad=True)
    lowpass_decimate(sound, rate).sum().backward()
    assert sound.grad is not None
