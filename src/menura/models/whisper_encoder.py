"""The starter pack's content encoder: three blocks of Whisper tiny.en's encoder, less its speaker directions.

The third block of Whisper (Radford et al., 2022; MIT licence, OpenAI) still says much of who speaks. So each dimension
is normalised, and the directions in which speakers differ, measured on parallel speech, are removed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from menura.models.mel import mel_filterbank

SAMPLE_RATE_HZ, MEL_HOP = 16_000, 160
N_FFT, N_MELS = 400, 80
LOG_RANGE = 8.0
"""Decades of power below the recording's largest mel value that are kept."""
_FLOOR = 1e-10


class LogMel(nn.Module):
    """Log10 mel power, before Whisper's clamp."""

    window: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)
        filters = mel_filterbank(sample_rate=SAMPLE_RATE_HZ, n_fft=N_FFT, n_mels=N_MELS)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, samples: Tensor, *, centred: bool = True) -> Tensor:
        """(batch, samples) at 16 kHz to (batch, 80, frames), one every 10 ms.

        Centred, frame i is centred on sample 160 i, with reflection at both ends, and the count is samples // 160;
        otherwise frame i begins at sample 160 i and only whole frames count.
        """
        if centred:
            samples = F.pad(samples, (N_FFT // 2, N_FFT // 2 - MEL_HOP), mode="reflect")
        spectrum = torch.stft(samples, N_FFT, MEL_HOP, window=self.window, center=False, return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()
        return (self.filters @ power).clamp(min=_FLOOR).log10()


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.attn_norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp_in, self.mlp_out = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, vectors, dim) to the same shape."""
        batch, vectors, dim = x.shape
        heads = self.qkv(self.attn_norm(x)).view(batch, vectors, 3, self.n_heads, dim // self.n_heads)
        attended = F.scaled_dot_product_attention(*heads.permute(2, 0, 3, 1, 4))
        x = x + self.out(attended.transpose(1, 2).reshape(batch, vectors, dim))
        mixed: Tensor = self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x))))
        return x + mixed


class WhisperContentEncoder(nn.Module):
    """16 kHz audio to content vectors, 50 a second."""

    position: Tensor
    mean: Tensor
    deviation: Tensor
    speaker_directions: Tensor

    def __init__(
        self, *, dim: int = 384, n_heads: int = 6, n_blocks: int = 3, max_vectors: int = 1500, n_directions: int
    ) -> None:
        """The sizes are the starter pack's; it has positions for 30 s, 50 a second."""
        super().__init__()
        self.dim = dim
        self.log_mel = LogMel()
        self.conv_1 = nn.Conv1d(N_MELS, dim, 3, padding=1)
        self.conv_2 = nn.Conv1d(dim, dim, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(Block(dim, n_heads) for _ in range(n_blocks))
        self.register_buffer("position", torch.zeros(max_vectors, dim))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(dim))
        self.register_buffer("speaker_directions", torch.zeros(dim, n_directions))

    @staticmethod
    def frame_count(length_samples: int) -> int:
        """Content vectors of a window: one for each whole 320 samples."""
        return length_samples // (2 * MEL_HOP)

    def forward(self, samples: Tensor, log_mel_max: Tensor | None = None) -> Tensor:
        """(batch, samples) at 16 kHz, at most 30 s, to content (batch, samples // 320, dim).

        Vector i describes samples [320 i, 320 i + 320). `log_mel_max` (batch,): largest log-mel value of the recording
        each row was cut from, which Whisper's clamp starts from; None takes each row's own.
        """
        vectors = self.frame_count(samples.shape[-1])
        mel = self.log_mel(samples[:, : 2 * MEL_HOP * vectors])
        if log_mel_max is None:
            log_mel_max = mel.amax(dim=(1, 2))
        mel = (torch.maximum(mel, log_mel_max[:, None, None] - LOG_RANGE) + 4) / 4
        x = F.gelu(self.conv_2(F.gelu(self.conv_1(mel)))).transpose(1, 2) + self.position[:vectors]
        for block in self.blocks:
            x = block(x)
        x = (x - self.mean) / self.deviation
        return x - (x @ self.speaker_directions) @ self.speaker_directions.T
