from __future__ import annotations

import os
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

from menura.errors import IndexFileError
from menura.retrieval.faiss_index import FaissIndex, neighbour_weights

DIM = 12


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIM), dtype=np.float32)


def write(path: Path, stored: np.ndarray, kind: str = "Flat") -> Path:
    faiss.omp_set_num_threads(1)
    index = faiss.index_factory(stored.shape[1], kind)
    index.train(stored if len(stored) else vectors(100))
    index.add(stored)
    path.write_bytes(faiss.serialize_index(index).tobytes())
    return path


def rvc_blend(stored: np.ndarray, query: np.ndarray) -> np.ndarray:
    """RVC's rule over all stored vectors, in float64."""
    distances = ((stored.astype(np.float64) - query) ** 2).sum(axis=1)
    nearest = np.argsort(distances)[:8]
    weights = (1 / distances[nearest]) ** 2
    return (weights / weights.sum()) @ stored[nearest]


def test_flat_index_blends_by_rvcs_rule(tmp_path: Path) -> None:
    stored, queries = vectors(300), vectors(40, seed=1)
    index = FaissIndex.load(write(tmp_path / "a.index", stored))
    assert (index.size, index.dim) == (300, DIM)
    expected = np.stack([rvc_blend(stored, query) for query in queries])
    found = index.retrieve(queries)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_inverted_lists_blend_by_rvcs_rule_within_the_cell(tmp_path: Path) -> None:
    stored, queries = vectors(800), vectors(40, seed=1)
    path = write(tmp_path / "a.index", stored, "IVF4,Flat")
    plain = faiss.deserialize_index(np.fromfile(path, dtype=np.uint8))
    _, cells = plain.quantizer.search(queries, 1)
    _, owners = plain.quantizer.search(stored, 1)
    found = FaissIndex.load(path).retrieve(queries)
    expected = [rvc_blend(stored[owners[:, 0] == cell[0]], query) for query, cell in zip(queries, cells, strict=True)]
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-5)


def test_many_rows_are_searched_in_parts(tmp_path: Path) -> None:
    index = FaissIndex.load(write(tmp_path / "a.index", vectors(100)))
    queries = vectors(2500, seed=2)
    np.testing.assert_allclose(index.retrieve(queries)[2000:], index.retrieve(queries[2000:]), atol=1e-5)
    assert index.retrieve(queries[:0]).shape == (0, DIM)


def test_a_stored_vector_finds_itself(tmp_path: Path) -> None:
    """RVC divides by zero here."""
    stored = vectors(100)
    stored[7] = stored[3]
    found = FaissIndex.load(write(tmp_path / "a.index", stored)).retrieve(stored[[3, 50]])
    np.testing.assert_allclose(found, stored[[3, 50]], atol=1e-6)


def test_fewer_than_eight_neighbours(tmp_path: Path) -> None:
    stored, queries = vectors(3), vectors(5, seed=1)
    found = FaissIndex.load(write(tmp_path / "a.index", stored)).retrieve(queries)
    np.testing.assert_allclose(found, np.stack([rvc_blend(stored, query) for query in queries]), atol=1e-5)


def test_an_empty_cell_leaves_content_as_it_is(tmp_path: Path) -> None:
    quantizer = faiss.IndexFlatL2(DIM)
    centres = np.stack([np.full(DIM, -5.0), np.full(DIM, 5.0)]).astype(np.float32)
    quantizer.add(centres)
    index = faiss.IndexIVFFlat(quantizer, DIM, 2)
    index.is_trained = True
    index.add(centres[:1] + vectors(20) * 0.1)
    path = tmp_path / "a.index"
    path.write_bytes(faiss.serialize_index(index).tobytes())
    query = np.full((1, DIM), 4.0, dtype=np.float32)
    assert np.array_equal(FaissIndex.load(path).retrieve(query), query)


def test_weights_of_extreme_distances_stay_finite() -> None:
    distances = np.array([[1e-38, 1e-30, 1.0], [0.0, 0.0, 2.0], [1e38, 1e38, 3e38], [5.0, 3.4e38, 3.4e38]], np.float32)
    places = np.array([[0, 1, 2], [0, 1, 2], [0, 1, 2], [4, -1, -1]])
    weights = neighbour_weights(distances, places)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(weights[1], [0.5, 0.5, 0])
    np.testing.assert_allclose(weights[3], [1, 0, 0])
    assert not neighbour_weights(distances[:1], np.full((1, 3), -1)).any()


@pytest.mark.parametrize("name", ["声音 (1) é.index", "added IVF.index", "'quoted' & odd.index"])
def test_any_file_name(tmp_path: Path, name: str) -> None:
    assert FaissIndex.load(write(tmp_path / name, vectors(50))).size == 50


def test_the_empty_trained_file_is_told_from_the_added_one(tmp_path: Path) -> None:
    path = write(tmp_path / "trained_IVF4_Flat.index", vectors(0), "IVF2,Flat")
    with pytest.raises(IndexFileError, match=r"contains no vectors.*'added_\*\.index'"):
        FaissIndex.load(path)


def test_dimensions_of_another_version(tmp_path: Path) -> None:
    index = FaissIndex.load(write(tmp_path / "a.index", np.zeros((50, 256), dtype=np.float32)))
    index.check_dim(256)
    with pytest.raises(IndexFileError, match=r"256 dimensions \(RVC v1\), but the voice takes 768 \(RVC v2\)"):
        index.check_dim(768)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty or cut off"),
        (b"IwFl" + b"\0" * 4, "empty or cut off"),
        (b"IwFl" + b"\xff" * 200, "cut off or damaged"),
        (b"IxF2\x0c\0\0\0" + b"\xff" * 7 + b"\x7f" + b"\0" * 100, "cut off or damaged"),
        (b"PK\x03\x04" + b"\0" * 100, "isn't an index that RVC writes"),
        (b"version https:" + b"//git-lfs.github.com/spec/v1\noid sha256:0a", "not an index but a Git LFS pointer"),
    ],
)
def test_files_that_are_no_index(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.index"
    path.write_bytes(content)
    with pytest.raises(IndexFileError, match=message):
        FaissIndex.load(path)


@pytest.mark.parametrize("kind", ["HNSW8", "PQ4x4"])
def test_other_kinds_are_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(IndexFileError, match=r"IVF,Flat or Flat"):
        FaissIndex.load(write(tmp_path / "a.index", vectors(700), kind))


def test_another_metric_is_refused(tmp_path: Path) -> None:
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(DIM), DIM, 2, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors(100))
    index.add(vectors(100))
    path = tmp_path / "a.index"
    path.write_bytes(faiss.serialize_index(index).tobytes())
    with pytest.raises(IndexFileError, match="another metric"):
        FaissIndex.load(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.index")
    for path, problem in (("none.index", "can't be read"), ("", "regular file"), ("pipe.index", "regular file")):
        with pytest.raises(IndexFileError) as caught:
            FaissIndex.load(tmp_path / path)
        assert problem in caught.value.problem


@pytest.mark.parametrize("damage", [{"nprobe": 0}, {"is_trained": False}])
def test_an_index_that_can_not_be_searched(tmp_path: Path, damage: dict[str, int]) -> None:
    index = faiss.index_factory(DIM, "IVF2,Flat")
    index.train(vectors(100))
    index.add(vectors(100))
    for name, value in damage.items():
        setattr(index, name, value)
    path = tmp_path / "a.index"
    path.write_bytes(faiss.serialize_index(index).tobytes())
    with pytest.raises(IndexFileError):
        FaissIndex.load(path)


def test_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    stored = vectors(50)
    stored[20, 3] = np.nan
    with pytest.raises(IndexFileError, match="NaN"):
        FaissIndex.load(write(tmp_path / "a.index", stored))


def test_cut_off_files(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.index", vectors(200), "IVF4,Flat").read_bytes()
    path = tmp_path / "cut.index"
    for length in range(0, len(whole) - 1, 199):
        path.write_bytes(whole[:length])
        with pytest.raises(IndexFileError):
            FaissIndex.load(path)


def test_damaged_files_are_refused_or_still_usable(tmp_path: Path) -> None:
    """Whatever bytes are wrong: an IndexFileError, or finite numbers; never a crash."""
    whole = np.frombuffer(write(tmp_path / "a.index", vectors(200), "IVF4,Flat").read_bytes(), dtype=np.uint8)
    generator = np.random.default_rng(3)
    path, refused = tmp_path / "damaged.index", 0
    for _ in range(150):
        damaged = whole.copy()
        damaged[generator.integers(4, 120, size=2)] = generator.integers(0, 256, size=2)
        path.write_bytes(damaged.tobytes())
        try:
            index = FaissIndex.load(path)
        except IndexFileError:
            refused += 1
            continue
        if index.dim == DIM:
            assert np.isfinite(index.retrieve(vectors(3, seed=4))).all()
    assert refused > 30


def test_torch_keeps_its_threads(tmp_path: Path) -> None:
    path, before = write(tmp_path / "v.index", vectors(50)), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        index = FaissIndex.load(path)
        index.retrieve(vectors(3, seed=1))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
