"""Weights in the kernels' layout."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from menura.kernels.library import CHANNEL_MULTIPLE, Algorithm
from menura.kernels.transforms import IMAGE_POINTS, TOOM_COOK_POINTS, fourier_weights, toom_cook


def padded_channels(channels: int) -> int:
    """Rounded up to the kernels' multiple."""
    return -(-channels // CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE


def best_algorithm(taps: int) -> Algorithm:
    """The fastest for an odd number of taps."""
    if taps == 3:
        return Algorithm.TOOM_COOK_6_3
    if taps == 5:  # the Fourier transform takes 0.84 of its products, but six times the weights and as much time
        return Algorithm.TOOM_COOK_4_5
    return Algorithm.FOURIER_32 if 7 <= taps <= 15 else Algorithm.DIRECT


@cache
def _weight_transform(algorithm: Algorithm, taps: int) -> np.ndarray:
    if algorithm in (Algorithm.TOOM_COOK_6_3, Algorithm.TOOM_COOK_4_5):
        return toom_cook(len(TOOM_COOK_POINTS) + 2 - taps, taps, TOOM_COOK_POINTS).weights
    if algorithm == Algorithm.FOURIER_32:
        return fourier_weights(taps)
    return np.eye(taps)


def convolution_size(channels_out: int, channels_in: int, taps: int, algorithm: Algorithm) -> int:
    """Floats that `pack_convolution` gives."""
    points = len(_weight_transform(algorithm, taps))
    return points * padded_channels(channels_out) * padded_channels(channels_in)


def pack_convolution(weight: Tensor, algorithm: Algorithm, panel_channels: int) -> Tensor:
    """Weights (channels_out, channels_in, taps), transformed (in float64) and in panels.

    Returns:
        Flat float32: for every point, panels of (channels_in, at most panel_channels).
    """
    out, channels_in, taps = weight.shape
    transform = torch.from_numpy(_weight_transform(algorithm, taps))
    rows = _with_zeros(weight.double(), padded_channels(out), padded_channels(channels_in))
    points = transform @ rows.permute(2, 1, 0).reshape(taps, -1)
    return _panels(points.float().view(-1, padded_channels(channels_in), padded_channels(out)), panel_channels)


def pack_upsampling(weight: Tensor, rate: int, panel_channels: int) -> Tensor:
    """Weights (channels_in, channels_out, taps) of a transposed convolution in panels, by tap modulo rate."""
    channels_in, out, taps = weight.shape
    order = [tap for remainder in range(rate) for tap in range(remainder, taps, rate)]
    rows = _with_zeros(weight.float(), padded_channels(channels_in), padded_channels(out))
    return _panels(rows.permute(2, 0, 1)[order], panel_channels)


def pack_halving(weight: Tensor, panel_channels: int) -> Tensor:
    """Weights (channels_out, channels_in, 2 or 3) of a convolution of stride 2: see `Halving` in cpp/front.h."""
    out, channels_in, taps = weight.shape
    if taps == 2:
        return _panels(weight.float().permute(2, 1, 0).reshape(1, 2 * channels_in, out), panel_channels)
    outer = torch.from_numpy(toom_cook(len(IMAGE_POINTS), 2, IMAGE_POINTS).weights)
    even = outer @ weight[:, :, ::2].double().permute(2, 1, 0).reshape(2, -1)
    points = torch.cat([even.float().view(-1, channels_in, out), weight[:, :, 1].float().T[None]])
    return _panels(points, panel_channels)


def pack_image(weight: Tensor, panel_channels: int) -> Tensor:
    """Weights (channels_out, channels_in, 3, 3) in panels of (9, channels_in, at most panel_channels), flat."""
    out, channels_in = weight.shape[:2]
    rows = weight.permute(2, 3, 1, 0).reshape(9, channels_in, out)
    whole = out // panel_channels * panel_channels
    panels = rows[..., :whole].reshape(9, channels_in, -1, panel_channels).permute(2, 0, 1, 3)
    rest = rows[..., whole:].reshape(9, channels_in, -1, CHANNEL_MULTIPLE).permute(2, 0, 1, 3)
    return panels.flatten() if whole == out else torch.cat([panels.flatten(), rest.flatten()])


def pack_taps(weight: Tensor) -> Tensor:
    """Weights (many, taps) of a convolution with one channel on the other side, as (taps, padded channels)."""
    channels, taps = weight.shape
    packed = weight.new_zeros(taps, padded_channels(channels), dtype=torch.float32)
    packed[:, :channels] = weight.T
    return packed


def pack_bias(bias: Tensor | None, channels: int) -> Tensor:
    """(padded channels,); zeros for no bias."""
    packed = torch.zeros(padded_channels(channels), dtype=torch.float32)
    if bias is not None:
        packed[:channels] = bias
    return packed


def _with_zeros(weight: Tensor, first: int, second: int) -> Tensor:
    if weight.shape[:2] == (first, second):
        return weight
    padded = weight.new_zeros(first, second, weight.shape[2])
    padded[: weight.shape[0], : weight.shape[1]] = weight
    return padded


def _panels(points: Tensor, panel_channels: int) -> Tensor:
    """(points, channels_in, channels_out) to flat panels; a narrower last one for what is left."""
    count, channels_in, out = points.shape
    whole = out // panel_channels * panel_channels
    panels = points[..., :whole].reshape(count, channels_in, -1, panel_channels).transpose(1, 2).reshape(count, -1)
    # What is left goes in panels of one vector, as narrow as the multiple allows.
    rest = points[..., whole:].reshape(count, channels_in, -1, CHANNEL_MULTIPLE).transpose(1, 2).reshape(count, -1)
    return torch.cat([panels, rest], dim=1).flatten().contiguous()
