"""RVC's .index files: faiss indexes of the voice's training content."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import torch

from menura.errors import IndexFileError
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


class FaissIndex:
    """Content vectors of a voice's training data, searchable."""

    def __init__(self, index: Any, *, path: Path) -> None:
        """Wrap an IndexIVFFlat or IndexFlatL2; the path is for messages.

        Raises:
            IndexFileError: it contains no vectors or NaN, or is not trained.
        """
        self.dim = int(index.d)
        self.size = int(index.ntotal)
        self._index, self._path = index, path
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
        """Read an index.

        Raises:
            IndexFileError: missing, too large, damaged, empty, or of a kind that RVC doesn't write.
        """
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

    def check_dim(self, content_dim: int) -> None:
        """Raise IndexFileError where the index was made for content of another width."""
        if self.dim != content_dim:
            raise IndexFileError(
                self._path,
                f"was made for content of {self.dim} dimensions{_VERSIONS.get(self.dim, '')}, but the voice takes "
                f"{content_dim}{_VERSIONS.get(content_dim, '')}",
                f"{_OWN}, or {{index_rate=0}}",
            )

    def retrieve(self, content: FloatArray) -> FloatArray:
        """Weighted mean of the 8 nearest stored vectors for each row of (frames, dim) float32; weights as RVC's.

        A row that equals stored vectors gets their mean (RVC divides by zero); one that has no neighbour in its cell
        of the index stays as it is (RVC takes the last vector, or divides by zero).
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
    """RVC's weights: (1 / squared distance)², normalised.

    Args:
        distances: (rows, neighbours) squared distances.
        places: (rows, neighbours) of the vectors found, -1 where there are fewer.

    Returns:
        (rows, neighbours) float32: rows sum to 1, or are 0 where nothing was found. Where distances are 0, those
        neighbours share all of the weight.
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
        found = stand_in(path)
        if found is not None:
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
