"""Upsampling that makes no sound of its own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from menura.train.spec import Schedule
from menura.train.upsampling import even_out, unevenness

RVC_STAGES = [(10, 20), (10, 16), (6, 12), (12, 24), (4, 16), (2, 4)]


def decoder(stride: int, kernel: int, *, normalised: bool) -> nn.ConvTranspose1d:
    torch.manual_seed(stride)
    conv = nn.ConvTranspose1d(7, 5, kernel, stride, padding=(kernel - stride) // 2)
    return nn.utils.parametrizations.weight_norm(conv, dim=0) if normalised else conv


def inner(conv: nn.Module, x: torch.Tensor, stride: int) -> torch.Tensor:
    """What a constant gives, away from the ends: (out, frames, stride)."""
    with torch.no_grad():
        y = conv(x[None, :, None].expand(1, -1, 20))[0]
    return y[:, 4 * stride : 16 * stride].unflatten(-1, (-1, stride))


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize(("stride", "kernel"), RVC_STAGES)
def test_a_constant_comes_out_constant_and_nothing_else_is_lost(stride: int, kernel: int, normalised: bool) -> None:
    conv = decoder(stride, kernel, normalised=normalised)
    x = torch.randn(7)
    before, weight = inner(conv, x, stride), conv.weight.detach().clone()
    assert before.std(dim=-1).min() > 0.01  # the fault is there to be mended
    even_out(nn.Sequential(conv), 1.0)
    after = inner(conv, x, stride)
    assert after.std(dim=-1).max() < 1e-5
    torch.testing.assert_close(after.mean(-1), before.mean(-1))
    taken = weight - conv.weight
    for position in range(stride):  # the taps of a position change alike: steps in time stay
        same = taken[..., position::stride]
        torch.testing.assert_close(same, same[..., :1].expand_as(same))


def test_only_the_frame_rate_s_pattern_goes() -> None:
    first, second = decoder(10, 20, normalised=False), decoder(6, 12, normalised=True)
    kept = second.weight.detach().clone()
    even_out(nn.ModuleList([nn.Conv1d(2, 2, 1), first, second]), 1.0)
    assert unevenness(first.weight, 10).abs().max() < 1e-6
    assert torch.equal(second.weight, kept)
    even_out(nn.Conv1d(2, 2, 1), 1.0)  # nothing to do


def test_taken_out_in_portions() -> None:
    conv = decoder(10, 20, normalised=False)
    whole = unevenness(conv.weight, 10)
    even_out(conv, 0.25)
    torch.testing.assert_close(unevenness(conv.weight, 10), 0.75 * whole)
    schedule = Schedule(even_upsampling_from_step=100, even_upsampling_over_steps=4)
    left = 1.0
    for step in range(99, 106):
        left *= 1 - schedule.even_part(step)
        assert left == pytest.approx({99: 1.0, 100: 0.75, 101: 0.5, 102: 0.25}.get(step, 0.0))
    assert Schedule().even_part(10**6) == 0.0
    assert Schedule(even_upsampling_from_step=0).even_part(0) == 1.0
