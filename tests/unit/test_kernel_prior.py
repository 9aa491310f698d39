"""The text encoder and the flow on the kernels against torch's in float64."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from menura.kernels import prior as subject
from menura.kernels.cache import Packing
from menura.kernels.layers import Attention, gate, spread
from menura.kernels.voice import NativeVoice, Voice
from menura.models.config import SynthesizerConfig, rvc_config, small_config
from menura.models.layers import RelativeAttention, Span
from menura.models.synthesizer import Synthesizer
from menura.models.weights import network_bytes
from menura.types import Prior
from support.kernels import assert_close, built, normal, paths
from support.tiny import tiny_config

TOLERANCE = 1e-5
"""Of an output's largest value."""


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@settings(max_examples=80, deadline=None)
@given(
    path=st.sampled_from(paths()),
    heads=st.integers(1, 3),
    head_channels=st.integers(1, 40),
    window=st.integers(0, 12),
    frames=st.integers(1, 330),
    reach=st.none() | st.integers(0, 340),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_attention(
    path: str, heads: int, head_channels: int, window: int, frames: int, reach: int | None, threads: int, seed: int
) -> None:
    channels = heads * head_channels
    layer = RelativeAttention(channels, heads, window, 0.0).requires_grad_(False)
    layer.emb_rel_k.copy_(normal(seed, 1, 2 * window + 1, head_channels) * 0.5)
    layer.emb_rel_v.copy_(normal(seed + 1, 1, 2 * window + 1, head_channels) * 0.5)
    for conv in (layer.conv_q, layer.conv_k, layer.conv_v, layer.conv_o):
        conv.weight.copy_(torch.eye(channels)[:, :, None])
        torch.nn.init.zeros_(conv.bias)
    layer.conv_k.weight.mul_(3)  # so that some shares are large
    x = normal(seed + 2, frames, channels)
    attention = Attention(built(path), layer.emb_rel_k[0], layer.emb_rel_v[0], heads)
    projected = torch.cat([spread(part.T, heads) for part in (x, 3 * x, x)]).T.contiguous()
    torch.set_num_threads(threads)
    made = attention(projected, torch.full((frames, attention.channels), torch.nan), reach)
    wanted = layer.double()(x.double().T[None], torch.ones(1, 1, frames).double(), reach)[0].T
    assert_close(made.view(frames, heads, -1)[..., :head_channels].reshape(frames, channels), wanted)
    assert not made.view(frames, heads, -1)[..., head_channels:].any()


@pytest.mark.parametrize("path", paths())
def test_attention_to_far_larger_scores(path: str) -> None:
    """Shares that vanish, and a softmax whose exponents would overflow."""
    x = torch.zeros(90, 48)
    x[:, 0], x[40, 16], x[:, 32] = 100.0, 400.0, torch.arange(90.0)
    made = Attention(built(path), torch.zeros(1, 16), torch.zeros(1, 16), 1)(x, torch.empty(90, 16), None)
    assert torch.equal(made[:, 0], torch.full((90,), 40.0))


@pytest.mark.parametrize("path", paths())
def test_gate(path: str) -> None:
    x = torch.cat([torch.linspace(-200, 200, 32 * 101), torch.linspace(-9, 9, 32 * 101)]).view(-1, 32)
    x = torch.cat([x, x.flip(0)], dim=1)
    made = gate(built(path), x, torch.empty(202, 32))
    wanted = torch.tanh(x[:, :32].double()) * torch.sigmoid(x[:, 32:].double())
    assert float((made.double() - wanted).abs().max()) < 2e-7


def test_what_attention_and_gate_refuse() -> None:
    chosen = built(paths()[0])
    attention = Attention(chosen, normal(0, 5, 16), normal(1, 5, 16), 2)
    with pytest.raises(ValueError, match="96 channels, not 31"):
        attention(normal(2, 10, 96)[:, :31].contiguous(), torch.empty(10, 32), None)
    with pytest.raises(ValueError, match="menura_gate"):
        gate(chosen, normal(2, 10, 30), torch.empty(10, 15))


CONFIGS: dict[str, SynthesizerConfig] = {
    "full size": dataclasses.replace(
        rvc_config("v2", 40_000, 2, content="contentvec", has_f0=True, vocoder="HiFi-GAN"),
        upsample_initial_channel=32,  # the decoder isn't needed here
    ),
    "starter": small_config(24_000, 2),
    "tiny": tiny_config(),
    "no F0": tiny_config(has_f0=False),
    "narrow": dataclasses.replace(tiny_config(), hidden_channels=18, inter_channels=34, n_heads=3, kernel_size=5),
    "even kernel": dataclasses.replace(tiny_config(), kernel_size=4),
}


def random_voice(config: SynthesizerConfig) -> Synthesizer:
    """Weights that keep signals near 1; none is zero, as a new flow's last layers are."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        net = Synthesizer(config).requires_grad_(False)
        for module in net.modules():
            if isinstance(module, torch.nn.Conv1d):
                torch.nn.init.normal_(module.weight, 0.0, (module.weight[0].numel()) ** -0.5)
                if module.bias is not None:
                    torch.nn.init.normal_(module.bias, 0.0, 0.3)
    return net.eval()


def encoded(net: Voice | Synthesizer, lengths: list[int], reach: int | None, wanted: Span | None = None) -> Prior:
    config, frames = net.config, max(lengths)
    content = normal(1, len(lengths), frames, config.content_dim).to(dtype_of(net))
    coarse = (normal(2, len(lengths), frames).abs() * 60).long().clamp(max=255) if config.has_f0 else None
    return net.encode(content, coarse, torch.tensor(lengths), reach, wanted)


def inverted(net: Voice | Synthesizer, lengths: list[int]) -> Tensor:
    dtype, frames = dtype_of(net), max(lengths)
    mask = (torch.arange(frames) < torch.tensor(lengths)[:, None]).to(dtype)[:, None]
    z_p = normal(3, len(lengths), net.config.inter_channels, frames).to(dtype) * mask
    return net.reverse_flow(z_p, mask, net.condition(torch.arange(len(lengths)) % net.config.n_speakers))


def dtype_of(net: Voice | Synthesizer) -> torch.dtype:
    return net.condition(torch.tensor([0])).dtype


def assert_near(made: Tensor, wanted: Tensor) -> None:
    assert made.shape == wanted.shape
    assert float((made.double() - wanted).abs().max()) <= TOLERANCE * float(wanted.abs().max())


@torch.inference_mode()
@pytest.mark.parametrize("path", paths())
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_equal_to_torch(path: str, config: SynthesizerConfig) -> None:
    reference = random_voice(config)
    net = NativeVoice(copy.deepcopy(reference), built(path))
    reference.double()
    cases: list[tuple[list[int], int | None]] = [([97, 140, 1], 40), ([30], 40), ([60], None)]
    if config.hidden_channels < 100:
        cases += [([230], None), ([230], 40), ([97, 60], None), ([1], None)]
    for lengths, reach in cases:
        torch.set_num_threads(1 + len(lengths) % 3)
        made, wanted = encoded(net, lengths, reach), encoded(reference, lengths, reach)
        assert_near(made.mean, wanted.mean)
        assert_near(made.log_scale, wanted.log_scale)
        assert torch.equal(made.mask, wanted.mask.float())
        assert_near(inverted(net, lengths), inverted(reference, lengths))


@torch.inference_mode()
@pytest.mark.parametrize("path", paths())
@pytest.mark.parametrize("name", ["starter", "even kernel", "narrow"])
@pytest.mark.parametrize("wanted", [Span(0, 40), Span(110, 160), Span(240, 320)])
def test_what_is_wanted_is_as_in_the_whole(path: str, name: str, wanted: Span) -> None:
    reference = random_voice(CONFIGS[name])
    net = NativeVoice(copy.deepcopy(reference), built(path))
    reference.double()
    made, whole = encoded(net, [250, 130], 12, wanted), encoded(reference, [250, 130], 12)
    for row, length in enumerate([250, 130]):
        frames = slice(wanted.start, min(wanted.stop, length))
        if frames.start < length:
            assert_near(made.mean[row, :, frames], whole.mean[row, :, frames])
    assert made.log_scale.isfinite().all()


@torch.inference_mode()
def test_empty_rows_and_shared_masks() -> None:
    reference = random_voice(tiny_config())
    net = NativeVoice(copy.deepcopy(reference), built(paths()[0]))
    reference.double()
    assert_near(encoded(net, [5, 0], None).mean, encoded(reference, [5, 0], None).mean)
    z, mask = normal(1, 2, net.config.inter_channels, 30), torch.ones(1, 1, 30)
    g = net.condition(torch.tensor([0]))
    assert_near(net.reverse_flow(z, mask, g), reference.reverse_flow(z.double(), mask.double(), g.double()))


@torch.inference_mode()
@pytest.mark.parametrize("block", [7, 64, 101])
def test_blocks_meet(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    net = NativeVoice(random_voice(dataclasses.replace(tiny_config(), kernel_size=5)), built(paths()[0]))
    prior, z = encoded(net, [150, 80], 20), inverted(net, [150, 80])
    monkeypatch.setattr(subject, "BLOCK_FRAMES", block)
    assert_near(encoded(net, [150, 80], 20).mean, prior.mean.double())
    assert_near(inverted(net, [150, 80]), z.double())


@torch.inference_mode()
@pytest.mark.parametrize("path", paths())
def test_threads_change_nothing(path: str) -> None:
    config = CONFIGS["starter"]
    net, chosen = random_voice(config), built(path)
    encoder_, flow_ = (
        subject.Encoder(net.enc_p, Packing(chosen)),
        subject.InverseFlow(net.flow, Packing(chosen)),
    )
    x, z_p = normal(0, 140, config.hidden_channels), normal(1, 140, config.inter_channels)
    conditions = [normal(number, 6 * config.hidden_channels) for number in range(4)]
    made = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        made.append((encoder_.encode(x, 30, Span(0, len(x))), flow_.apply(z_p, conditions)))
    for other in made[1:]:
        assert all(torch.equal(a, b) for a, b in zip(made[0], other, strict=True))


@torch.inference_mode()
def test_a_vocoder_without_kernels_has_them_for_the_rest() -> None:
    reference = random_voice(dataclasses.replace(tiny_config(), vocoder="RefineGAN", upsample_initial_channel=32))
    net = NativeVoice(copy.deepcopy(reference), built(paths()[0]))
    assert net.resident_bytes > network_bytes(reference.dec)
    z, g = normal(3, 1, 4, 30), net.condition(torch.tensor([0]))
    source = normal(4, 1, 1, 30 * net.config.frame_samples) * 0.1
    by_torch = reference.decode_tiled(z, g, source, (0, 30))
    assert torch.equal(net.decode_tiled(z, g, source, (0, 30)), by_torch)
    phase, f0_hz = torch.zeros(1, dtype=torch.float64), torch.full((1, 5), 110.0)
    assert torch.equal(net.source(f0_hz, phase, None, 1.0), reference.source(f0_hz, phase, None, 1.0))
    reference.double()
    assert_near(encoded(net, [40], None).mean, encoded(reference, [40], None).mean)
