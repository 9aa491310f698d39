"""What a voice checkpoint says of its own architecture. Loads no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass


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
    """'HiFi-GAN' (Applio's name; NSF when has_f0), 'MRF HiFi-GAN', 'RefineGAN' or Menura's own 'Source-filter'."""
    content_encoder: str
    """'contentvec' for RVC's; the checkpoint's `embedder_model` where it has one."""

    @property
    def frame_samples(self) -> int:
        """Output samples in a frame of 10 ms."""
        return math.prod(self.upsample_rates)
