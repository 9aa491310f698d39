"""What starter voices are made with on the kernels, against torch's in float64."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from menura.kernels.starter import (
    Filters,
    NativeEncoderBlock,
    PlaneConvolution,
    Widening,
    plane,
    use_encoder_kernels,
    use_vocoder_kernels,
)
from menura.models.config import small_config
from menura.models.source_filter import ConvNextBlock, SourceFilter
from menura.models.whisper_encoder import Block, WhisperContentEncoder
from support.kernels import assert_close, built, largest_product, normal, paths


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def drawn(module: nn.Module, seed: int) -> nn.Module:
    """With weights that matter, and keep signals near 1."""
    for number, weight in enumerate(module.parameters()):
        weight.requires_grad_(False).copy_(normal(seed + number, *weight.shape) / weight[0].numel() ** 0.5)
    return module.eval()


def in_plane(x: Tensor) -> Tensor:
    """(channels, height, width) as a plane."""
    channels, height, width = x.shape
    made = plane(height, channels, width)
    made[:, :, :width], made[:, :, width:] = x.transpose(0, 1), 0
    return made


@settings(max_examples=80, deadline=None)
@given(
    path=st.sampled_from(paths()),
    channels=st.tuples(st.integers(1, 26), st.integers(1, 26)),
    shape=st.tuples(st.integers(0, 20), st.integers(0, 140)),
    taps=st.tuples(st.sampled_from([1, 3, 5, 7]), st.sampled_from([1, 3])),
    dilation=st.integers(1, 50),
    slope=st.sampled_from([0.0, 0.1, 1.0]),
    residual=st.booleans(),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_planes(
    path: str,
    channels: tuple[int, int],
    shape: tuple[int, int],
    taps: tuple[int, int],
    dilation: int,
    slope: float,
    residual: bool,
    threads: int,
    seed: int,
) -> None:
    (into, out), (height, width) = channels, shape
    weight, bias = normal(seed, out, into, *taps) / (taps[0] * taps[1] * into) ** 0.5, normal(seed + 1, out)
    x, added = normal(seed + 2, into, height, width), normal(seed + 3, out, height, width)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        layer = PlaneConvolution(built(path), weight, bias, dilation, slope)
        made = layer(in_plane(x), width, in_plane(added) if residual else None)
    finally:
        torch.set_num_threads(before)
    assert not made[:, :, width:].any()
    wanted = torch.zeros(out, height, width, dtype=torch.float64)
    if wanted.numel():
        padding = (taps[0] // 2 * dilation, taps[1] // 2)
        wanted = F.conv2d(x[None].double(), weight.double(), bias.double(), padding=padding, dilation=(dilation, 1))[0]
    wanted = F.leaky_relu(wanted + added if residual else wanted, slope)
    assert_close(made[:, :, :width].transpose(0, 1), wanted, bias, largest_product(weight, x))


def vocoder_block(channels: int, taps: int, seed: int) -> ConvNextBlock:
    block = drawn(ConvNextBlock(channels, taps, 0.5), seed)
    assert isinstance(block, ConvNextBlock)
    return block


def native(block: ConvNextBlock, path: str) -> Widening:
    filters = block.dwconv.weight[:, 0].T, block.dwconv.bias
    assert filters[1] is not None
    return Widening(built(path), (filters[0], filters[1]), block.norm, (block.pwconv1, block.pwconv2), block.gamma)


@settings(max_examples=60, deadline=None)
@given(
    path=st.sampled_from(paths()),
    channels=st.integers(1, 24).map(lambda n: 16 * n),
    taps=st.sampled_from([1, 3, 7]),
    shape=st.tuples(st.integers(0, 2), st.integers(0, 240)),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_widening(path: str, channels: int, taps: int, shape: tuple[int, int], threads: int, seed: int) -> None:
    block, x = vocoder_block(channels, taps, seed), normal(seed + 20, *shape, channels)
    layer = native(block, path)
    torch.set_num_threads(threads)
    made = layer(x)
    wanted = block.double()(x.double()) if x.numel() else x.double()
    assert_close(made, wanted)


@pytest.mark.parametrize("path", paths())
def test_what_is_no_number_stays_none(path: str) -> None:
    x = normal(0, 1, 50, 32)
    x[0, 20, 3] = torch.nan
    made = native(vocoder_block(32, 3, 1), path)(x)[0]
    assert made.isnan().any(dim=1).tolist() == [19 <= step <= 21 for step in range(50)]
    bands = normal(9, 12, 8, 40)
    bands[3, 4, 5] = torch.nan
    heard = PlaneConvolution(built(path), normal(10, 12, 12, 3, 3), normal(11, 12))(in_plane(bands), 40)
    assert heard[3:6, :, 4:7].isnan().all()
    assert not heard[:, :, 7:].isnan().any()


@pytest.mark.parametrize("path", paths())
def test_other_tensors_are_refused(path: str) -> None:
    layer = native(vocoder_block(32, 3, 1), path)
    for wrong in (torch.zeros(1, 5, 48), torch.zeros(1, 5, 32).double()):
        with pytest.raises(ValueError, match="kernel"):
            layer(wrong)
    few = PlaneConvolution(built(path), normal(4, 3, 3, 3, 3), normal(5, 3))
    rows = plane(4, 3, 20)
    for x, width, added in ((plane(4, 2, 20), 20, None), (rows, 40, None), (rows, 20, rows[:3])):
        with pytest.raises(ValueError, match="kernel"):
            few(x, width, added)


@pytest.mark.parametrize("path", paths())
@pytest.mark.parametrize("taps", [3, 7])
def test_filters(path: str, taps: int) -> None:
    conv = drawn(nn.Conv1d(32, 48, taps, padding=taps // 2), taps)
    assert isinstance(conv, nn.Conv1d)
    x = normal(3, 2, 32, 90)
    made = Filters(conv, built(path))(x)
    assert_close(made, conv.double()(x.double()))


@settings(max_examples=30, deadline=None)
@given(
    path=st.sampled_from(paths()),
    heads=st.integers(1, 3),
    vectors=st.integers(1, 90),
    batch=st.integers(1, 2),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_encoder_block(path: str, heads: int, vectors: int, batch: int, threads: int, seed: int) -> None:
    block = drawn(Block(32 * heads, heads), seed)
    assert isinstance(block, Block)
    x = normal(seed + 20, batch, 32 * heads, vectors).transpose(1, 2)
    layer = NativeEncoderBlock(block, built(path))
    torch.set_num_threads(threads)
    made = layer(x)
    assert_close(made, block.double()(x.double()))


def shares(network: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in network.modules())


@pytest.mark.parametrize("path", paths())
def test_a_whole_encoder(path: str) -> None:
    encoder = drawn(WhisperContentEncoder(dim=64, n_heads=2, n_blocks=2, n_directions=3), 5)
    assert isinstance(encoder, WhisperContentEncoder)
    samples = 0.1 * normal(6, 2, 16_000)
    wanted = encoder(samples)
    kept = copy.deepcopy(encoder)
    for _ in range(2):
        use_encoder_kernels(kept, built(path))
    assert (shares(kept, NativeEncoderBlock), shares(kept, Filters)) == (2, 1)
    assert_close(kept(samples), wanted.double())


@pytest.mark.parametrize("path", paths())
@pytest.mark.parametrize(("width", "blocks"), [(32, 8), (24, 0)])
def test_a_whole_vocoder(path: str, width: int, blocks: int) -> None:
    """One of a width that the kernels don't take stays torch's."""
    config = dataclasses.replace(small_config(24_000, 1), upsample_initial_channel=width)
    vocoder = drawn(SourceFilter(config, training=False), 7)
    assert isinstance(vocoder, SourceFilter)
    z, g = normal(8, 1, config.inter_channels, 40), normal(9, 1, config.gin_channels, 1)
    wanted = vocoder.filters(z, g)
    for _ in range(2):
        use_vocoder_kernels(vocoder, built(path))
    assert shares(vocoder, Widening) == blocks
    assert_close(vocoder.filters(z, g), wanted.double())
