"""Other encoders that Applio's voices name, against transformers' HubertModel 5.24.0 with seeded weights of full size.

Spin and the Chinese and Japanese HuBERT are of HuBERT base's layout, 12 heads, here without the projection that only v1
voices need; the Korean one has 8 attention heads. Input as in test_analysis, and some of its frames.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from menura.content.registry import load_encoder
from support.recipe import load_manifest

DATA = Path(__file__).parent / "data"
TOLERANCE = 1e-4
"""Measured 1e-5, of values around 1; with the other number of heads they differ by more than 1."""


@pytest.mark.parametrize(("name", "heads", "seed"), [("korean-hubert-base", 8, 20260102), ("spin", 12, 20260103)])
def test_content(name: str, heads: int, seed: int, tmp_path: Path) -> None:
    manifest = load_manifest("contentvec")
    tensors = tuple(tensor for tensor in manifest.tensors if not tensor.name.startswith("final_proj"))
    manifest = dataclasses.replace(manifest, seed=seed, tensors=tensors)
    folder = tmp_path / name
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**manifest.extra, "num_attention_heads": heads}))
    torch.save(manifest.weights(), folder / "pytorch_model.bin")
    with np.load(DATA / "clip.npz") as clip, np.load(DATA / "encoders.npz") as arrays:
        samples, expected = clip["samples"], dict(arrays)
    window = torch.from_numpy(np.pad(samples, 16_000, mode="reflect"))[None]
    content = load_encoder(name, folder, torch.device("cpu")).encode(window, None)[0]
    assert content.shape == (219, 768)
    found = content[expected["frames"]].numpy()
    assert np.abs(found - expected[f"heads_{heads}"]).max() < TOLERANCE
