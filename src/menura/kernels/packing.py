"""Weights in the kernels' layout, and the matrices of minimal filtering that transform them.

m outputs of an r-tap filter from m + r - 1 inputs are y = A [(G w) * (B x)]. Toom-Cook: S. Winograd, "Arithmetic
Complexity of Computations" (1980); A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks" (2016).
Fourier: overlap-save with a short real transform.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from functools import cache
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from menura.kernels.library import CHANNEL_MULTIPLE, Algorithm

FOURIER_SIZES = {Algorithm.FOURIER_32: 32, Algorithm.FOURIER_64: 64}
TOOM_COOK_POINTS = (Fraction(0), Fraction(1), Fraction(-1), Fraction(2), Fraction(-2), Fraction(1, 2), Fraction(-1, 2))
"""Where F(6,3) and F(4,5) evaluate their polynomials, besides infinity: small powers of two round least."""

TOOM_COOK_SIZES = ((6, 3), (4, 5))
"""(outputs, taps) of the tiles that are compiled, by the same eight points."""

IMAGE_POINTS = (Fraction(0), Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2))
"""Where F(4,3) of both axes of an image and F(5,2) do, besides infinity: of many such choices the one that rounds least
(3e-6 of full scale with 256 channels; 0, ±1, ±2 gives 8e-6)."""


class FilterMatrices(NamedTuple):
    """All float64."""

    inputs: np.ndarray  # B: (points, inputs)
    weights: np.ndarray  # G: (points, taps)
    outputs: np.ndarray  # A: (outputs, points)


def toom_cook(outputs: int, taps: int, points: tuple[Fraction, ...]) -> FilterMatrices:
    """Exact matrices of F(outputs, taps), scaled by powers of two so that B and A are about 1.

    A filter is the transpose of a product of polynomials, so B is the transpose of what brings the product's values
    back to its coefficients (Lagrange). There are `outputs + taps - 2` points; infinity is added.
    """
    inputs = outputs + taps - 1
    if len(set(points)) != inputs - 1:
        raise ValueError(f"F({outputs},{taps}) needs {inputs - 1} different points")
    others = [[other for other in points if other != point] for point in points]
    divisors = [prod(point - other for other in rest) for point, rest in zip(points, others, strict=True)]
    lagrange = [[c / divisor for c in _monic(rest)] for divisor, rest in zip(divisors, others, strict=True)]
    b = np.array([*([*map(float, row), 0.0] for row in lagrange), [*map(float, _monic(points))]])
    g, a = _powers(points, taps), _powers(points, outputs).T
    for point in range(inputs):
        for scale in (_power_of_two(b[point]), _power_of_two(a[:, point])):
            g[point] *= scale
        b[point] /= _power_of_two(b[point])
        a[:, point] /= _power_of_two(a[:, point])
    return FilterMatrices(inputs=b, weights=g, outputs=a)


def _monic(roots: Iterable[Fraction]) -> list[Fraction]:
    """Coefficients of the product of all x - root, the constant first."""
    zero, coefficients = Fraction(0), [Fraction(1)]
    for root in roots:
        shifted = [zero, *coefficients]
        coefficients = [high - root * low for high, low in zip(shifted, [*coefficients, zero], strict=True)]
    return coefficients


def _powers(points: tuple[Fraction, ...], count: int) -> np.ndarray:
    """Values of a polynomial of that many coefficients at the points and at infinity (its last coefficient)."""
    return np.array([*([float(point**power) for power in range(count)] for point in points), np.eye(count)[-1]])


def _power_of_two(values: np.ndarray) -> float:
    return float(2.0 ** np.round(np.log2(np.abs(values).max())))


def fourier_weights(taps: int, size: int) -> np.ndarray:
    """G of a circular correlation by a real Fourier transform, a complex product as three real ones.

    (2 + 3 (size / 2 - 1), taps): the real bins 0 and size / 2, then c, d - c and c + d of every bin c + i d between.
    The inverse transform's factor 1 / size is in here.
    """
    spectrum = np.conj(np.fft.rfft(np.eye(taps), size, axis=1)).T / size
    rows = [spectrum[0].real, spectrum[-1].real]
    for bin_ in spectrum[1:-1]:
        rows += [bin_.real, bin_.imag - bin_.real, bin_.real + bin_.imag]
    return np.stack(rows)


def padded_channels(channels: int) -> int:
    """Rounded up to the kernels' multiple."""
    return -(-channels // CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE


def padded(x: Tensor, dim: int = -1) -> Tensor:
    """With zeros after the channels, which lie along a dimension counted from the last; x itself where none miss."""
    missing = -x.shape[dim] % CHANNEL_MULTIPLE
    return F.pad(x, [0, 0] * (-1 - dim) + [0, missing]) if missing else x


def best_algorithm(taps: int, channels: int) -> Algorithm:
    """The fastest for an odd number of taps, and the larger number of channels."""
    # For 5 taps the Fourier transform takes 0.84 of the products, but six times the weights and as much time.
    few = {3: Algorithm.TOOM_COOK_6_3, 5: Algorithm.TOOM_COOK_4_5}
    # The larger transform takes a fifth fewer products with 11 taps, but twice the weights: more than a cache has with
    # more channels, and with fewer the transforms themselves are most of the time.
    fourier = Algorithm.FOURIER_64 if taps > 9 and 32 < channels <= 128 else Algorithm.FOURIER_32
    return few.get(taps, fourier if 7 <= taps <= 15 else Algorithm.DIRECT)


@cache
def weight_transform(algorithm: Algorithm, taps: int) -> np.ndarray:
    """G of what a convolution is computed by: (points, taps)."""
    if algorithm in (Algorithm.TOOM_COOK_6_3, Algorithm.TOOM_COOK_4_5):
        return toom_cook(len(TOOM_COOK_POINTS) + 2 - taps, taps, TOOM_COOK_POINTS).weights
    return fourier_weights(taps, FOURIER_SIZES[algorithm]) if algorithm in FOURIER_SIZES else np.eye(taps)


def pack_convolution(weight: Tensor, algorithm: Algorithm, panel_channels: int) -> Tensor:
    """Weights (channels_out, channels_in, taps), transformed in float64: for every point panels, flat float32."""
    rows = padded(padded(weight.double(), -2), -3).permute(2, 1, 0)
    points = torch.from_numpy(weight_transform(algorithm, len(rows))) @ rows.reshape(len(rows), -1)
    return panels(points.float().view(-1, *rows.shape[1:]), panel_channels)


def pack_upsampling(weight: Tensor, rate: int, panel_channels: int) -> Tensor:
    """Weights (channels_in, channels_out, taps) of a transposed convolution in panels, by tap modulo rate."""
    taps = weight.shape[2]
    order = [tap for remainder in range(rate) for tap in range(remainder, taps, rate)]
    return panels(padded(padded(weight.float(), -2), -3).permute(2, 0, 1)[order], panel_channels)


def pack_halving(weight: Tensor, panel_channels: int) -> Tensor:
    """Weights (channels_out, channels_in, 2 or 3) of a convolution of stride 2: see `Halving` in cpp/front.h."""
    out, channels_in, taps = weight.shape
    if taps == 2:
        return panels(weight.float().permute(2, 1, 0).reshape(1, 2 * channels_in, out), panel_channels)
    outer = torch.from_numpy(toom_cook(len(IMAGE_POINTS), 2, IMAGE_POINTS).weights)
    even = outer @ weight[:, :, ::2].double().permute(2, 1, 0).reshape(2, -1)
    points = torch.cat([even.float().view(-1, channels_in, out), weight[:, :, 1].float().T[None]])
    return panels(points, panel_channels)


def pack_taps(weight: Tensor) -> Tensor:
    """Weights (many, taps) of a convolution with one channel on the other side, as (taps, padded channels)."""
    return padded(weight.T.float()).clone(memory_format=torch.contiguous_format)


def pack_bias(bias: Tensor) -> Tensor:
    return padded(bias.float()).clone()


def panels(points: Tensor, wide: int, narrow: int = CHANNEL_MULTIPLE) -> Tensor:
    """(points, channels_in, channels_out) flat, in panels of so many outputs; in narrower ones what is left."""
    count, channels_in, out = points.shape
    parts = (points[..., : out // wide * wide], wide), (points[..., out // wide * wide :], narrow)
    return torch.cat(
        [part.reshape(count, channels_in, -1, n).transpose(1, 2).reshape(count, -1) for part, n in parts], dim=1
    ).flatten()
