"""RVC's discriminators, which tell a voice's sound from a network's (HiFi-GAN, MelGAN)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from menura.models.layers import LEAKY_SLOPE, maybe_weight_norm


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What one discriminator says: its scores, and its layers' outputs for feature matching."""

    scores: Tensor
    features: tuple[Tensor, ...]


RVC_PERIODS = {"v1": (2, 3, 5, 7, 11, 17), "v2": (2, 3, 5, 7, 11, 17, 23, 37)}
_PERIOD_LAYERS = ((1, 5, 3), (4, 5, 3), (16, 5, 3), (32, 5, 3), (32, 5, 1))
_SCALE_LAYERS = ((0.5, 15, 1), (2, 41, 4), (8, 41, 4), (32, 41, 4), (32, 41, 4), (32, 5, 1))
"""Channels as multiples of the width, kernel, stride."""


class Discriminator(nn.Module):
    """HiFi-GAN's over rows of a period; without one MelGAN's, over the samples themselves at the full rate."""

    def __init__(self, width: int, period: int | None) -> None:
        super().__init__()
        self.period = period

        def make(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
            if period:
                conv: nn.Module = nn.Conv2d(inputs, outputs, (kernel, 1), (stride, 1), (kernel // 2, 0))
            else:
                groups = max(1, inputs // 4) if stride > 1 else 1
                conv = nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)
            return maybe_weight_norm(conv, training=True)

        layers = _PERIOD_LAYERS if period else _SCALE_LAYERS
        widths = [1, *(int(width * factor) for factor, _, _ in layers)]
        self.convs = nn.ModuleList(
            make(*channels, kernel, stride)
            for channels, (_, kernel, stride) in zip(pairwise(widths), layers, strict=True)
        )
        self.conv_post = make(widths[-1], 1, 3, 1)

    def forward(self, audio: Tensor) -> Judgement:
        """(batch, samples) to scores."""
        x = audio[:, None]
        if self.period:
            x = F.pad(x, (0, -audio.shape[-1] % self.period), mode="reflect")
            x = x.view(*x.shape[:2], -1, self.period)
        features = [x := F.leaky_relu(conv(x), LEAKY_SLOPE) for conv in self.convs]
        scores = self.conv_post(x)
        return Judgement(scores=scores, features=(*features, scores))


class RvcDiscriminators(nn.Module):
    """RVC's own: one by scale, six (v1) or eight (v2) by period, named as in its D files."""

    def __init__(self, version: str, *, width: int = 32) -> None:
        """Random weights for version 'v1' or 'v2'; `width` is of the period discriminators' first layer."""
        super().__init__()
        periods = [Discriminator(width, period) for period in RVC_PERIODS[version]]
        self.discriminators = nn.ModuleList([Discriminator(width, None), *periods])

    def forward(self, audio: Tensor) -> list[Judgement]:
        """(batch, samples) to one judgement from each."""
        return [judge(audio) for judge in self.discriminators]
