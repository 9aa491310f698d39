"""RVC's synthesizer: VITS (Kim et al., 2021) with content vectors and pitch for text.

content, F0 ──enc_p──▶ prior ──sample──▶ z_p ──flow⁻¹──▶ z ──dec──▶ sound;   in training: spectrogram ──enc_q──▶ z
Attribute names are those of the checkpoints.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from menura.models.config import HIFI_GAN, MRF_HIFI_GAN, REFINE_GAN, SOURCE_FILTER, SynthesizerConfig
from menura.models.layers import (
    LEAKY_SLOPE,
    ChannelNorm,
    ConvFeedForward,
    RelativeAttention,
    Span,
    WaveNet,
    length_mask,
    masked,
    same_padding,
)
from menura.models.refinegan import RefineGan
from menura.models.source_filter import SourceFilter
from menura.models.vocoders import HifiGan
from menura.models.weights import network_bytes
from menura.system.device import sent
from menura.types import Prior

ATTENTION_WINDOW = 10
PITCH_BINS = 256
WAVENET_KERNEL = 5
FLOW_LAYERS = 3
FLOW_COUPLINGS = 4
POSTERIOR_LAYERS = 16
TILE_FRAMES = 200
"""Two seconds. Longer tiles take more memory and no less time; shorter ones synchronise the threads more often."""

_APPLE_TILE_FRAMES = 100
"""On Apple's GPUs, where torch's convolutions give at most 65,536 steps on macOS before 15.1."""

VOCODERS: dict[str, type[HifiGan | RefineGan | SourceFilter]] = {
    HIFI_GAN: HifiGan,
    MRF_HIFI_GAN: HifiGan,
    REFINE_GAN: RefineGan,
    SOURCE_FILTER: SourceFilter,
}


class TransformerEncoder(nn.Module):
    """Post-norm transformer with relative attention and convolutional feed-forward layers."""

    def __init__(self, config: SynthesizerConfig) -> None:
        super().__init__()
        hidden, layers = config.hidden_channels, range(config.n_layers)
        self.dropout = nn.Dropout(config.p_dropout)
        attention = partial(RelativeAttention, hidden, config.n_heads, ATTENTION_WINDOW, config.p_dropout)
        feed_forward = partial(ConvFeedForward, hidden, config.filter_channels, config.kernel_size, config.p_dropout)
        self.attn_layers = nn.ModuleList(attention() for _ in layers)
        self.norm_layers_1 = nn.ModuleList(ChannelNorm(hidden) for _ in layers)
        self.ffn_layers = nn.ModuleList(feed_forward() for _ in layers)
        self.norm_layers_2 = nn.ModuleList(ChannelNorm(hidden) for _ in layers)

    def forward(self, x: Tensor, mask: Tensor | None, reach: int | None = None) -> Tensor:
        """(batch, hidden, frames) to the same shape."""
        x = masked(x, mask)
        layers = zip(self.attn_layers, self.norm_layers_1, self.ffn_layers, self.norm_layers_2, strict=True)
        for attention, norm_1, ffn, norm_2 in layers:
            x = norm_1(x + self.dropout(attention(x, mask, reach)))
            x = norm_2(x + self.dropout(ffn(x, mask)))
        return masked(x, mask)


def embedded(content: Tensor, f0_coarse: Tensor | None, phone: nn.Linear, pitch: nn.Embedding | None) -> Tensor:
    """Content (batch, frames, content_dim) and pitch (batch, frames) to the transformer's (batch, frames, hidden)."""
    x: Tensor = phone(content)
    if pitch is not None and f0_coarse is not None:
        x = x + pitch(f0_coarse)
    return F.leaky_relu(x * math.sqrt(x.shape[2]), LEAKY_SLOPE)


class TextEncoder(nn.Module):
    """Content and pitch to the prior of the latent."""

    def __init__(self, config: SynthesizerConfig) -> None:
        super().__init__()
        self.emb_phone = nn.Linear(config.content_dim, config.hidden_channels)
        self.emb_pitch = nn.Embedding(PITCH_BINS, config.hidden_channels) if config.has_f0 else None
        self.encoder = TransformerEncoder(config)
        self.proj = nn.Conv1d(config.hidden_channels, 2 * config.inter_channels, 1)

    def forward(
        self, content: Tensor, f0_coarse: Tensor | None, lengths: Tensor | None, reach: int | None = None
    ) -> Prior:
        """See `Synthesizer.encode`."""
        x = embedded(content, f0_coarse, self.emb_phone, self.emb_pitch)
        mask = None if lengths is None else length_mask(lengths, content.shape[1]).to(x.dtype)
        x = self.encoder(x.transpose(1, 2), mask, reach)
        mean, log_scale = masked(self.proj(x), mask).chunk(2, dim=1)
        return Prior(mean=mean, log_scale=log_scale, mask=mask)


class PosteriorEncoder(nn.Module):
    """Spectrogram to the latent; needed in training only."""

    def __init__(self, config: SynthesizerConfig) -> None:
        super().__init__()
        self.pre = nn.Conv1d(config.spec_channels, config.hidden_channels, 1)
        self.enc = WaveNet(config.hidden_channels, WAVENET_KERNEL, POSTERIOR_LAYERS, config.gin_channels, training=True)
        self.proj = nn.Conv1d(config.hidden_channels, 2 * config.inter_channels, 1)

    def forward(self, spectrogram: Tensor, mask: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """From linear magnitudes (batch, spec_channels, frames) a random latent and its log scale.

        Both are (batch, inter_channels, frames); the noise is of torch's global generator.
        """
        x = self.enc(self.pre(spectrogram) * mask, mask, g)
        mean, log_scale = (self.proj(x) * mask).chunk(2, dim=1)
        return (mean + torch.randn_like(mean) * torch.exp(log_scale)) * mask, log_scale


class Coupling(nn.Module):
    """Adds to one half of the channels a function of the other (mean-only affine coupling)."""

    def __init__(self, config: SynthesizerConfig, *, training: bool) -> None:
        super().__init__()
        half = config.inter_channels // 2
        self.pre = nn.Conv1d(half, config.hidden_channels, 1)
        self.enc = WaveNet(config.hidden_channels, WAVENET_KERNEL, FLOW_LAYERS, config.gin_channels, training=training)
        self.post = nn.Conv1d(config.hidden_channels, half, 1)
        for parameter in self.post.parameters():
            nn.init.zeros_(parameter)

    def shift(self, half: Tensor, mask: Tensor | None, g: Tensor) -> Tensor:
        return masked(self.post(self.enc(masked(self.pre(half), mask), mask, g)), mask)

    def forward(self, x: Tensor, mask: Tensor, g: Tensor) -> Tensor:
        """(batch, inter_channels, frames) to the same shape."""
        first, second = x.chunk(2, dim=1)
        return torch.cat([first, self.shift(first, mask, g) + second * mask], dim=1)

    def inverse(self, x: Tensor, mask: Tensor | None, g: Tensor) -> Tensor:
        """Undo `forward`."""
        first, second = x.chunk(2, dim=1)
        return torch.cat([first, masked(second - self.shift(first, mask, g), mask)], dim=1)


class Flow(nn.Module):
    """Invertible map between the posterior's latent and the prior's.

    After every coupling the channels are reversed, so that the next one changes the other half.
    """

    def __init__(self, config: SynthesizerConfig, *, training: bool) -> None:
        super().__init__()
        self.flows = nn.ModuleList()
        for _ in range(FLOW_COUPLINGS):
            self.flows.extend([Coupling(config, training=training), nn.Identity()])  # RVC numbers its reversals too
        self.context_frames = FLOW_COUPLINGS * FLOW_LAYERS * same_padding(WAVENET_KERNEL)
        """Frames on each side that a frame depends on."""

    @property
    def couplings(self) -> list[Coupling]:
        return [flow for flow in self.flows if isinstance(flow, Coupling)]

    def forward(self, z: Tensor, mask: Tensor, g: Tensor) -> Tensor:
        for coupling in self.couplings:
            z = coupling(z, mask, g).flip(1)
        return z

    def inverse(self, z_p: Tensor, mask: Tensor | None, g: Tensor) -> Tensor:
        for coupling in reversed(self.couplings):
            z_p = coupling.inverse(z_p.flip(1), mask, g)
        return z_p


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingBatch:
    """What the synthesizer is trained on: rows padded to the longest, 100 frames a second."""

    content: Tensor
    """(batch, frames, content_dim)"""
    f0_coarse: Tensor | None
    """(batch, frames) int64"""
    f0_hz: Tensor | None
    """(batch, frames)"""
    spectrogram: Tensor
    """(batch, spec_channels, frames), linear magnitudes"""
    lengths: Tensor
    """(batch,) frames"""
    speaker_id: Tensor
    """(batch,) int64"""


class Synthesizer(nn.Module):
    """A voice's network."""

    def __init__(self, config: SynthesizerConfig, *, training: bool = False) -> None:
        """Random weights; `training`: with weight norm and the posterior encoder, else folded and without."""
        super().__init__()
        self.config = config
        self.enc_p = TextEncoder(config)
        self.dec = VOCODERS[config.vocoder](config, training=training)
        if training:
            self.enc_q = PosteriorEncoder(config)
        self.flow = Flow(config, training=training)
        self.emb_g = nn.Embedding(config.n_speakers, config.gin_channels)
        self.flow_context_frames, self.decode_context_frames = self.flow.context_frames, self.dec.context_frames
        """Frames on each side that a frame of `reverse_flow`, and the samples of a frame of `decode`, depend on."""
        self.needs_noise = config.vocoder == SOURCE_FILTER
        """True where the excitation's noise is the sound of consonants, not a variation that may be left out."""
        self.train(training)

    @property
    def device(self) -> torch.device:
        return self.emb_g.weight.device

    @property
    def resident_bytes(self) -> int:
        """Memory of all weights."""
        return network_bytes(self)

    def use_half(self) -> None:
        """Compute in half precision from now on, but for the source, and filters, which hardly gain by it."""
        parts = {} if self.needs_noise else dict(self.dec.named_children())
        for part in (self.enc_p, self.flow, *(part for name, part in parts.items() if name != "m_source")):
            part.half()

    def condition(self, speaker_id: Tensor) -> Tensor:
        """(batch,) int64 to the speakers' embeddings (batch, gin_channels, 1)."""
        embedding: Tensor = self.emb_g(speaker_id)
        return embedding[:, :, None]

    def encode(
        self,
        content: Tensor,
        f0_coarse: Tensor | None,
        lengths: Tensor | None,
        reach_frames: int | None = None,
        wanted: Span | None = None,
    ) -> Prior:
        """The prior of the latent.

        From content (batch, frames, content_dim) and pitch (batch, frames) int64 in 0..255, None for a voice without
        F0. `lengths` (batch,) are the frames that exist in each row, None where all do, and the prior has no mask;
        `reach_frames` those on each side that a frame attends to, None for all, as RVC does. What isn't `wanted` may be
        anything finite.
        """
        prior: Prior = self.enc_p(content.to(self.enc_p.proj.weight.dtype), f0_coarse, lengths, reach_frames)
        return prior

    def reverse_flow(self, z_p: Tensor, mask: Tensor | None, g: Tensor) -> Tensor:
        """z_p (batch, inter_channels, frames), drawn from the prior, to the decoder's latent of the same shape.

        mask is (batch, 1, frames) or None, g (batch, gin_channels, 1).
        """
        dtype = self.enc_p.proj.weight.dtype
        return self.flow.inverse(z_p.to(dtype), mask, g.to(dtype))

    def source(self, f0_hz: Tensor, phase_cycles: Tensor, noise: Tensor | None, noise_scale: float) -> Tensor:
        """The decoder's excitation (voices with F0 only): see `SineSource`; of a source-filter voice three channels."""
        excitation: Tensor = self.dec.m_source(f0_hz, phase_cycles, noise, noise_scale)
        return excitation

    def decode(self, z: Tensor, g: Tensor, source: Tensor | None) -> Tensor:
        """Sound (batch, frames * frame_samples) of a latent (batch, inter_channels, frames), in one piece.

        g is (batch, gin_channels, 1), source what `source` gives; None for a voice without F0.
        """
        sound: Tensor = self.dec(z, g, source)
        return sound[:, 0]

    def compile_decoder(self) -> None:
        """Have torch compile, when it is first called, what makes a tile's sound; tiles have few shapes."""
        setattr(self.dec, self.dec.tile_method, torch.compile(getattr(self.dec, self.dec.tile_method)))

    @torch.inference_mode()
    def decode_tiled(
        self, z: Tensor, g: Tensor, source: Tensor | None, core: tuple[int, int], tile_frames: int = TILE_FRAMES
    ) -> Tensor:
        """Sound of the frames `core` [start, stop): that part of `decode`'s, in less time and bounded memory.

        Only the stretch and `decode_context_frames` around it are computed. Give as much context as there is: at the
        ends of `z` it is zeros, as in `decode`. The fastest layers compute `tile_frames` at once.
        """
        dtype = self.dec.cond.weight.dtype
        source = None if source is None else source.to(dtype)
        if z.device.type == "mps":
            tile_frames = min(tile_frames, _APPLE_TILE_FRAMES)
        return self.dec.tiled(z.to(dtype), g.to(dtype), source, Span(*core), tile_frames)[:, 0]


def random_crop_starts(lengths: Tensor, crop_frames: int) -> Tensor:
    """Where to crop rows of these lengths (batch,) at random; rows shorter than a crop from their start.

    The CPU draws for any device, so that nobody waits for it.
    """
    choices = (lengths - crop_frames + 1).clamp(min=1)
    return (sent(torch.rand(lengths.shape[0]), lengths.device) * choices).long()


def crop(x: Tensor, starts: Tensor, size: int) -> Tensor:
    """(batch, channels, steps) to (batch, channels, size), each row from its own start, which stays on its device."""
    steps = starts[:, None, None] + torch.arange(size, device=x.device)
    return x.gather(2, steps.expand(-1, x.shape[1], -1))
