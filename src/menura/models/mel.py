"""Mel filterbanks and the padding that spectrogram front ends share."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _hz_to_mel(hz: Tensor, htk: bool) -> Tensor:
    if htk:
        return 2595.0 * torch.log10(1.0 + hz / 700.0)
    linear = hz / (200.0 / 3.0)
    logarithmic = 15.0 + torch.log(hz.clamp(min=1e-10) / 1000.0) / (math.log(6.4) / 27.0)
    return torch.where(hz < 1000.0, linear, logarithmic)


def _mel_to_hz(mel: Tensor, htk: bool) -> Tensor:
    if htk:
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    return torch.where(mel < 15.0, mel * (200.0 / 3.0), 1000.0 * torch.exp((mel - 15.0) * (math.log(6.4) / 27.0)))


def mel_filterbank(*, sample_rate: int, n_fft: int, n_mels: int, low_hz: float = 0.0, htk: bool = False) -> Tensor:
    """Triangular mel filters up to half the rate, each of unit area (Slaney's normalisation, librosa's default).

    (n_mels, n_fft // 2 + 1) float32; `htk` takes the HTK formula for mel instead of Slaney's.
    """
    ends = _hz_to_mel(torch.tensor([low_hz, sample_rate / 2], dtype=torch.float64), htk)
    steps = torch.linspace(0.0, 1.0, n_mels + 2, dtype=torch.float64)
    edges_hz = _mel_to_hz(ends[0] + (ends[1] - ends[0]) * steps, htk)
    bins_hz = torch.arange(n_fft // 2 + 1, dtype=torch.float64) * (sample_rate / n_fft)
    low, centre, high = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    rising = (bins_hz - low) / (centre - low)
    falling = (high - bins_hz) / (high - centre)
    return (torch.minimum(rising, falling).clamp(min=0.0) * (2.0 / (high - low))).to(torch.float32)


def reflect_pad(x: Tensor, left: int, right: int) -> Tensor:
    """Mirror (..., length) at its ends, as often as it takes (torch refuses more than the length).

    (..., left + length + right); the end elements are not repeated.
    """
    length = x.shape[-1]
    period = max(2 * (length - 1), 1)
    position = torch.arange(-left, length + right, device=x.device).remainder(period)
    return x[..., torch.minimum(position, period - position) if length > 1 else torch.zeros_like(position)]


def magnitude_spectrogram(samples: Tensor, *, n_fft: int, hop_length: int, power_floor: float = 0.0) -> Tensor:
    """Magnitudes of a Hann-windowed transform of frames that lie wholly inside `samples` (batch, samples).

    (batch, n_fft // 2 + 1, (samples - n_fft) // hop_length + 1); `power_floor` is added before the root.
    """
    window = torch.hann_window(n_fft, device=samples.device, dtype=samples.dtype)
    spectrum = torch.stft(samples, n_fft=n_fft, hop_length=hop_length, window=window, center=False, return_complex=True)
    return (spectrum.real.square() + spectrum.imag.square() + power_floor).sqrt()
