"""The benchmark's full-size networks have the layouts of the real files, and the values of the conformance recipes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import full_size
from benchmarks.recipe import SEED, drawn, spread_of
from menura.checkpoints.voice import expected_shapes
from menura.errors import ResourceError
from menura.models.hubert import HubertConfig
from menura.models.rmvpe import RmvpeConfig
from support.recipe import draw, load_manifest

SHAPES = {
    "voice_v2_40k_f0": (dict(expected_shapes(full_size.V2_40K)), full_size.VOICE_RULES),
    "contentvec": (dict(full_size.contentvec_shapes(HubertConfig())), full_size.CONTENTVEC_RULES),
    "rmvpe": (dict(full_size.rmvpe_shapes(RmvpeConfig())), full_size.RMVPE_RULES),
}


@pytest.mark.parametrize("name", SHAPES)
def test_layouts_and_spreads_are_those_of_the_manifests(name: str) -> None:
    shapes, rules = SHAPES[name]
    manifest = load_manifest(name)
    recipes = {r.name: r for r in manifest.tensors if r.dtype.is_floating_point}
    assert manifest.seed == SEED
    assert shapes == {name: recipe.shape for name, recipe in recipes.items()}
    for tensor, recipe in recipes.items():
        spread = spread_of(tensor, recipe.shape, rules)
        assert spread.mean == pytest.approx(recipe.mean, rel=1e-12), tensor
        assert spread.scale == pytest.approx(recipe.scale, rel=1e-12), tensor


@pytest.mark.parametrize("tensor", ["dec.resblocks.0.convs1.0.weight_g", "flow.flows.0.pre.weight", "emb_g.weight"])
def test_values_are_those_of_the_recipe(tensor: str) -> None:
    shapes, rules = SHAPES["voice_v2_40k_f0"]
    (recipe,) = (r for r in load_manifest("voice_v2_40k_f0").tensors if r.name == tensor)
    torch.testing.assert_close(drawn(tensor, shapes[tensor], rules).half(), draw(recipe, SEED), rtol=0, atol=1e-3)


def test_what_is_made_once_is_whole_or_not_there(tmp_path: Path) -> None:
    def fails(path: Path) -> None:
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(ResourceError):
        full_size._once(tmp_path / "deep" / "file.bin", fails)
    assert list((tmp_path / "deep").iterdir()) == []
    full_size._once(tmp_path / "deep" / "file.bin", lambda path: path.write_text("whole"))
    full_size._once(tmp_path / "deep" / "file.bin", fails)
    assert (tmp_path / "deep" / "file.bin").read_text() == "whole"
