"""A loaded voice as the pipeline uses it: `Synthesizer` by torch, `NativeVoice` on the compiled kernels."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from menura.models.config import SynthesizerConfig
from menura.types import Prior


class Voice(Protocol):
    """Tensors in, tensors out, on one device; shapes as in `Synthesizer`'s methods."""

    @property
    def config(self) -> SynthesizerConfig: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def needs_noise(self) -> bool:
        """True where the excitation's noise makes the consonants and can't be left out."""

    @property
    def flow_context_frames(self) -> int:
        """Frames on each side that a frame of `reverse_flow` depends on."""

    @property
    def decode_context_frames(self) -> int:
        """Frames on each side that the samples of a frame of `decode_tiled` depend on."""

    @property
    def resident_bytes(self) -> int:
        """Memory of all weights."""

    def condition(self, speaker_id: Tensor) -> Tensor: ...

    def encode(
        self, content: Tensor, f0_coarse: Tensor | None, lengths: Tensor, reach_frames: int | None = None
    ) -> Prior: ...

    def reverse_flow(self, z_p: Tensor, mask: Tensor, g: Tensor) -> Tensor: ...

    def source(self, f0_hz: Tensor, phase_cycles: Tensor, noise: Tensor | None, noise_scale: float) -> Tensor: ...

    def decode_tiled(self, z: Tensor, g: Tensor, source: Tensor | None, core: tuple[int, int]) -> Tensor: ...
