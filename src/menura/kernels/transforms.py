"""The matrices of minimal filtering: m outputs of an r-tap filter from m + r - 1 inputs, y = A [(G w) * (B x)].

Toom-Cook: S. Winograd, "Arithmetic Complexity of Computations" (1980); A. Lavin and S. Gray, "Fast Algorithms for
Convolutional Neural Networks" (2016). Fourier: overlap-save with a short real transform.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

FOURIER_SIZE = 32
TOOM_COOK_POINTS = (Fraction(0), Fraction(1), Fraction(-1), Fraction(2), Fraction(-2), Fraction(1, 2), Fraction(-1, 2))
"""Where F(6,3) and F(4,5) evaluate their polynomials, besides infinity: small powers of two round least."""

TOOM_COOK_SIZES = ((6, 3), (4, 5))
"""(outputs, taps) of the tiles that are compiled, by the same eight points."""

IMAGE_POINTS = (Fraction(0), Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2))
"""Where F(4,3) of both axes of an image and F(5,2) do, besides infinity: of many such choices the one that rounds least
(3e-6 of full scale with 256 channels; 0, ±1, ±2 gives 8e-6)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterMatrices:
    """All float64."""

    inputs: np.ndarray
    """B: (points, inputs)"""
    weights: np.ndarray
    """G: (points, taps)"""
    outputs: np.ndarray
    """A: (outputs, points)"""


def toom_cook(outputs: int, taps: int, points: tuple[Fraction, ...]) -> FilterMatrices:
    """Exact matrices of F(outputs, taps), scaled by powers of two so that B and A are about 1.

    A filter is the transpose of a product of polynomials, so B is the transpose of what brings the product's values
    back to its coefficients. There are `outputs + taps - 2` points; infinity is added.
    """
    inputs = outputs + taps - 1
    if len(set(points)) != inputs - 1:
        raise ValueError(f"F({outputs},{taps}) needs {inputs - 1} different points")
    to_coefficients = _inverse(_powers(points, inputs))
    b = np.array([[float(v) for v in row] for row in zip(*to_coefficients, strict=True)])
    g = np.array([[float(v) for v in row] for row in _powers(points, taps)])
    a = np.array([[float(v) for v in row] for row in _powers(points, outputs)]).T
    for point in range(inputs):
        for scale in (_power_of_two(b[point]), _power_of_two(a[:, point])):
            g[point] *= scale
        b[point] /= _power_of_two(b[point])
        a[:, point] /= _power_of_two(a[:, point])
    return FilterMatrices(inputs=b, weights=g, outputs=a)


def fourier_weights(taps: int, size: int = FOURIER_SIZE) -> np.ndarray:
    """G of a circular correlation by a real Fourier transform, a complex product as three real ones.

    Returns:
        (2 + 3 (size / 2 - 1), taps): the real bins 0 and size / 2, then c, d - c and c + d of every bin c + i d
        between. The inverse transform's factor 1 / size is in here.
    """
    spectrum = np.conj(np.fft.rfft(np.eye(taps), size, axis=1)).T / size
    rows = [spectrum[0].real, spectrum[size // 2].real]
    for bin_ in spectrum[1 : size // 2]:
        rows += [bin_.real, bin_.imag - bin_.real, bin_.real + bin_.imag]
    return np.stack(rows)


def _powers(points: tuple[Fraction, ...], count: int) -> list[list[Fraction]]:
    """Values of a polynomial of that many coefficients at the points and at infinity (its last coefficient)."""
    rows = [[point**power for power in range(count)] for point in points]
    return [*rows, [Fraction(0)] * (count - 1) + [Fraction(1)]]


def _inverse(matrix: list[list[Fraction]]) -> list[list[Fraction]]:
    """Gauss and Jordan, exactly."""
    size = len(matrix)
    rows = [[*row, *(Fraction(int(i == j)) for j in range(size))] for i, row in enumerate(matrix)]
    for column in range(size):
        pivot = next(i for i in range(column, size) if rows[i][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        rows[column] = [value / rows[column][column] for value in rows[column]]
        for i in range(size):
            if i != column and rows[i][column]:
                factor = rows[i][column]
                rows[i] = [a - factor * b for a, b in zip(rows[i], rows[column], strict=True)]
    return [row[size:] for row in rows]


def _power_of_two(values: np.ndarray) -> float:
    return float(2.0 ** np.round(np.log2(np.abs(values).max())))
