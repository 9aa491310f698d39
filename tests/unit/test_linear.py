"""Linear layers by oneDNN and by the kernels: equal within rounding to torch's own, and chosen by the machine alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.full_size import contentvec_weights
from menura.kernels import linear as subject
from menura.kernels.hubert import use_kernels
from menura.kernels.library import kernel_status
from menura.kernels.linear import (
    NativeLinear,
    OneDnnLinear,
    native_product,
    onednn_gains,
    onednn_product,
    use_onednn,
    use_products,
)
from menura.models.hubert import Hubert, HubertConfig
from menura.models.source_filter import ConvNextBlock
from menura.models.whisper_encoder import WhisperContentEncoder
from support.kernels import built, paths
from support.kernels import normal as drawn

TOLERANCE = 1e-6
"""Of the largest value, against float64."""


@pytest.fixture(autouse=True)
def tried_anew() -> Iterator[None]:
    subject.onednn_works.cache_clear()
    yield
    subject.onednn_works.cache_clear()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes that oneDNN's product is given, on a machine that gains by it."""
    assert subject.onednn_works()
    fake_machine(monkeypatch, "AMD", "AVX512")
    shapes: list[tuple[int, ...]] = []

    def counted(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        shapes.append(tuple(rows.shape))
        return onednn_product(rows, weight, bias)

    monkeypatch.setattr(subject, "onednn_product", counted)
    return shapes


def fake_machine(monkeypatch: pytest.MonkeyPatch, maker: str, capability: str, family: int = 26) -> None:
    monkeypatch.setattr(subject, "processor_maker", lambda: maker)
    monkeypatch.setattr(subject, "processor_family", lambda: family)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)


def normal(random: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=random)


def accelerated(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(2)
    layer = nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)
    use_onednn(layer)
    assert type(layer) is OneDnnLinear
    return layer


def assert_exact(layer: nn.Linear, x: Tensor) -> None:
    output = layer(x)
    expected = F.linear(x.double(), layer.weight.double(), None if layer.bias is None else layer.bias.double())
    assert output.shape == expected.shape
    assert output.dtype == torch.float32
    if expected.numel():
        assert (output.double() - expected).abs().max() <= TOLERANCE * expected.abs().max()


SHAPES = [(), (0,), (1,), (7,), (63,), (64,), (65,), (333,), (2050,), (1, 150), (3, 77), (0, 9), (5, 0), (2, 3, 41)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inputs", "outputs"), [(48, 40), (37, 31), (96, 200)])
@torch.inference_mode()
def test_products_are_exact(calls: list[tuple[int, ...]], inputs: int, outputs: int, bias: bool) -> None:
    layer, random = accelerated(inputs, outputs, bias=bias), torch.Generator().manual_seed(3)
    for shape in SHAPES:
        assert_exact(layer, normal(random, *shape, inputs))
    assert len(calls) == sum(torch.Size(shape).numel() >= 64 for shape in SHAPES)


@torch.inference_mode()
def test_inputs_may_lie_anyhow(calls: list[tuple[int, ...]]) -> None:
    layer, random = accelerated(48, 40), torch.Generator().manual_seed(5)
    layer.weight = nn.Parameter(normal(random, 48, 40).T, requires_grad=False)
    inputs = [
        normal(random, 48, 130).T,
        normal(random, 2, 48, 70).transpose(1, 2),
        normal(random, 130, 96)[:, :48],
        normal(random, 130, 96)[:, ::2],
        normal(random, 300, 48)[::2],
        normal(random, 70, 48).expand(3, 70, 48),
    ]
    for x in inputs:
        assert not x.is_contiguous()
        assert_exact(layer, x)
    assert len(calls) == len(inputs)


@torch.inference_mode()
def test_few_numbers_of_rows_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """OneDNN keeps memory for each."""
    counts: set[int] = set()

    def product(padded: Tensor, weight: Tensor, bias: Tensor | None, *_: object) -> Tensor:
        counts.add(len(padded))
        return F.linear(padded, weight, bias)

    monkeypatch.setattr(torch, "ops", operators(product))
    weight = torch.ones(1, 1)
    for rows in range(64, 1025):
        assert len(onednn_product(torch.ones(rows, 1), weight, None)) == rows
    assert counts == set(range(64, 1025, 64))
    for rows in range(1025, 8193):
        onednn_product(torch.ones(rows, 1), weight, None)
        assert max(counts) <= max(1024, rows * 9 // 8)
    assert len(counts) == 16 + 3 * 8


@torch.inference_mode()
def test_an_older_machine_pads_little(calls: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    """What oneDNN gains there is less."""
    fake_machine(monkeypatch, "AMD", "AVX512", family=25)
    layer, random = accelerated(48, 40), torch.Generator().manual_seed(4)
    for rows in (64, 65, 350, 635, 640, 1150):
        assert_exact(layer, normal(random, rows, 48))
    assert [rows for rows, _ in calls] == [64, 635, 640, 1150]


def test_what_it_is_not_for_stays_with_torch(calls: list[tuple[int, ...]]) -> None:
    layer, x = accelerated(48, 40), torch.ones(100, 48)
    assert layer(x).shape == (100, 40)
    with torch.inference_mode():
        assert layer.double()(x.double()).dtype == torch.float64
    assert not calls
    narrow = nn.Linear(9, 1)
    use_onednn(narrow)
    assert type(narrow) is nn.Linear


def test_gradients_are_torchs(calls: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    block, x = ConvNextBlock(48, 7, 0.5), torch.randn(1, 100, 48)
    use_onednn(block)
    output = block(x)
    output.square().sum().backward()
    assert all(parameter.grad is not None for parameter in block.parameters())
    assert not calls
    with torch.no_grad():
        torch.testing.assert_close(block(x), output, rtol=0, atol=1e-5)
    assert calls


@pytest.mark.parametrize(
    ("maker", "capability", "gains"),
    [("AMD", "AVX512", True), ("AMD", "AVX2", False), ("Intel", "AVX512", False), ("", "DEFAULT", False)],
)
def test_the_machine_chooses(monkeypatch: pytest.MonkeyPatch, maker: str, capability: str, gains: bool) -> None:
    fake_machine(monkeypatch, maker, capability)
    assert onednn_gains() == gains
    layer = nn.Linear(48, 48)
    use_onednn(layer)
    assert isinstance(layer, OneDnnLinear) == gains


@pytest.mark.parametrize("path", paths())
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 16), (272, 208), (768, 400), (1024, 48)])
@torch.inference_mode()
def test_products_of_the_kernels_are_exact(path: str, threads: int, inputs: int, outputs: int) -> None:
    library, before = built(path), torch.get_num_threads()
    weight, bias = drawn(0, outputs, inputs), drawn(1, outputs)
    torch.set_num_threads(threads)
    try:
        for rows in (0, 1, 7, 12, 100, 288, 289, 700):
            x = drawn(rows, rows, inputs)
            wanted = F.linear(x.double(), weight.double(), bias.double())
            made = native_product(library, x, weight, bias)
            assert made.shape == wanted.shape
            assert rows == 0 or (made.double() - wanted).abs().max() <= TOLERANCE * wanted.abs().max()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("maker", "family", "takes"),
    [("AMD", 23, True), ("AMD", 25, True), ("AMD", 26, False), ("Intel", 6, False), ("", 0, False)],
)
def test_the_machine_chooses_the_kernels(monkeypatch: pytest.MonkeyPatch, maker: str, family: int, takes: bool) -> None:
    fake_machine(monkeypatch, maker, "AVX512", family)
    network = nn.Sequential(nn.Linear(48, 64), nn.Linear(64, 40), nn.Linear(64, 64, bias=False)).requires_grad_(False)
    use_products(network, built(paths()[0]))
    assert [isinstance(layer, NativeLinear) for layer in network] == [takes, False, False]


def test_the_kernels_keep_to_rows_without_gradients() -> None:
    """All else is torch's: few rows, doubles, gradients."""
    layer, library = nn.Linear(48, 64), built(paths()[0])
    layer.__class__, layer.library = NativeLinear, library
    x = drawn(0, 2, 70, 48)
    wanted = F.linear(x, layer.weight, layer.bias)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    with torch.inference_mode():
        assert torch.equal(layer(x[0, :63]), F.linear(x[0, :63], layer.weight, layer.bias))
        torch.testing.assert_close(layer(x), wanted, rtol=0, atol=1e-5)
        torch.testing.assert_close(layer(x.transpose(0, 1)), wanted.transpose(0, 1), rtol=0, atol=1e-5)
        assert layer.double()(x.double()).dtype == torch.float64


def operators(product: object) -> object:
    """Stands for `torch.ops`, with this as oneDNN's product."""
    packet = type("packet", (), {"default": staticmethod(product)})
    return type("ops", (), {"mkldnn": type("mkldnn", (), {"_linear_pointwise": packet})})


def _raises(*_: object) -> Tensor:
    raise RuntimeError("could not create\na primitive")


def _wrong(x: Tensor, weight: Tensor, bias: Tensor | None, *_: object) -> Tensor:
    return F.linear(x, weight, bias) * 1.001


def _biasless(x: Tensor, weight: Tensor, *_: object) -> Tensor:
    return F.linear(x, weight)


def _not_a_number(x: Tensor, weight: Tensor, bias: Tensor | None, *_: object) -> Tensor:
    return F.linear(x, weight, bias) * torch.nan


def _other_schema(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight)


@pytest.mark.parametrize("product", [_raises, _wrong, _biasless, _not_a_number, _other_schema, None])
def test_what_fails_is_not_used(monkeypatch: pytest.MonkeyPatch, product: object) -> None:
    fake_machine(monkeypatch, "AMD", "AVX512")
    without = type("ops", (), {"mkldnn": object()})
    monkeypatch.setattr(torch, "ops", without if product is None else operators(product))
    assert not onednn_gains()


def by_both(calls: list[tuple[int, ...]], network: nn.Module, run: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """By torch, and by oneDNN."""
    with torch.inference_mode():
        torchs = run()
        assert not calls
        use_onednn(network)
        return torchs, run()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("compiled", [False, True])
def test_hubert_is_the_same_by_both(calls: list[tuple[int, ...]], compiled: bool, batch: int) -> None:
    config = HubertConfig(
        hidden_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=768,
        conv_dim=(16,) * 7,
        num_conv_pos_embedding_groups=4,
        classifier_proj_size=10,
    )
    model = Hubert.from_tensors(contentvec_weights(config), config)
    library = kernel_status().library
    assert library is not None
    if compiled:
        use_kernels(model, library)
    samples = torch.randn(batch, 60_000, generator=torch.Generator().manual_seed(2)) * 0.1
    torchs, onednns = by_both(calls, model, lambda: model(samples, layers=[3])[0])
    assert len(calls) == 1 + 3 * 6
    assert (onednns - torchs).abs().max() <= 1e-5 * torchs.abs().max()


def test_hubert_is_the_same_by_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    config = HubertConfig(hidden_size=192, num_hidden_layers=2, num_attention_heads=4, intermediate_size=768)
    model = Hubert.from_tensors(contentvec_weights(config), config)
    samples = torch.randn(1, 60_000, generator=torch.Generator().manual_seed(2)) * 0.1
    fake_machine(monkeypatch, "AMD", "AVX2", family=25)
    with torch.inference_mode():
        torchs = model(samples, layers=[2])[0]
        use_kernels(model, built(paths()[0]))
        assert sum(isinstance(layer, NativeLinear) for layer in model.modules()) == 1 + 2 * 6 + 1
        made = model(samples, layers=[2])[0]
    assert (made - torchs).abs().max() <= 1e-5 * torchs.abs().max()


def test_the_starter_encoder_is_the_same_by_both(calls: list[tuple[int, ...]]) -> None:
    torch.manual_seed(3)
    model = WhisperContentEncoder(dim=96, n_heads=2, n_blocks=2, max_vectors=200, n_directions=3).eval()
    samples = torch.randn(1, 16_000 * 3) * 0.1
    torchs, onednns = by_both(calls, model, lambda: model(samples))
    assert len(calls) == 2 * 4
    assert (onednns - torchs).abs().max() <= 1e-5 * torchs.abs().max()
