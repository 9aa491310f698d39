"""Weights that anyone can make again bit for bit: seeded, by a tensor's name.

A tensor's bits come from numpy's Philox (4x64, 10 rounds) with the key (CRC-32 of its name, seed), in row-major order;
u = (bits >> 11) / 2^53 * 2 - 1; value = mean + scale * u, rounded to float32.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

SEED = 20260101


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Uniform values within `scale` of `mean`."""

    mean: float
    scale: float


Rule = tuple[str, Callable[[Sequence[int]], Spread]]
"""A pattern of names, and what such tensors hold by their shape."""


def around(mean: float, scale: float) -> Callable[[Sequence[int]], Spread]:
    """The same whatever the shape."""
    return lambda _shape: Spread(mean=mean, scale=scale)


def gain(factor: float) -> Callable[[Sequence[int]], Spread]:
    """Weights (out, ...) that bring independent inputs of variance 1 to outputs of variance factor²."""
    return lambda shape: Spread(mean=0.0, scale=factor * math.sqrt(3 / math.prod(shape[1:])))


def spread_of(name: str, shape: Sequence[int], rules: Sequence[Rule]) -> Spread:
    """What the first rule whose pattern is found in the name says."""
    return next(rule for pattern, rule in rules if re.search(pattern, name))(shape)


def drawn(name: str, shape: Sequence[int], rules: Sequence[Rule], seed: int = SEED) -> Tensor:
    """A float32 tensor of that name."""
    spread = spread_of(name, shape, rules)
    values = signed_uniform((zlib.crc32(name.encode()), seed), math.prod(shape))
    values *= spread.scale
    values += spread.mean
    return torch.from_numpy(values.astype(np.float32).reshape(tuple(shape)))


def signed_uniform(key: tuple[int, int], count: int) -> npt.NDArray[np.float64]:
    """(count,) float64 in [-1, 1)."""
    bits = np.random.Philox(key=np.array(key, dtype=np.uint64)).random_raw(count)
    bits >>= np.uint64(11)
    uniform: npt.NDArray[np.float64] = bits.astype(np.float64)
    uniform *= 2.0**-52
    uniform -= 1.0
    return uniform
