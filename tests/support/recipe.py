"""Weights of real layouts and sizes that anyone can make again: seeded, from a manifest of names and shapes.

A tensor's bits come from numpy's Philox (4x64, 10 rounds) with the key (CRC-32 of its name, seed), in row-major order;
u = (bits >> 11) / 2^53 * 2 - 1; value = mean + scale * u, rounded to float32 and then to its stored type.
Integer tensors are filled with their mean.
"""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.recipe import signed_uniform

MANIFESTS = Path(__file__).resolve().parent.parent / "conformance" / "manifests"
TYPES = {"float16": torch.float16, "float32": torch.float32, "int64": torch.int64}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRecipe:
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    mean: float
    scale: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    seed: int
    tensors: tuple[TensorRecipe, ...]
    """In the order of the real file."""
    extra: dict[str, object]
    """Fields of the file beside its tensors, or of the config.json beside it."""

    def weights(self) -> dict[str, Tensor]:
        """The tensors, in the order of the real file."""
        return {recipe.name: draw(recipe, self.seed) for recipe in self.tensors}


def load_manifest(name: str) -> Manifest:
    """The manifest of that name: {"seed", "extra", "tensors": [[name, type, shape, mean, scale], ...]}."""
    fields = json.loads((MANIFESTS / f"{name}.json").read_text(encoding="utf-8"))
    tensors = tuple(
        TensorRecipe(name=name, dtype=TYPES[dtype], shape=tuple(shape), mean=mean, scale=scale)
        for name, dtype, shape, mean, scale in fields["tensors"]
    )
    return Manifest(seed=fields["seed"], tensors=tensors, extra=fields["extra"])


def encoder_manifest() -> Manifest:
    """HuBERT base with final_proj, other weights than ContentVec's."""
    return replace(load_manifest("contentvec"), seed=20260103)


def draw(recipe: TensorRecipe, seed: int) -> Tensor:
    if not recipe.dtype.is_floating_point:
        return torch.full(recipe.shape, int(recipe.mean), dtype=recipe.dtype)
    uniform = signed_uniform((zlib.crc32(recipe.name.encode()), seed), math.prod(recipe.shape))
    uniform *= recipe.scale
    uniform += recipe.mean
    return torch.from_numpy(uniform.astype(np.float32).reshape(recipe.shape)).to(recipe.dtype)
