"""Retrieval on a device finds what faiss finds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

from menura.errors import IndexFileError
from menura.retrieval import torch_index
from menura.retrieval.faiss_index import FaissIndex
from menura.retrieval.torch_index import Retrieval, TorchIndex
from support.pretended_gpu import CUDA, PretendedGpu

DIM, CPU = 64, torch.device("cpu")


@pytest.fixture(autouse=True)
def exact_faiss() -> Iterator[None]:
    """Of 20 and more queries faiss takes distances to centres from products, and near-ties may fall either way."""
    before = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = 1 << 30
    yield
    faiss.cvar.distance_compute_blas_threshold = before


def random(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIM), dtype=np.float32)


def clustered(count: int, seed: int) -> np.ndarray:
    cluster = np.random.default_rng(seed).integers(0, 20, count)
    return 2 * random(20, 0)[cluster] + np.float32(0.2) * random(count, seed)


def nearly_silent(count: int, seed: int) -> np.ndarray:
    """Half of it in one place, so that one cell is long."""
    scale = np.where(np.arange(count) % 2, 1, 0.05).astype(np.float32)[:, None]
    return random(count, seed) * scale


def repeated(count: int, seed: int) -> np.ndarray:
    """Every vector many times: neighbours at equal distances; among queries too, at none."""
    return random(40, 0)[np.arange(count) % 40 + 0 * seed]


DATA = {"random": random, "clustered": clustered, "silent": nearly_silent, "repeated": repeated}


def indexed(stored: np.ndarray, kind: str, probes: int = 1) -> tuple[faiss.Index, FaissIndex]:
    faiss.omp_set_num_threads(1)
    index = faiss.index_factory(DIM, kind)
    index.train(stored)
    index.add(stored)
    if kind != "Flat":
        faiss.extract_index_ivf(index).nprobe = probes
    return index, FaissIndex(index, path=Path("some.index"))


def numbers(index: faiss.Index) -> np.ndarray:
    """faiss's numbers of the vectors, cell after cell."""
    if isinstance(index, faiss.IndexFlat):
        return np.arange(index.ntotal)
    lists = faiss.extract_index_ivf(index).invlists
    sizes = [lists.list_size(cell) for cell in range(lists.nlist)]
    return np.concatenate([faiss.rev_swig_ptr(lists.get_ids(c), n).copy() for c, n in enumerate(sizes) if n])


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize(("kind", "probes"), [("IVF30,Flat", 1), ("IVF30,Flat", 3), ("Flat", 1), ("IVF3,Flat", 9)])
def test_every_neighbour_is_faiss_s(data: str, kind: str, probes: int) -> None:
    stored, queries = DATA[data](1500, 1), DATA[data](500, 2)
    index, own = indexed(stored, kind, probes)
    expected, expected_numbers = index.search(queries, 8)
    distances, places = TorchIndex(own, CPU).search(torch.from_numpy(queries))
    found = np.where(distances.isinf(), -1, numbers(index)[places])
    np.testing.assert_array_equal(found, expected_numbers)
    np.testing.assert_allclose(distances, np.where(found < 0, np.inf, expected), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("kind", ["IVF30,Flat", "Flat"])
def test_the_blend_is_faiss_s_in_blocks_of_any_size(data: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stored, queries = DATA[data](1500, 1), DATA[data](300, 2)
    _, own = indexed(stored, kind)
    monkeypatch.setattr(torch_index, "_PASS_BYTES", 1 << 19)
    index = TorchIndex(own, CPU)
    assert index._rows < 300
    found = index.retrieve(torch.from_numpy(queries)).numpy()
    np.testing.assert_allclose(found, own.retrieve(queries), rtol=0, atol=2e-5)


def test_few_vectors_and_empty_cells() -> None:
    stored = random(5, 1)
    for kind in ("Flat", "IVF2,Flat"):
        index, own = indexed(stored, kind)
        if kind != "Flat":
            index.quantizer.reset()  # one cell's centre moves to where the queries are, far from all vectors
            index.quantizer.add(np.stack([stored.mean(axis=0), np.full(DIM, 50, dtype=np.float32)]))
            index.reset()
            index.add(stored)
        queries = np.concatenate([random(20, 2), random(20, 3) + np.float32(50)])
        found = TorchIndex(own if kind == "Flat" else FaissIndex(index, path=own.path), CPU).retrieve(
            torch.from_numpy(queries)
        )
        np.testing.assert_allclose(found, FaissIndex(index, path=own.path).retrieve(queries), rtol=0, atol=1e-5)


def test_a_gpu_is_not_waited_for_and_memory_is_bounded(gpu: PretendedGpu) -> None:
    stored, queries = nearly_silent(6000, 1), nearly_silent(1200, 2)
    _, own = indexed(stored, "IVF30,Flat")
    index = TorchIndex(own, CUDA)
    content = torch.from_numpy(queries).view(2, 600, DIM).to(CUDA)
    gpu.reset()
    with torch.inference_mode():
        both = Retrieval(index, 0.75).applied(content)
    assert gpu.syncs == []
    assert gpu.peak_bytes - gpu.live_bytes < 3 * torch_index._PASS_BYTES
    assert index.resident_bytes == pytest.approx(stored.nbytes, rel=0.1)
    blend, plain = both.cpu().split(DIM, dim=-1)
    expected = own.retrieve(queries) * np.float32(0.75) + queries * np.float32(0.25)
    np.testing.assert_allclose(blend.flatten(0, 1), expected, rtol=0, atol=2e-5)
    np.testing.assert_array_equal(plain.flatten(0, 1), queries)


def test_another_width_is_refused() -> None:
    _, own = indexed(random(100, 1), "Flat")
    with pytest.raises(IndexFileError, match=r"some\.index: was made for content of 64 dimensions"):
        TorchIndex(own, CPU).check_dim(768)
