"""A data folder with networks of real layouts and sizes, of seeded weights."""

from __future__ import annotations

import json
from pathlib import Path

import faiss
import numpy as np
import torch

from benchmarks.recipe import signed_uniform
from support.recipe import load_manifest


def make_voice(home: Path, name: str) -> Path:
    """An RVC `.pth` by its manifest's name; made once."""
    path = home / f"{name}.pth"
    if not path.exists():
        manifest = load_manifest(name)
        torch.save({"weight": manifest.weights(), **manifest.extra}, path)
    return path


def make_assets(home: Path) -> Path:
    """ContentVec and RMVPE under `home/assets`; made once."""
    folder = home / "assets" / "contentvec"
    if not (folder / "pytorch_model.bin").exists():
        folder.mkdir(parents=True, exist_ok=True)
        manifest = load_manifest("contentvec")
        (folder / "config.json").write_text(json.dumps(manifest.extra), encoding="utf-8")
        torch.save(manifest.weights(), folder / "pytorch_model.bin")
    if not (home / "assets" / "rmvpe.pt").exists():
        torch.save(load_manifest("rmvpe").weights(), home / "assets" / "rmvpe.pt")
    return home


def make_index(home: Path, size: int = 4000, dim: int = 768, seed: int = 8) -> Path:
    """A faiss IVF,Flat index of seeded vectors, sized as RVC sizes it; made once."""
    path = home / f"added_{size}x{dim}.index"
    if not path.exists():
        faiss.omp_set_num_threads(1)
        vectors = (signed_uniform((seed, size), size * dim) * np.sqrt(3)).astype(np.float32).reshape(size, dim)
        lists = min(int(16 * np.sqrt(size)), size // 39)
        index = faiss.index_factory(dim, f"IVF{lists},Flat")
        faiss.extract_index_ivf(index).nprobe = 1
        index.train(vectors)
        for start in range(0, size, 8192):
            index.add(vectors[start : start + 8192])
        faiss.write_index(index, str(path))
    return path
