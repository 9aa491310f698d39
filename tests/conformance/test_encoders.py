"""Other encoders that Applio's voices name, against transformers' HubertModel with seeded weights of full size.

The files' sizes tell their layout: HuBERT base in float32, to which Spin's have final_proj. The Korean one has 8
attention heads. Input as in test_analysis, and some of its frames; golden_encoders.py made what is expected.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from menura.content.registry import Projection, load_encoder
from menura.errors import CheckpointError
from menura.voices import assets
from support.recipe import encoder_manifest

DATA = Path(__file__).parent / "data"
TOLERANCE = 1e-4
"""Measured 1e-5, of values around 1; with the other number of heads they differ by more than 1."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    name: str
    heads: int = 12
    projection: bool = False
    parametrized: bool = False
    """Weight norm under the names that torch gives it now, in model.safetensors."""


LAYOUTS = (
    Layout(name="spin", projection=True),
    Layout(name="spin-v2", projection=True, parametrized=True),
    Layout(name="chinese-hubert-base"),
    Layout(name="japanese-hubert-base", parametrized=True),
    Layout(name="korean-hubert-base", heads=8),
)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return encoder_manifest().weights()


def write(folder: Path, layout: Layout, weights: dict[str, Tensor]) -> Path:
    folder = folder / layout.name
    folder.mkdir()
    fields = {**encoder_manifest().extra, "num_attention_heads": layout.heads}
    (folder / "config.json").write_text(json.dumps(fields))
    kept = {name: tensor for name, tensor in weights.items() if layout.projection or "final_proj" not in name}
    if layout.parametrized:
        for number, part in enumerate("gv"):
            tensor = kept.pop(f"encoder.pos_conv_embed.conv.weight_{part}")
            kept[f"encoder.pos_conv_embed.conv.parametrizations.weight.original{number}"] = tensor
        safetensors.torch.save_file(kept, folder / "model.safetensors")
    else:
        torch.save(kept, folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_content(layout: Layout, weights: dict[str, Tensor], tmp_path: Path) -> None:
    folder = write(tmp_path, layout, weights)
    with np.load(DATA / "clip.npz") as clip, np.load(DATA / "encoders.npz") as arrays:
        samples, expected = clip["samples"], dict(arrays)
    window = torch.from_numpy(np.pad(samples, 16_000, mode="reflect"))[None]
    ways: dict[Projection, int] = {"none": 768, "last": 256, "layer9": 256}
    for way, dim in ways.items() if layout.name == "spin" else [("none", 768)]:
        content = load_encoder(layout.name, folder, torch.device("cpu"), way).encode(window, None)[0]
        assert content.shape == (219, dim)
        found = content[expected["frames"]].numpy()
        suffix = "" if way == "none" else f"_{way}"
        assert np.abs(found - expected[f"heads_{layout.heads}{suffix}"]).max() < TOLERANCE
    if not layout.projection:
        with pytest.raises(CheckpointError, match="final_proj"):
            load_encoder(layout.name, folder, torch.device("cpu"), "last")


@pytest.mark.parametrize("layout", [*LAYOUTS, Layout(name="contentvec", projection=True)], ids=lambda x: x.name)
def test_the_published_files_have_room_for_exactly_this(layout: Layout) -> None:
    """Numbers of four bytes, and for each tensor the 300 to 400 that torch spends on its name and place."""
    recipes = [r for r in encoder_manifest().tensors if layout.projection or "final_proj" not in r.name]
    (weights,) = (f for f in assets.catalogue()[layout.name].files if f.path.endswith("pytorch_model.bin"))
    assert weights.size_bytes is not None
    rest = weights.size_bytes - sum(4 * math.prod(recipe.shape) for recipe in recipes)
    assert 300 * len(recipes) < rest < 400 * len(recipes)
