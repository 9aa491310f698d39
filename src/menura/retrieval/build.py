"""Makes retrieval indexes as RVC names and sizes them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import faiss
import numpy as np

from menura.errors import OptionError
from menura.types import FloatArray

METHODS = ("auto", "faiss", "kmeans")
REDUCE_ABOVE = 200_000
"""Vectors; RVC replaces more by cluster centres."""
CENTRES = 10_000
_LEAST_PER_CELL = 39
"""faiss wants at least so many vectors a cell."""
_ADDED_AT_ONCE = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltIndex:
    data: bytes
    """The file."""
    cells: int
    vectors: int


def build_index(vectors: FloatArray, *, method: str = "auto", seed: int = 0) -> BuiltIndex:
    """An IVF,Flat index with min(16 √N, N / 39) cells, of which a search looks at one.

    Args:
        vectors: (vectors, dim) float32.
        method: "auto" replaces more than 200 000 vectors by 10 000 cluster centres, "kmeans" already more than
            10 000, "faiss" never.
        seed: of the clustering.

    Raises:
        OptionError: no such method, or no vectors.
    """
    if method not in METHODS:
        raise OptionError(None, f"'{method}' is not one of {', '.join(METHODS)}", option="index_method")
    if not len(vectors):
        raise OptionError(None, "there are no content vectors to build an index from", "Prepare recordings first")
    order = np.random.default_rng(seed).permutation(len(vectors))
    shuffled = np.ascontiguousarray(vectors[order], dtype=np.float32)
    if len(shuffled) > {"auto": REDUCE_ABOVE, "kmeans": CENTRES}.get(method, len(shuffled)):
        shuffled = cluster_centres(shuffled, CENTRES, seed=seed)
    cells = cell_count(len(shuffled))
    index = faiss.index_factory(shuffled.shape[1], f"IVF{cells},Flat")
    faiss.extract_index_ivf(index).nprobe = 1
    index.train(shuffled)
    for start in range(0, len(shuffled), _ADDED_AT_ONCE):
        index.add(shuffled[start : start + _ADDED_AT_ONCE])
    return BuiltIndex(data=faiss.serialize_index(index).tobytes(), cells=cells, vectors=len(shuffled))


def cell_count(vectors: int) -> int:
    """RVC's number of cells."""
    return max(1, min(int(16 * math.sqrt(vectors)), vectors // _LEAST_PER_CELL))


def cluster_centres(vectors: FloatArray, count: int, *, seed: int) -> FloatArray:
    """K-means centres (count, dim) of (vectors, dim)."""
    clustering = faiss.Kmeans(vectors.shape[1], count, niter=20, seed=seed, min_points_per_centroid=1)
    clustering.train(vectors)
    return np.asarray(clustering.centroids, dtype=np.float32)


def index_name(cells: int, name: str, version: str) -> str:
    """The file name that RVC WebUI gives an index."""
    return f"added_IVF{cells}_Flat_nprobe_1_{name}_{version}.index"
