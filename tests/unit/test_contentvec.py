"""The statistics of recordings, and the adapter's own errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import menura.content.contentvec as module
from menura.content.contentvec import ContentVec, MomentCollector, MomentStatistics
from menura.content.registry import ContentEncoder
from menura.errors import AssetMissingError, CheckpointError
from menura.models.hubert import Hubert
from support.tiny_hubert import CONFIG, tiny_weights

CPU = torch.device("cpu")


def encoder(projection: str = "none") -> ContentVec:
    return ContentVec(Hubert.from_tensors(tiny_weights(), CONFIG), device=CPU, projection=projection)


def speechlike(length: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.cumsum(generator.standard_normal(length)).astype(np.float32) * 1e-3


def collected(samples: np.ndarray, cuts: list[int] | None = None) -> MomentStatistics:
    collector = MomentCollector()
    for part in np.split(samples, sorted(cuts or [])):
        collector.push(part)
    return collector.finish()


def test_is_a_content_encoder() -> None:
    assert isinstance(encoder(), ContentEncoder)


@settings(max_examples=30, deadline=None)
@given(length=st.integers(1, 3000), data=st.data())
def test_statistics_is_the_same_for_any_blocks(length: int, data: st.DataObject) -> None:
    samples = speechlike(length)
    cuts = data.draw(st.lists(st.integers(0, length), max_size=8))
    original = module._SUM_FRAMES
    module._SUM_FRAMES = 64
    try:
        whole, split = collected(samples), collected(samples, cuts)
    finally:
        module._SUM_FRAMES = original
    assert np.array_equal(whole.mean, split.mean)
    assert np.array_equal(whole.second, split.second)


@pytest.mark.parametrize("length", [10, 14, 15, 400, 200_003, 400_000])
def test_statistics_equals_the_windows_own_statistics(length: int) -> None:
    """Blocks of fixed size, summed, against one product over all."""
    samples = speechlike(length)
    model = Hubert.from_tensors(tiny_weights(), CONFIG)
    statistics = collected(samples, [length // 3])
    own = model.window_statistics(torch.from_numpy(samples)[None])
    vector = encoder()
    from_survey = vector._channel_statistics([statistics])
    torch.testing.assert_close(from_survey.mean, own.mean, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(from_survey.variance, own.variance, rtol=1e-9, atol=1e-15)


def test_statistics_are_exactly_a_group_norms() -> None:
    samples = torch.from_numpy(speechlike(30_000)).double()
    model = Hubert.from_tensors(tiny_weights(), CONFIG)
    statistics = model.window_statistics(samples[None].float())
    weight = tiny_weights()["feature_extractor.conv_layers.0.conv.weight"].double()
    channels = torch.nn.functional.conv1d(samples.float().double()[None, None], weight, stride=5)[0]
    torch.testing.assert_close(statistics.mean[0], channels.mean(dim=1), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(statistics.variance[0], channels.var(dim=1, unbiased=False), rtol=1e-9, atol=1e-12)


def test_scaled_statistics_are_those_of_the_scaled_recording() -> None:
    samples = speechlike(5000)
    scaled, direct = collected(samples).scaled(0.5), collected(samples * np.float32(0.5))
    np.testing.assert_allclose(scaled.mean, direct.mean, rtol=1e-6)
    np.testing.assert_allclose(scaled.second, direct.second, rtol=1e-6)


@pytest.mark.parametrize("samples", [np.zeros(1, np.float32), np.ones(1, np.float32), np.zeros(50_000, np.float32)])
def test_silence_and_a_single_sample(samples: np.ndarray) -> None:
    content = encoder().encode(torch.zeros(1, 4000), [collected(samples)])
    assert content.shape == (1, 12, 24)
    assert torch.isfinite(content).all()


def test_convolutions_do_not_see_the_window_when_statistics_are_given() -> None:
    samples = speechlike(64_000)
    vector = encoder()
    statistics = vector._channel_statistics([collected(samples)])
    whole = vector._model.features(torch.from_numpy(samples)[None], statistics)
    part = vector._model.features(torch.from_numpy(samples[320 * 40 : 320 * 140 + 80])[None], statistics)
    torch.testing.assert_close(part, whole[:, 40:140], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("projection", "layer"), [("none", 3), ("last", 3)])
def test_projections(projection: str, layer: int) -> None:
    vector = encoder(projection)
    samples = torch.from_numpy(speechlike(8000))[None]
    (hidden,) = vector._model(samples, layers=[layer])
    assert vector._model.final_proj is not None
    expected = hidden if projection == "none" else vector._model.final_proj(hidden)
    assert vector.dim == expected.shape[-1]
    torch.testing.assert_close(vector.encode(samples, None), expected)


def test_too_short_a_window_gives_no_vectors() -> None:
    assert encoder().encode(torch.zeros(2, 399), None).shape == (2, 0, 24)


def test_projection_without_its_weights_is_refused() -> None:
    weights = {name: tensor for name, tensor in tiny_weights().items() if not name.startswith("final_proj")}
    model = Hubert.from_tensors(weights, CONFIG)
    assert ContentVec(model, device=CPU).dim == 24
    with pytest.raises(CheckpointError, match="no final_proj"):
        ContentVec(model, device=CPU, projection="last")


def test_ninth_layer_of_a_shallower_network_is_refused() -> None:
    with pytest.raises(CheckpointError, match="has 3 layers"):
        encoder("layer9")


def write_config(folder: Path) -> None:
    fields = {name: getattr(CONFIG, name) for name in CONFIG.__slots__}
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")


@pytest.mark.parametrize("weights_name", ["pytorch_model.bin", "model.safetensors"])
def test_load_reads_either_form(tmp_path: Path, weights_name: str) -> None:
    write_config(tmp_path)
    if weights_name.endswith(".bin"):
        torch.save(tiny_weights(), tmp_path / weights_name)
    else:
        save_file(tiny_weights(), tmp_path / weights_name)
    samples = torch.from_numpy(speechlike(4000))[None]
    torch.testing.assert_close(ContentVec.load(tmp_path, CPU).encode(samples, None), encoder().encode(samples, None))


def test_load_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(AssetMissingError, match=r"model\.safetensors or pytorch_model\.bin"):
        ContentVec.load(tmp_path, CPU)
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(AssetMissingError, match=r"lacks config\.json"):
        ContentVec.load(tmp_path, CPU)
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError) as caught:
        ContentVec.load(tmp_path, CPU)
    assert caught.value.subject == str(tmp_path / "config.json")
    (tmp_path / "config.json").write_text('{"hidden_size": -1}', encoding="utf-8")
    with pytest.raises(CheckpointError, match="hidden_size") as caught:
        ContentVec.load(tmp_path, CPU)
    assert caught.value.subject == str(tmp_path / "config.json")
    write_config(tmp_path)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cut off"):
        ContentVec.load(tmp_path, CPU)
