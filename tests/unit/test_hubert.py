"""HuBERT against a plain rendering of its definition, with a tiny random network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from menura.kernels.hubert import use_kernels
from menura.kernels.library import KernelLibrary, kernel_status
from menura.models.hubert import Hubert, HubertConfig, _product_of_parts
from support.tiny_hubert import BASE, CONFIG, POSITIONS, tiny_weights


def test_a_complex_product_by_real_ones() -> None:
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randn(shape, dtype=torch.complex64, generator=generator) for shape in [(5, 4, 6), (5, 6, 3)])
    torch.testing.assert_close(_product_of_parts(a, b.transpose(1, 2).transpose(1, 2)), torch.bmm(a, b))


def plain_hubert(w: dict[str, Tensor], samples: Tensor) -> list[Tensor]:
    """Every layer's output, written as the papers and transformers define it."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    x = F.conv1d(samples[:, None], w[f"{BASE}.0.conv.weight"], stride=5)
    x = F.gelu(F.group_norm(x, 16, w[f"{BASE}.0.layer_norm.weight"], w[f"{BASE}.0.layer_norm.bias"]))
    for n in range(1, 7):
        x = F.gelu(F.conv1d(x, w[f"{BASE}.{n}.conv.weight"], stride=2))
    x = linear(norm(x.transpose(1, 2), "feature_projection.layer_norm"), "feature_projection.projection")
    direction = w[f"{POSITIONS}.weight_v"]
    kernel = w[f"{POSITIONS}.weight_g"] * direction / direction.norm(dim=(0, 1), keepdim=True)
    positions = F.conv1d(x.transpose(1, 2), kernel, w[f"{POSITIONS}.bias"], padding=64, groups=4)[..., :-1]
    x = norm(x + F.gelu(positions).transpose(1, 2), "encoder.layer_norm")
    outputs = []
    for n in range(CONFIG.num_hidden_layers):
        layer = f"encoder.layers.{n}"
        q, k, v = (linear(x, f"{layer}.attention.{part}_proj").unflatten(-1, (4, 6)).transpose(1, 2) for part in "qkv")
        attended = (q @ k.transpose(-1, -2) / 6**0.5).softmax(dim=-1) @ v
        x = norm(x + linear(attended.transpose(1, 2).flatten(2), f"{layer}.attention.out_proj"), f"{layer}.layer_norm")
        hidden = F.gelu(linear(x, f"{layer}.feed_forward.intermediate_dense"))
        x = norm(x + linear(hidden, f"{layer}.feed_forward.output_dense"), f"{layer}.final_layer_norm")
        outputs.append(x)
    return outputs


def library() -> KernelLibrary:
    compiled = kernel_status().library
    assert compiled is not None, "the kernels must be built for the tests"
    return compiled


def noise(batch: int, length: int, seed: int = 1) -> Tensor:
    return torch.randn(batch, length, generator=torch.Generator().manual_seed(seed)) * 0.1


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("length", [400, 719, 720, 4000, 41_360, 41_361, 90_000])
def test_every_layer_is_as_defined(length: int, compiled: bool) -> None:
    """Lengths around a frame, a block of the positional convolution's FFT and a tile of the feature extractor."""
    weights = tiny_weights()
    model = Hubert.from_tensors(weights, CONFIG)
    if compiled:
        use_kernels(model, library())
        use_kernels(model, library())  # a second time changes nothing
        assert not len(model.feature_extractor.near)
    samples = noise(2, length)
    expected = plain_hubert(weights, samples)
    outputs = model(samples, layers=[1, 2, 3])
    assert expected[0].shape[1] == CONFIG.frame_count(length)
    for ours, theirs in zip(outputs, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


def test_what_the_kernels_do_not_take_stays_with_torch() -> None:
    config = dataclasses.replace(CONFIG, conv_dim=(16,) * 6 + (12,))
    weights = tiny_weights()
    name = f"{BASE}.6.conv.weight"
    weights[name] = weights[name][:12]
    weights["feature_projection.projection.weight"] = weights["feature_projection.projection.weight"][:, :12]
    for kind in ("weight", "bias"):
        weights[f"feature_projection.layer_norm.{kind}"] = weights[f"feature_projection.layer_norm.{kind}"][:12]
    model = Hubert.from_tensors(weights, config)
    (before,) = model(noise(1, 4000), layers=[3])
    use_kernels(model, library())
    assert len(model.feature_extractor.near) == 6
    assert torch.equal(model(noise(1, 4000), layers=[3])[0], before)


def renamed(old: str, new: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda weights: {name.replace(old, new): tensor for name, tensor in weights.items()}


def parametrized(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    weights = renamed(".weight_g", ".parametrizations.weight.original0")(weights)
    return renamed(".weight_v", ".parametrizations.weight.original1")(weights)


def folded(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    gain, direction = weights.pop(f"{POSITIONS}.weight_g"), weights.pop(f"{POSITIONS}.weight_v")
    return weights | {f"{POSITIONS}.weight": gain * direction / direction.norm(dim=(0, 1), keepdim=True)}


@pytest.mark.parametrize("style", [parametrized, folded])
def test_weight_norm_styles_give_the_same(style: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    samples = noise(1, 8000)
    (expected,) = Hubert.from_tensors(tiny_weights(), CONFIG)(samples, layers=[3])
    (ours,) = Hubert.from_tensors(style(tiny_weights()), CONFIG)(samples, layers=[3])
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_half_precision_files_run_in_single() -> None:
    weights = {name: tensor.half() for name, tensor in tiny_weights().items()}
    model = Hubert.from_tensors(weights, CONFIG)
    (ours,) = model(noise(1, 8000), layers=[3])
    expected = plain_hubert({name: tensor.float() for name, tensor in weights.items()}, noise(1, 8000))[-1]
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=0)


def test_rows_do_not_see_each_other() -> None:
    model = Hubert.from_tensors(tiny_weights(), CONFIG)
    quiet, loud = noise(1, 9000, seed=2) * 0.01, noise(1, 9000, seed=3)
    (together,) = model(torch.cat([quiet, loud]), layers=[3])
    for row, samples in zip(together, (quiet, loud), strict=True):
        torch.testing.assert_close(row, model(samples, layers=[3])[0][0], atol=1e-5, rtol=0)


def test_upper_layers_are_not_run() -> None:
    model = Hubert.from_tensors(tiny_weights(), CONFIG)
    model.layers[2] = torch.nn.Linear(1, 1)  # would fail
    assert model(noise(1, 4000), layers=[2])[0].shape == (1, 12, 24)


def test_samples_for_is_the_inverse_of_frame_count() -> None:
    for frames in (1, 2, 17):
        samples = CONFIG.samples_for(frames)
        assert CONFIG.frame_count(samples) == frames
        assert CONFIG.frame_count(samples - 1) == frames - 1


def test_missing_tensor_is_named() -> None:
    weights = tiny_weights()
    del weights["encoder.layers.1.attention.k_proj.weight"]
    with pytest.raises(ValueError, match=r"lack 'encoder\.layers\.1\.attention\.k_proj\.weight'"):
        Hubert.from_tensors(weights, CONFIG)


def test_weights_of_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="other shapes"):
        Hubert.from_tensors(tiny_weights(), dataclasses.replace(CONFIG, intermediate_size=41))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"do_stable_layer_norm": True}, "do_stable_layer_norm"),
        ({"feat_extract_norm": "layer"}, "feat_extract_norm"),
        ({"hidden_size": -1}, "hidden_size"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"conv_stride": [5, 2]}, "unequal length"),
        ({"conv_kernel": [10, 9, 3, 3, 3, 2, 2]}, "convolutions"),
    ],
)
def test_other_architectures_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HubertConfig.from_json(fields)
