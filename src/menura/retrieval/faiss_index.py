"""RVC's .index files: faiss indexes of the voice's training content, searched and made."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import torch

from menura.errors import IndexFileError, OptionError
from menura.system.files import FETCH_AGAIN, stand_in
from menura.types import FloatArray

NEIGHBOURS = 8
MAX_FILE_BYTES = 4 * 2**30
"""About 1.4 million vectors of 768; RVC's training reduces larger sets to 10 000."""
MAX_DIM = 4096
_KINDS = {b"IwFl": "IVF,Flat", b"IxF2": "Flat"}
"""faiss's marks of the kinds that RVC and its relatives write, both by squared distance."""
_VERSIONS = {256: " (RVC v1)", 768: " (RVC v2)"}
_AGAIN = "Download or build the index again"
_OWN = "Use the index that was made with this voice"
_HEADER_BYTES = 16
_READ_BYTES = 1 << 20
_SEARCH_VECTORS = 1024
"""Queries of one search: bounds the memory of what is fetched to 8 * 1024 vectors."""

METHODS = ("auto", "faiss", "kmeans")
REDUCE_ABOVE, CENTRES = 200_000, 10_000
_LEAST_PER_CELL = 39  # vectors that faiss wants
_ADDED_AT_ONCE = 8192


@dataclass(frozen=True, slots=True)
class Cells:
    """What an index consists of."""

    centres: FloatArray | None
    """(cells, dim); None where each vector is a cell of its own."""
    vectors: FloatArray
    """(vectors, dim), cell after cell."""
    lengths: npt.NDArray[np.int64]
    """(cells,), of how many vectors."""
    probes: int
    """How many of the nearest cells are searched."""


class Index:
    """What is known of an index wherever it is searched."""

    dim: int
    size: int
    path: Path

    def check_dim(self, content_dim: int) -> None:
        """Raise IndexFileError where the index was made for content of another width."""
        if self.dim != content_dim:
            own, wanted = _VERSIONS.get(self.dim, ""), f"{content_dim}{_VERSIONS.get(content_dim, '')}"
            problem = f"was made for content of {self.dim} dimensions{own}, but the voice takes {wanted}"
            raise IndexFileError(self.path, problem, f"{_OWN}, or {{index_rate=0}}")


class FaissIndex(Index):
    """Content vectors of a voice's training data, searchable."""

    def __init__(self, index: Any, *, path: Path) -> None:
        """Wrap an IndexIVFFlat or IndexFlatL2; the path is for messages. Raises IndexFileError if it is of no use."""
        self.dim, self.size = int(index.d), int(index.ntotal)
        self._index, self.path = index, path
        if not self.size:
            advice = "RVC writes an empty 'trained_*.index' beside the one to use: give the 'added_*.index' file"
            raise IndexFileError(path, "contains no vectors", advice)
        _check_searchable(index, path)
        starts = range(0, self.size, _SEARCH_VECTORS)
        if not all(np.isfinite(index.reconstruct_n(at, min(_SEARCH_VECTORS, self.size - at))).all() for at in starts):
            raise IndexFileError(path, "contains NaN or infinite values", "Build the index again")

    @property
    def resident_bytes(self) -> int:
        return self.size * (4 * self.dim + 8)  # with their 64-bit numbers

    @classmethod
    def load(cls, path: Path) -> FaissIndex:
        """Read an index. IndexFileError: missing, too large, damaged, empty, or of a kind that RVC doesn't write."""
        # A search takes milliseconds for a second of content, so faiss gets one thread in this process. Both packages
        # may have bound to one OpenMP runtime; then this call is torch's too, and would halve its speed.
        before = torch.get_num_threads()
        faiss.omp_set_num_threads(1)
        torch.set_num_threads(before)
        try:
            if path.exists() and not path.is_file():
                raise IndexFileError(path, "is not a regular file", _OWN)
            if path.stat().st_size > MAX_FILE_BYTES:
                raise IndexFileError(path, f"is larger than {MAX_FILE_BYTES >> 30} GB", "Build a smaller index")
            with path.open("rb") as file:
                _check_header(file.read(_HEADER_BYTES), path)
            index = _read(path)
        except OSError as error:
            raise IndexFileError(path, f"can't be read: {error.strerror}", "Check the path") from error
        return cls(index, path=path)

    def on_device(self, rate: float) -> None:
        """Nothing: it's searched by the host."""

    def cells(self) -> Cells:
        """A copy of its vectors."""
        index = self._index
        if not isinstance(index, faiss.IndexIVF):
            ones = np.ones(self.size, dtype=np.int64)
            return Cells(None, index.reconstruct_n(0, self.size), ones, min(NEIGHBOURS, self.size))
        lists: Any = index.invlists
        centres = index.quantizer.reconstruct_n(0, index.nlist)
        lengths = np.array([lists.list_size(cell) for cell in range(index.nlist)], dtype=np.int64)
        vectors, end = np.empty((int(lengths.sum()), self.dim), dtype=np.float32), lengths.cumsum()
        for cell in np.flatnonzero(lengths).tolist():
            count = int(lengths[cell])
            codes = faiss.rev_swig_ptr(lists.get_codes(cell), count * index.code_size)
            vectors[end[cell] - count : end[cell]] = codes.view(np.float32).reshape(count, self.dim)
        return Cells(centres, vectors, lengths, min(int(index.nprobe), int(index.nlist)))

    def retrieve(self, content: FloatArray) -> FloatArray:
        """Weighted mean of the 8 nearest stored vectors for each row of (frames, dim) float32; weights as RVC's.

        Where RVC divides by zero, a row that equals stored vectors gets their mean, one without neighbours stays.
        """
        parts = [self._retrieved(content[at : at + _SEARCH_VECTORS]) for at in range(0, len(content), _SEARCH_VECTORS)]
        return np.concatenate(parts) if parts else content

    def _retrieved(self, content: FloatArray) -> FloatArray:
        queries = np.ascontiguousarray(content, dtype=np.float32)
        distances, places, vectors = self._index.search_and_reconstruct(queries, NEIGHBOURS)
        weights = neighbour_weights(distances, places)
        vectors[places < 0] = 0.0
        blended = np.matmul(weights[:, None, :], vectors)[:, 0]
        alone = ~(places >= 0).any(axis=1)
        blended[alone] = queries[alone]
        return np.asarray(blended, dtype=np.float32)


def neighbour_weights(distances: FloatArray, places: npt.NDArray[np.int64]) -> FloatArray:
    """RVC's weights, (1 / squared distance)², normalised; all are (rows, neighbours).

    Rows sum to 1, or are 0 where all places are -1. Neighbours at distance 0 share all of the weight.
    """
    known = np.where(places >= 0, np.maximum(distances.astype(np.float64), 0.0), np.inf)
    nearest = known.min(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.where(nearest > 0.0, np.square(nearest / known), known == 0.0)
    weights = np.where(np.isinf(nearest), 0.0, weights / weights.sum(axis=1, keepdims=True))
    return weights.astype(np.float32)


def _check_header(header: bytes, path: Path) -> None:
    """Refuse what is no index of a known kind, before faiss allocates what its header asks for."""
    if len(header) < _HEADER_BYTES:
        raise IndexFileError(path, "is empty or cut off", _AGAIN)
    mark, dim, size = struct.unpack("<4siq", header)
    if mark not in _KINDS:
        if (found := stand_in(path)) is not None:
            raise IndexFileError(path, f"not an index but {found}", FETCH_AGAIN)
        raise IndexFileError(path, f"isn't an index that RVC writes ({' or '.join(_KINDS.values())})", _OWN)
    if not 0 < dim <= MAX_DIM or not 0 <= size <= path.stat().st_size // (4 * dim):
        raise IndexFileError(path, "is cut off or damaged", _AGAIN)


def _check_searchable(index: Any, path: Path) -> None:
    """Refuse what faiss reads, and then fails to search or finds nothing in."""
    if not index.is_trained:
        raise IndexFileError(path, "is not a trained index", _AGAIN)
    if not isinstance(index, faiss.IndexIVF):
        return
    cells = index.quantizer
    if not index.nprobe or cells is None or (cells.d, cells.ntotal) != (index.d, index.nlist) or not cells.is_trained:
        raise IndexFileError(path, "is damaged and can't be searched", _AGAIN)


def _read(path: Path) -> Any:
    limit = getattr(faiss, "set_deserialization_vector_byte_limit", lambda _: None)  # older releases have none
    unlimited = getattr(faiss, "get_deserialization_vector_byte_limit", lambda: 0)()
    try:
        limit(path.stat().st_size)  # no vector is larger than the file
        # faiss opens by C strings, which fail on Windows for other alphabets: Python reads instead.
        with path.open("rb") as file:
            index = faiss.read_index(faiss.PyCallbackIOReader(file.read, _READ_BYTES))  # type: ignore[attr-defined]
    except (RuntimeError, MemoryError, ValueError) as error:
        raise IndexFileError(path, "is cut off or damaged", _AGAIN) from error
    finally:
        limit(unlimited)
    if index.metric_type != faiss.METRIC_L2:
        raise IndexFileError(path, "uses another metric than L2 (squared distance)", _OWN)
    return index


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltIndex:
    data: bytes
    cells: int
    vectors: int


def build_index(vectors: FloatArray, *, method: str = "auto", seed: int = 0) -> BuiltIndex:
    """An IVF,Flat index of (vectors, dim) float32 with min(16 √N, N / 39) cells, of which a search looks at one.

    Method "auto" replaces more than 200 000 vectors by 10 000 cluster centres, "kmeans" already more than 10 000,
    "faiss" never. Raises OptionError where there is no such method, or no vectors.
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
