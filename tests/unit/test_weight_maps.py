"""Weight norm in its three stored forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from menura.checkpoints.voice import expected_shapes
from menura.models.synthesizer import Synthesizer
from menura.models.weights import classic, folded, parametrized, unfolded
from support.recipe import load_manifest
from support.tiny import tiny_config


@pytest.fixture
def trained() -> Synthesizer:
    torch.manual_seed(1)
    return Synthesizer(tiny_config(), training=True)


def test_names_go_there_and_back(trained: Synthesizer) -> None:
    state = trained.state_dict()
    assert list(parametrized(classic(state))) == list(state)
    assert not any("parametrizations" in name for name in classic(state))
    assert "dec.ups.0.weight_g" in classic(state)


def test_folded_network_computes_the_same(trained: Synthesizer) -> None:
    plain = Synthesizer(tiny_config())
    weights = {name: t for name, t in folded(trained.state_dict()).items() if not name.startswith("enc_q.")}
    plain.load_state_dict(weights)
    with torch.no_grad():
        z, g = torch.randn(1, 4, 12), trained.condition(torch.tensor([1]))
        source = torch.randn(1, 1, 12 * 40) * 0.1
        expected: Tensor = trained.decode(z, g, source)
        torch.testing.assert_close(plain.decode(z, g, source), expected, atol=1e-6, rtol=1e-5)


def test_both_styles_fold_alike(trained: Synthesizer) -> None:
    new = trained.state_dict()
    old = classic(new)
    assert new.keys() != old.keys()
    one, other = folded(new), folded(old)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert one.keys() == other.keys()


def test_fold_is_the_definition() -> None:
    gain, direction = torch.rand(4, 1, 1) + 0.5, torch.randn(4, 3, 5)
    weight = folded({"a.weight_g": gain, "a.weight_v": direction})["a.weight"]
    expected = torch.stack([gain[i] * direction[i] / direction[i].norm() for i in range(4)])
    torch.testing.assert_close(weight, expected)


def test_unfolding_keeps_the_weight() -> None:
    weight = torch.randn(4, 3, 5)
    split = unfolded({"a.weight": weight, "a.bias": torch.zeros(4)}, ["a.weight_g"])
    assert set(split) == {"a.weight_g", "a.weight_v", "a.bias"}
    assert split["a.weight_g"].shape == (4, 1, 1)
    torch.testing.assert_close(folded(split)["a.weight"], weight)


@pytest.mark.parametrize(
    "name",
    [
        "voice_v2_40k_f0", "voice_v2_48k_f0", "voice_v2_32k_f0", "voice_v2_40k_nof0",
        "voice_v1_40k_f0", "voice_v1_48k_f0", "voice_v1_32k_f0", "voice_v2_40k_mrf", "voice_v2_32k_refinegan",
    ],
)  # fmt: skip
def test_layout_is_that_of_real_files(name: str) -> None:
    """Names, order and shapes; no weights are made."""
    from menura.checkpoints.voice import parse_config

    manifest = load_manifest(name)
    with torch.device("meta"):
        state = {t.name: torch.empty(t.shape) for t in manifest.tensors}
    shapes = expected_shapes(parse_config(manifest.extra, state))
    assert shapes == {t.name: t.shape for t in manifest.tensors}
    assert list(shapes) == [t.name for t in manifest.tensors]
