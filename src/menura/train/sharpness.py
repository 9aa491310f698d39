"""What a few hundred steps leave blurred, made sharp: formants, which spectral losses average where unsure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from menura.checkpoints.voice import LoadedVoice, build_synthesizer
from menura.f0.contour import coarse_bins
from menura.models.source_filter import EXCITATIONS, SourceFilter
from menura.models.weights import State
from menura.train.data.features import load_features

_REACH_BINS = 20.0
"""Formants are told from the spectrum around them, up to a kilohertz."""


def sharpened(voice: LoadedVoice, slices: Iterable[Path], amount: float) -> State:
    """Source-filter's weights with filters that stand out by `1 + amount` as many decibels from themselves smoothed.

    Linear in a filter's logarithm, it goes into the last layer. Phases stay, and so does the mean over the slices,
    by which a voice is known.
    """
    weight, bias = (voice.state[f"dec.conv_post.{name}"].float().clone() for name in ("weight", "bias"))
    mean, bins = _mean_filters(voice, slices), len(bias) // (EXCITATIONS + 1)
    far = (torch.arange(bins)[:, None] - torch.arange(bins)) / _REACH_BINS
    near = 1 + torch.cos(math.pi * far.clamp(-1, 1))
    sharper = amount * (torch.eye(bins) - near / near.sum(dim=1, keepdim=True))
    for rows in (slice(first, first + bins) for first in range(0, EXCITATIONS * bins, bins)):
        weight[rows] += sharper @ weight[rows]
        bias[rows] += sharper @ (bias[rows] - mean[rows])
    return {**voice.state, "dec.conv_post.weight": weight, "dec.conv_post.bias": bias}


@torch.no_grad()
def _mean_filters(voice: LoadedVoice, slices: Iterable[Path]) -> Tensor:
    """What the last layer says, on average, where slices are voiced."""
    model, names, drawn = build_synthesizer(voice), voice.metadata.speaker_names, []
    assert isinstance(model.dec, SourceFilter)
    for clip in map(load_features, slices):
        g = model.condition(torch.tensor([names.index(clip.speaker) if clip.speaker in names else 0]))
        content = clip.content["own"][:1].float().repeat_interleave(2, dim=1)
        f0_hz = clip.f0_hz[None, : content.shape[1]]
        prior = model.encode(content[:, : f0_hz.shape[1]], torch.from_numpy(coarse_bins(f0_hz.numpy())), None)
        filters = model.dec.filters(model.reverse_flow(prior.mean, None, g), g)[0]
        drawn.append(filters[(f0_hz[0] > 0).repeat_interleave(len(filters) // f0_hz.shape[1])])
    return torch.cat(drawn).mean(dim=0).nan_to_num()  # of whisper nothing is voiced
