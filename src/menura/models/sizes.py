"""The networks that can be trained, by name: RVC's own sizes, and the starter pack's small one. Loads no torch."""

from __future__ import annotations

from dataclasses import replace

from menura.models.config import SynthesizerConfig

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
SOURCE_FILTER = "Source-filter"
"""Menura's own vocoder, by the name that its files give."""
MEL_BANDS = {24_000: 80, 32_000: 80, 40_000: 125, 48_000: 128}
"""Of the mel spectrogram that RVC's training compares."""


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
