"""The synthesizer's networks with tiny random weights."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from menura.models import layers
from menura.models.config import SynthesizerConfig
from menura.models.layers import RelativeAttention, WaveNet
from menura.models.synthesizer import Synthesizer, TrainingBatch, random_crop_starts
from menura.train.learning.objective import vits_pass
from support.tiny import DIM, tiny_config, tiny_voice

FRAMES = 60


def variants() -> list[SynthesizerConfig]:
    """Kinds of decoders: with and without F0, the lighter residual block, odd and many rates."""
    base = tiny_config(rates=(10, 4, 2))
    return [
        base,
        tiny_config(has_f0=False, rates=(10, 4, 2)),
        dataclasses.replace(base, resblock="2"),
        tiny_config(rates=(5, 2, 2, 2)),
        tiny_config(rates=(3, 5)),
        dataclasses.replace(base, upsample_kernel_sizes=(16, 8, 4), resblock_kernel_sizes=(3, 11)),
        dataclasses.replace(base, vocoder="MRF HiFi-GAN"),
        dataclasses.replace(base, vocoder="RefineGAN", upsample_initial_channel=32),
    ]


@pytest.fixture(
    params=variants(), ids=["nsf", "no-f0", "resblock2", "odd-first", "two-odd", "wide", "mrf", "refinegan"]
)
def voice(request: pytest.FixtureRequest) -> Synthesizer:
    voice = tiny_voice(request.param)
    with torch.no_grad():
        loudest = voice.dec.conv_post(before_last(voice)).abs().max()
        # Far from tanh's limits, where nothing would show.
        voice.dec.conv_post.weight /= loudest
        if voice.dec.conv_post.bias is not None:
            voice.dec.conv_post.bias /= loudest
    return voice


def before_last(voice: Synthesizer) -> Tensor:
    """What the last convolution is given."""
    seen: list[Tensor] = []
    handle = voice.dec.conv_post.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    voice.decode(*latent(voice))
    handle.remove()
    return seen[0]


def latent(voice: Synthesizer, frames: int = FRAMES, batch: int = 1) -> tuple[Tensor, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(frames)
    z = torch.randn(batch, voice.config.inter_channels, frames, generator=generator)
    g = voice.condition(torch.arange(batch))
    source = torch.randn(batch, 1, frames * voice.config.frame_samples, generator=generator) * 0.3
    return z, g, source if voice.config.has_f0 else None


def in_double(
    voice: Synthesizer, tensors: tuple[Tensor, Tensor, Tensor | None]
) -> tuple[Tensor, Tensor, Tensor | None]:
    voice.double()
    z, g, source = tensors
    return z.double(), g.double(), None if source is None else source.double()


@torch.inference_mode()
def test_sound_has_exactly_its_frames(voice: Synthesizer) -> None:
    z, g, source = latent(voice, 7, batch=2)
    sound = voice.decode(z, g, source)
    assert sound.shape == (2, 7 * voice.config.frame_samples)
    assert sound.abs().max() < 0.99
    assert sound.std() > 0.01


@torch.inference_mode()
@pytest.mark.parametrize(
    ("core", "tile_frames"), [((0, FRAMES), 7), ((0, FRAMES), 100), ((20, 41), 5), ((0, 1), 1), ((59, 60), 50)]
)
def test_tiles_equal_the_whole(voice: Synthesizer, core: tuple[int, int], tile_frames: int) -> None:
    """In float64, where only a wrong margin would show."""
    z, g, source = in_double(voice, latent(voice, batch=2))
    whole = voice.decode(z, g, source)
    tiled = voice.decode_tiled(z, g, source, core, tile_frames)
    hop = voice.config.frame_samples
    torch.testing.assert_close(tiled, whole[:, core[0] * hop : core[1] * hop], atol=1e-12, rtol=0)


@torch.inference_mode()
def test_context_is_enough_and_no_guess(voice: Synthesizer) -> None:
    """Beyond the context nothing changes a frame's sound; at most two frames of it may be unused.

    RefineGAN's low-pass filters fade out so smoothly that the last third of their reach is lost in rounding.
    """
    hop, context = voice.config.frame_samples, voice.decode_context_frames
    slack = context // 3 if voice.config.vocoder == "RefineGAN" else 2
    middle = context + 5
    frames = 2 * middle + 1
    z, g, source = in_double(voice, latent(voice, frames))

    def changed(left: int, right: int) -> bool:
        other = z.clone()
        other[:, :, :left] += 1
        other[:, :, right:] += 1
        moved = None
        if source is not None:
            moved = source.clone()
            moved[:, :, : left * hop] += 1
            moved[:, :, right * hop :] += 1
        frame = slice(middle * hop, (middle + 1) * hop)
        return not torch.equal(voice.decode(other, g, moved)[:, frame], voice.decode(z, g, source)[:, frame])

    assert not changed(middle - context, middle + 1 + context)
    assert changed(middle - context + slack, frames) or changed(0, middle + 1 + context - slack)


@torch.inference_mode()
def test_flow_context() -> None:
    voice = tiny_voice(tiny_config()).double()
    context, middle, frames = voice.flow_context_frames, 40, 81
    assert context == 24
    z_p, g = torch.randn(1, 4, frames).double(), voice.condition(torch.tensor([0])).double()
    mask = torch.ones(1, 1, frames).double()
    before = voice.reverse_flow(z_p, mask, g)[:, :, middle]

    def after(distance: int) -> Tensor:
        other = z_p.clone()
        other[:, :, : middle - distance + 1] += 1
        other[:, :, middle + distance :] += 1
        return voice.reverse_flow(other, mask, g)[:, :, middle]

    assert torch.equal(after(context + 1), before)
    assert not torch.equal(after(context), before)


@torch.inference_mode()
def test_flow_inverts() -> None:
    voice = tiny_voice()
    z, mask, g = torch.randn(2, 4, 30), torch.ones(2, 1, 30), voice.condition(torch.tensor([0, 2]))
    torch.testing.assert_close(voice.reverse_flow(voice.flow(z, mask, g), mask, g), z, atol=1e-5, rtol=1e-5)


def test_layout_of_inference_equals_that_of_training() -> None:
    """Channels-last 2-D convolutions without gradients, plain 1-D ones with."""
    voice = tiny_voice(tiny_config(rates=(10, 4, 2)))
    plain = voice.decode(*latent(voice))
    assert plain.requires_grad
    with torch.no_grad():
        fast = voice.decode(*latent(voice))
    torch.testing.assert_close(fast, plain.detach(), atol=1e-6, rtol=1e-5)


def naive_attention(layer: RelativeAttention, x: Tensor, reach: int = 10**9) -> Tensor:
    """Relative attention by its definition: a key's and a value's embedding by clipped distance, else none."""
    frames = x.shape[2]
    query, key, value = (conv(x)[0].view(layer.n_heads, layer.head_dim, frames) for conv in
                         (layer.conv_q, layer.conv_k, layer.conv_v))  # fmt: skip
    out = torch.zeros(layer.n_heads, layer.head_dim, frames)
    for head in range(layer.n_heads):
        for i in range(frames):
            near = [j for j in range(frames) if abs(j - i) <= layer.window]
            scores = query[head, :, i] @ key[head]
            for j in near:
                scores[j] += query[head, :, i] @ layer.emb_rel_k[0, j - i + layer.window]
            scores[[j for j in range(frames) if abs(j - i) > reach]] = -torch.inf
            weights = torch.softmax(scores / layer.head_dim**0.5, dim=0)
            out[head, :, i] = value[head] @ weights
            for j in near:
                out[head, :, i] += weights[j] * layer.emb_rel_v[0, j - i + layer.window]
    result: Tensor = layer.conv_o(out.reshape(1, -1, frames))
    return result


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 3, 9])
def test_relative_attention_is_its_definition(frames: int) -> None:
    layer = RelativeAttention(8, 2, 3, 0.0)
    x = torch.randn(1, 8, frames)
    torch.testing.assert_close(layer(x, torch.ones(1, 1, frames)), naive_attention(layer, x), atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("block", [1, 4, 5, 64])
@pytest.mark.parametrize("frames", [1, 9, 10, 26])
@pytest.mark.parametrize("reach", [3, 5, 9, 30])
def test_attention_with_a_reach_is_its_definition(
    reach: int, frames: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "_QUERY_BLOCK", block)
    layer = RelativeAttention(8, 2, 3, 0.0)
    x, mask = torch.randn(1, 8, frames), torch.ones(1, 1, frames)
    torch.testing.assert_close(layer(x, mask, reach), naive_attention(layer, x, reach), atol=1e-5, rtol=1e-4)
    rows = torch.cat([F.pad(x, (0, 7)), torch.randn(1, 8, frames + 7)])
    mask = torch.ones(2, 1, frames + 7)
    mask[0, :, frames:] = 0
    torch.testing.assert_close(layer(rows, mask, reach)[:1, :, :frames], layer(x, mask[:1, :, :frames], reach))


@torch.inference_mode()
def test_padding_of_a_batch_changes_nothing() -> None:
    voice = tiny_voice()
    content, coarse = torch.randn(2, 20, DIM), torch.randint(0, 256, (2, 20))
    both = voice.encode(content, coarse, torch.tensor([20, 13]))
    alone = voice.encode(content[1:, :13], coarse[1:, :13], torch.tensor([13]))
    torch.testing.assert_close(both.mean[1:, :, :13], alone.mean, atol=1e-5, rtol=1e-5)
    assert both.mean[1, :, 13:].abs().max() == 0


def test_wavenet_context() -> None:
    assert WaveNet(4, 5, 3, 2, training=False).context_frames == 6


def training_batch(has_f0: bool) -> TrainingBatch:
    frames = 40
    return TrainingBatch(
        content=torch.randn(2, frames, DIM),
        f0_coarse=torch.randint(0, 256, (2, frames)) if has_f0 else None,
        f0_hz=torch.rand(2, frames) * 300 if has_f0 else None,
        spectrogram=torch.rand(2, 65, frames),
        lengths=torch.tensor([frames, 34]),
        speaker_id=torch.tensor([0, 2]),
    )


@pytest.mark.parametrize("has_f0", [True, False])
def test_training_pass_reaches_every_weight(has_f0: bool) -> None:
    voice = Synthesizer(tiny_config(has_f0=has_f0), training=True)
    audio = torch.zeros(2, 40 * voice.config.frame_samples)
    audio[1, 34 * voice.config.frame_samples :] = torch.nan  # no crop reaches beyond a row's length
    made, real, kl = vits_pass(voice, training_batch(has_f0), audio)
    assert made.shape == real.shape == (2, 32 * voice.config.frame_samples)
    assert bool(real.isfinite().all())
    (made.square().mean() + kl).backward()
    without = [name for name, p in voice.named_parameters() if p.grad is None]
    assert without == []


def test_crops_start_inside() -> None:
    starts = random_crop_starts(torch.tensor([40, 32, 5] * 200), 32)
    assert starts.view(-1, 3).amax(dim=0).tolist() == [8, 0, 0]
    assert starts.min() == 0
