"""Linear layers by either library: equal within rounding, and chosen by the machine alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.full_size import contentvec_weights
from menura.errors import OptionError
from menura.kernels import linear as subject
from menura.kernels.library import kernels
from menura.kernels.linear import FEWEST_ROWS, MEANS, SWITCH, Linear, linear, linear_in_words, linear_into
from menura.models.hubert import Hubert, HubertConfig
from menura.models.source_filter import ConvNextBlock
from menura.models.whisper_encoder import WhisperConfig, WhisperContentEncoder
from support.tiny_hubert import CONFIG

TOLERANCE = 1e-6
"""Of the largest value, against float64."""


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test chooses anew, and leaves no choice behind."""
    monkeypatch.delenv(SWITCH, raising=False)
    subject._status.cache_clear()
    yield
    subject._status.cache_clear()


@pytest.fixture(params=MEANS)
def means(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(SWITCH, request.param)
    assert (subject.linear_status().product is None) == (request.param == "torch"), linear_in_words()
    return str(request.param)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes that oneDNN's product is given, once it has been chosen."""
    monkeypatch.setenv(SWITCH, "onednn")
    product = subject.linear_status().product
    assert product is not None
    seen: list[tuple[int, ...]] = []

    def counted(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        seen.append(tuple(x.shape))
        return product(x, weight, bias)

    status = subject.LinearStatus(product=counted, reason="oneDNN's: counted")
    monkeypatch.setattr(subject, "linear_status", lambda: status)
    return seen


def normal(random: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=random)


def assert_exact(made: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    wanted = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    assert made.shape == wanted.shape
    assert made.dtype == torch.float32
    if wanted.numel():
        assert (made.double() - wanted).abs().max() <= TOLERANCE * wanted.abs().max()


SHAPES = [
    (0,),
    (1,),
    (7,),
    (FEWEST_ROWS - 1,),
    (FEWEST_ROWS,),
    (FEWEST_ROWS + 1,),
    (333,),
    (2050,),
    (1, 150),
    (3, 77),
    (0, 9),
    (5, 0),
    (2, 3, 41),
]


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(("inputs", "outputs"), [(48, 40), (37, 11), (96, 200)])
@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_products_are_exact(means: str, shape: tuple[int, ...], inputs: int, outputs: int, biased: bool) -> None:
    random = torch.Generator().manual_seed(3)
    x, weight = normal(random, *shape, inputs), normal(random, outputs, inputs)
    bias = normal(random, outputs) if biased else None
    assert_exact(linear(x, weight, bias), x, weight, bias)


@torch.inference_mode()
def test_one_vector_is_exact(means: str) -> None:
    random = torch.Generator().manual_seed(4)
    x, weight, bias = normal(random, 48), normal(random, 40, 48), normal(random, 40)
    assert_exact(linear(x, weight, bias), x, weight, bias)


@torch.inference_mode()
def test_inputs_may_lie_anyhow(means: str) -> None:
    random = torch.Generator().manual_seed(5)
    weight, bias = normal(random, 40, 48), normal(random, 40)
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
        assert_exact(linear(x, weight, bias), x, weight, bias)
    x = normal(random, 130, 48)
    transposed = normal(random, 48, 40).T
    assert_exact(linear(x, transposed, bias), x, transposed, bias)


@pytest.mark.parametrize("rows", [0, 1, FEWEST_ROWS, 200])
@torch.inference_mode()
def test_products_go_where_they_are_needed(means: str, rows: int) -> None:
    random = torch.Generator().manual_seed(6)
    x, weight, bias = normal(random, rows, 48), normal(random, 40, 48), normal(random, 40)
    held = torch.full((rows, 100), 7.0)
    linear_into(held[:, 30:70], x, weight, bias)
    assert_exact(held[:, 30:70], x, weight, bias)
    assert bool((held[:, :30] == 7).all())
    assert bool((held[:, 70:] == 7).all())


def test_few_numbers_of_rows_are_computed() -> None:
    """OneDNN keeps memory for each."""
    counts = {subject._rounded(rows) for rows in range(FEWEST_ROWS, 1025)}
    assert counts == set(range(64, 1025, 64))
    assert len({subject._rounded(rows) for rows in range(1025, 8193)}) == 3 * 8
    for rows in (1, 64, 65, 1149, 5000):
        assert rows <= subject._rounded(rows) <= max(64, rows + 64, rows * 9 // 8)
        assert subject._rounded(subject._rounded(rows)) == subject._rounded(rows)


@torch.inference_mode()
def test_what_onednn_is_not_for_stays_with_torch(calls: list[tuple[int, ...]]) -> None:
    random = torch.Generator().manual_seed(7)
    x, weight, bias = normal(random, 100, 48), normal(random, 40, 48), normal(random, 40)
    linear(x, weight, bias)
    assert calls == [(100, 48)]
    assert linear(x.double(), weight.double(), bias.double()).dtype == torch.float64
    assert linear(x.bfloat16(), weight.bfloat16(), None).dtype == torch.bfloat16
    assert linear(x.to("meta"), weight.to("meta"), bias.to("meta")).device.type == "meta"
    assert linear(x[: FEWEST_ROWS - 1], weight, bias).shape == (FEWEST_ROWS - 1, 40)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16
    assert len(calls) == 1


@pytest.mark.parametrize("make", [lambda: Linear(48, 48), lambda: ConvNextBlock(48, 7, 0.5)])
def test_gradients_are_torchs(calls: list[tuple[int, ...]], make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    layer, x = make(), torch.randn(1, 100, 48)
    made = layer(x)
    made.square().sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())
    assert not calls
    with torch.no_grad():
        torch.testing.assert_close(layer(x), made, rtol=0, atol=1e-5)
    assert calls


def test_a_layer_is_torchs_but_for_the_product() -> None:
    torch.manual_seed(1)
    ours = Linear(48, 40)
    torch.manual_seed(1)
    plain = nn.Linear(48, 40)
    assert list(ours.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))
    x = torch.randn(100, 48)
    assert torch.equal(ours(x), plain(x))


def fake_machine(monkeypatch: pytest.MonkeyPatch, maker: str, capability: str) -> None:
    monkeypatch.setattr(subject, "processor_maker", lambda: maker)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)


@pytest.mark.parametrize(
    ("maker", "capability", "wanted", "onednn"),
    [
        ("AMD", "AVX512", "", True),
        ("AMD", "AVX2", "", False),
        ("Intel", "AVX512", "", False),
        ("Intel", "AVX2", "", False),
        ("", "AVX512", "", False),
        ("", "DEFAULT", "", False),
        ("AMD", "AVX512", "torch", False),
        ("AMD", "AVX512", " Torch ", False),
        ("Intel", "AVX2", "onednn", True),
        ("Intel", "AVX2", "OneDNN", True),
    ],
)
def test_the_machine_chooses(
    monkeypatch: pytest.MonkeyPatch, maker: str, capability: str, wanted: str, onednn: bool
) -> None:
    fake_machine(monkeypatch, maker, capability)
    monkeypatch.setenv(SWITCH, wanted)
    status = subject.linear_status()
    assert (status.product is not None) == onednn
    assert status.reason.startswith("oneDNN's: " if onednn else "torch's: ")
    if wanted:
        assert status.reason.endswith(f"{SWITCH}={wanted.strip().lower()}")
    assert linear_in_words() == status.reason


def test_other_means_are_an_option_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "mkl")
    said = f"{SWITCH}: 'mkl' is not one of torch, onednn"
    with pytest.raises(OptionError, match=said):
        subject.linear_status()
    with pytest.raises(OptionError, match=said):
        Linear(4, 4)
    with pytest.raises(OptionError, match=said):
        Hubert(CONFIG, with_projection=False)
    with torch.inference_mode(), pytest.raises(OptionError, match=said):
        linear(torch.zeros(100, 4), torch.zeros(4, 4), None)
    assert said in linear_in_words()


class _Operators:
    """Stands for `torch.ops`, with this as oneDNN's product."""

    def __init__(self, product: object) -> None:
        packet = type("packet", (), {"default": staticmethod(product)})
        self.mkldnn = type("mkldnn", (), {"_linear_pointwise": packet})


def _raises(*_: object) -> Tensor:
    raise RuntimeError("could not create\na primitive")


def _wrong(x: Tensor, weight: Tensor, bias: Tensor | None, *_: object) -> Tensor:
    return F.linear(x, weight, bias) * 1.001


def _biasless(x: Tensor, weight: Tensor, *_: object) -> Tensor:
    return F.linear(x, weight)


def _no_number(x: Tensor, weight: Tensor, bias: Tensor | None, *_: object) -> Tensor:
    return F.linear(x, weight, bias) * torch.nan


def _other_type(x: Tensor, weight: Tensor, bias: Tensor | None, *_: object) -> Tensor:
    return F.linear(x, weight, bias).double()


def _other_schema(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight)


@pytest.mark.parametrize("wanted", ["", "onednn"])
@pytest.mark.parametrize(
    ("product", "reason"),
    [
        (_raises, "oneDNN's fail (could not create a primitive)"),
        (_wrong, "oneDNN's are wrong by 1.0e-03"),
        (_biasless, "oneDNN's are wrong by "),
        (_no_number, "oneDNN's are wrong by inf"),
        (_other_type, "oneDNN's fail (made torch.float64"),
        (_other_schema, "oneDNN's fail (_other_schema() takes 2 positional arguments"),
        (None, "this torch offers no product of oneDNN's"),
    ],
)
def test_what_fails_is_not_used(monkeypatch: pytest.MonkeyPatch, product: object, reason: str, wanted: str) -> None:
    fake_machine(monkeypatch, "AMD", "AVX512")
    monkeypatch.setenv(SWITCH, wanted)
    operators = type("ops", (), {"mkldnn": object()}) if product is None else _Operators(product)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "ops", operators)
        status = subject.linear_status()
    assert status.product is None
    assert status.reason.startswith(f"torch's: {reason}")
    x, weight = torch.ones(100, 4), torch.eye(4)
    with torch.inference_mode():
        assert torch.equal(linear(x, weight, None), x)


def test_a_torch_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_machine(monkeypatch, "AMD", "AVX512")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert subject.linear_status() == subject.LinearStatus(product=None, reason="torch's: this torch has no oneDNN")


def test_the_operator_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    monkeypatch.setenv(SWITCH, "onednn")
    monkeypatch.setattr(subject, "_largest_error", lambda product: tried.append(product) or 0.0)
    assert subject.linear_status() is subject.linear_status()
    assert len(tried) == 1


def test_the_operators_own_error_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "onednn")
    product = subject.linear_status().product
    assert product is not None
    assert 0 < subject._largest_error(product) < 1e-6


def by_both(
    monkeypatch: pytest.MonkeyPatch, calls: list[tuple[int, ...]], run: Callable[[], Tensor]
) -> tuple[Tensor, Tensor]:
    """By torch, and by oneDNN."""
    before = len(calls)
    with monkeypatch.context() as patch, torch.inference_mode():
        patch.setattr(subject, "linear_status", lambda: subject.LinearStatus(product=None, reason="torch's: a test"))
        torchs = run()
    assert len(calls) == before
    with torch.inference_mode():
        return torchs, run()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("compiled", [False, True])
def test_hubert_is_the_same_by_both(
    monkeypatch: pytest.MonkeyPatch, calls: list[tuple[int, ...]], compiled: bool, batch: int
) -> None:
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
    if compiled:
        model.use_kernels(kernels())
    samples = torch.randn(batch, 60_000, generator=torch.Generator().manual_seed(2)) * 0.1
    torchs, onednns = by_both(monkeypatch, calls, lambda: model(samples, layers=[3])[0])
    assert len(calls) == 1 + 3 * 6
    assert (onednns - torchs).abs().max() <= 1e-5 * torchs.abs().max()
    assert model.final_proj is not None
    projected, other = by_both(monkeypatch, calls, lambda: model.final_proj(torchs))
    assert len(calls) == 1 + 3 * 6 + 1
    assert (other - projected).abs().max() <= 1e-5 * projected.abs().max()


def test_the_starter_encoder_is_the_same_by_both(monkeypatch: pytest.MonkeyPatch, calls: list[tuple[int, ...]]) -> None:
    torch.manual_seed(3)
    model = WhisperContentEncoder(WhisperConfig(dim=96, n_heads=2, n_blocks=2, max_vectors=200), n_directions=3).eval()
    samples = torch.randn(1, 16_000 * 3) * 0.1
    torchs, onednns = by_both(monkeypatch, calls, lambda: model(samples))
    assert len(calls) == 2 * 4
    assert (onednns - torchs).abs().max() <= 1e-5 * torchs.abs().max()
