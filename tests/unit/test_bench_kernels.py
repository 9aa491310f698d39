"""The kernels' benchmark compares what is equal: every variant of a network and every layer computes the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import kernels, networks, onnx
from benchmarks.kernels import KernelRequest, measure_kernels, tables
from benchmarks.layers import Site, native_layer, sites, torch_layer
from benchmarks.networks import AnalysisSizes
from menura.kernels.library import SWITCH
from menura.kernels.packing import padded_channels
from menura.models.rmvpe import RmvpeConfig
from support.tiny import tiny_voice
from support.tiny_hubert import CONFIG as TINY_HUBERT
from support.voicefiles import write_voice

SIZES = AnalysisSizes(
    rmvpe=RmvpeConfig(channels=16, levels=2, blocks=1, bottleneck_layers=1, gru_size=16),
    hubert=dataclasses.replace(
        TINY_HUBERT, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48
    ),
)
"""Tiny, but wide enough for the kernels."""
LINEAR = "HuBERT's linear layers, a layer, 23 s"
NETWORKS = [
    "RMVPE",
    "RMVPE's U-Net",
    "RMVPE's recurrent layer",
    "HuBERT",
    "HuBERT's front",
    "HuBERT's attention, a layer, 23 s",
    LINEAR,
    "text encoder",
    "inverse flow",
    "SwiftF0's convolutions",
    "starter encoder",
    "starter vocoder's filters",
]


def variants_of(network: str, libraries: Iterable[str], *, onnx_too: bool) -> list[str]:
    """What a network is measured by, in order."""
    linear = network == LINEAR
    return ["torch", *["oneDNN"] * linear, *libraries, *["ONNX Runtime"] * (linear and onnx_too)]


SITES = list(sites(tiny_voice().dec))


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.name)
def test_layers_compute_the_same_by_every_means(site: Site) -> None:
    libraries = kernels._libraries()
    assert libraries, "the kernels must be built for the tests"
    channels = site.layer.weight.shape[0] if site.kind == "upsampling" else site.layer.weight.shape[1]
    x = torch.randn(1, channels, 40, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted = torch_layer(site, x)[0].T
        wide = torch_layer(site, x.unsqueeze(2).contiguous(memory_format=torch.channels_last))[0, :, 0].T
    torch.testing.assert_close(wide, wanted, rtol=0, atol=1e-5)
    rows = torch.zeros(40, padded_channels(channels))
    rows[:, :channels] = x[0].T
    for library in libraries.values():
        made = native_layer(site, library, rows)()
        made = made[:, None] if made.dim() == 1 else made[:, : wanted.shape[1]]
        torch.testing.assert_close(made, wanted, rtol=0, atol=1e-5)


def test_arithmetic_of_a_layer() -> None:
    first = SITES[0]
    assert first.gflop == pytest.approx(2 * 16 * 4 * 7 * 100 / 1e9)
    assert [site.kind for site in SITES].count("convolution") == 1 + 2 * 4
    assert SITES[-1].rate_hz == 4000


def test_a_decoder_is_measured_by_every_means(
    tmp_path: Path, one_thread: None, capsys: pytest.CaptureFixture[str]
) -> None:
    voice = write_voice(tmp_path / "voice.pth")
    answer = measure_kernels(KernelRequest(threads=(1,), seconds=0.2, rounds=2, voice=voice, sizes=SIZES))
    rows = {row.variant: row for row in answer.decoder}
    assert {"torch eager", "torch channels-last"} < set(rows)
    assert any(name.startswith("kernels ") for name in rows)
    assert ("ONNX Runtime" in rows) != any("ONNX Runtime" in line for line in answer.missing)
    assert rows["torch eager"].times_eager == 1
    for row in answer.decoder:
        assert row.largest_error < 2e-6, row
        assert 0 < row.best_ms <= row.median_ms
    assert len(answer.layers) == len(SITES)
    onnx_too = onnx.why_not() is None
    measured = [(n, v) for n in NETWORKS for v in variants_of(n, kernels._libraries(), onnx_too=onnx_too)]
    assert [(row.network, row.variant) for row in answer.networks] == measured
    for network in answer.networks:
        assert network.best_ms > 0
        assert network.threads == 1
        if network.variant == "torch":
            assert (network.of_torch, network.largest_difference) == (1, 0)
        else:  # rounding differs, so that it is no comparison of torch with itself
            assert network.of_torch > 0
            assert network.largest_difference < 2e-5, network
            # Libraries may add so few products up in the same order.
            assert network.largest_difference > 0 or network.network == LINEAR, network
    assert answer.sgemm_gflops[1] > 0
    lines = list(tables(answer))
    text = "\n".join(lines)
    for name in rows:
        assert name in text
    start = next(number for number, line in enumerate(lines) if line.startswith("network ")) + 1
    for line, row in zip(lines[start:], answer.networks, strict=True):
        assert line.startswith(f"{row.network} ")
        assert line.split()[-4:] == ["1", f"{row.best_ms:.2f}", f"{row.of_torch:.2f}", f"{row.largest_difference:.1e}"]
        assert row.variant in line
    assert "first 4 to 16, 7 taps" in text


def test_what_is_missing_is_named(tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "off")
    kernels.trusted_kernels.cache_clear()
    monkeypatch.setattr(onnx.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(kernels, "onednn_works", lambda: False)
    monkeypatch.setattr(networks, "onednn_works", lambda: False)
    voice = write_voice(tmp_path / "voice.pth")
    try:
        answer = measure_kernels(KernelRequest(threads=(1,), seconds=0.1, rounds=1, voice=voice, sizes=SIZES))
    finally:
        kernels.trusted_kernels.cache_clear()
    assert [row.variant for row in answer.decoder] == ["torch eager", "torch channels-last"]
    assert [(row.network, row.variant) for row in answer.networks] == [(network, "torch") for network in NETWORKS]
    assert answer.missing == (
        f"kernels: torch's: {SWITCH}=off",
        "oneDNN: this torch doesn't have it",
        "ONNX Runtime: onnxruntime and onnx not installed (pip install onnxruntime onnx)",
    )
