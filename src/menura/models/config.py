"""The architecture of a voice: as its checkpoint says, and those that can be trained. Loads no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

HIFI_GAN, MRF_HIFI_GAN, REFINE_GAN, SOURCE_FILTER = "HiFi-GAN", "MRF HiFi-GAN", "RefineGAN", "Source-filter"
"""Vocoders by Applio's names (NSF is HiFi-GAN with F0), and Menura's own."""
RVC_UPSAMPLING: dict[tuple[str, int], tuple[tuple[int, ...], tuple[int, ...]]] = {
    ("v1", 32_000): ((10, 4, 2, 2, 2), (16, 16, 4, 4, 4)),
    ("v1", 40_000): ((10, 10, 2, 2), (16, 16, 4, 4)),
    ("v1", 48_000): ((10, 6, 2, 2, 2), (16, 16, 4, 4, 4)),
    ("v2", 24_000): ((10, 6, 2, 2), (20, 12, 4, 4)),
    ("v2", 32_000): ((10, 8, 2, 2), (20, 16, 4, 4)),
    ("v2", 40_000): ((10, 10, 2, 2), (16, 16, 4, 4)),
    ("v2", 48_000): ((12, 10, 2, 2), (24, 20, 4, 4)),
}
"""Rates and kernels of RVC's decoders by version and sample rate; 24 kHz is Applio's."""
MEL_BANDS = {24_000: 80, 32_000: 80, 40_000: 125, 48_000: 128}
"""Of the mel spectrogram that RVC's training compares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesizerConfig:
    """RVC's 18 `config` entries by name, and what its file says beside them."""

    spec_channels: int
    segment_size_frames: int
    inter_channels: int
    hidden_channels: int
    filter_channels: int
    n_heads: int
    n_layers: int
    kernel_size: int
    p_dropout: float
    resblock: str
    resblock_kernel_sizes: tuple[int, ...]
    resblock_dilation_sizes: tuple[tuple[int, ...], ...]
    upsample_rates: tuple[int, ...]
    upsample_initial_channel: int
    upsample_kernel_sizes: tuple[int, ...]
    n_speakers: int
    gin_channels: int
    sample_rate: int

    content_dim: int
    """256 for v1, 768 for v2, 384 for the starter encoder: the width of enc_p.emb_phone."""
    version: str
    """'v1' or 'v2'."""
    has_f0: bool
    vocoder: str
    content_encoder: str
    """'contentvec' for RVC's; the checkpoint's `embedder_model` where it has one."""

    @property
    def frame_samples(self) -> int:
        """Output samples in a frame of 10 ms."""
        return math.prod(self.upsample_rates)


def rvc_config(
    version: str, sample_rate: int, n_speakers: int, *, content: str, has_f0: bool, vocoder: str
) -> SynthesizerConfig:
    """RVC's own architecture for a version and sample rate of RVC_UPSAMPLING; without F0 the vocoder is HiFi-GAN."""
    rates, kernels = RVC_UPSAMPLING[version, sample_rate]
    return SynthesizerConfig(
        spec_channels=513 if sample_rate <= 32_000 else 1025,
        segment_size_frames=36 if (version, sample_rate) in (("v2", 48_000), ("v2", 24_000)) else 32,
        inter_channels=192,
        hidden_channels=192,
        filter_channels=768,
        n_heads=2,
        n_layers=6,
        kernel_size=3,
        p_dropout=0.0,
        resblock="1",
        resblock_kernel_sizes=(3, 7, 11),
        resblock_dilation_sizes=((1, 3, 5), (1, 3, 5), (1, 3, 5)),
        upsample_rates=rates,
        upsample_initial_channel=512,
        upsample_kernel_sizes=kernels,
        n_speakers=n_speakers,
        gin_channels=256,
        sample_rate=sample_rate,
        content_dim=256 if version == "v1" else 768,
        version=version,
        has_f0=has_f0,
        vocoder=vocoder,
        content_encoder=content,
    )


def small_config(sample_rate: int, n_speakers: int) -> SynthesizerConfig:
    """The starter pack's architecture, an eighth of RVC's work, on the starter encoder's 384 wide content."""
    base = rvc_config("v2", 32_000, n_speakers, content="menura-starter", has_f0=True, vocoder=SOURCE_FILTER)
    return replace(
        base,
        segment_size_frames=100,
        hidden_channels=128,
        filter_channels=512,
        n_layers=5,
        resblock_kernel_sizes=(7,) * 6,
        resblock_dilation_sizes=((1,),) * 6,
        upsample_rates=(2, sample_rate // 200),
        upsample_initial_channel=256,
        upsample_kernel_sizes=(4, sample_rate // 50),
        sample_rate=sample_rate,
        content_dim=384,
    )
