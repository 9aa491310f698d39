"""What training minimises. All take audio as (batch, samples) float32."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from menura.models.discriminators import Judgement
from menura.models.mel import mel_filterbank
from menura.models.synthesizer import TrainingOutput

FFT_SIZES = (256, 512, 1024, 2048)
_MELS = (40, 64, 80, 120)
_FLOOR = 1e-3
"""Added before the logarithm: what lies some 56 dB below full scale hardly counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectralDistance:
    """Distances of two sounds, means over resolutions."""

    log_spectrum: Tensor
    mel: Tensor
    convergence: Tensor


class SpectralLoss(nn.Module):
    """Short-time spectra at several resolutions (Yamamoto et al., 2020), linear and mel."""

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        for size, n_mels in zip(FFT_SIZES, _MELS, strict=True):
            self.register_buffer(f"window_{size}", torch.hann_window(size), persistent=False)
            bank = mel_filterbank(
                sample_rate=sample_rate, n_fft=size, n_mels=n_mels, low_hz=0.0, high_hz=sample_rate / 2
            )
            self.register_buffer(f"bank_{size}", bank / bank.sum(dim=1, keepdim=True).clamp(min=1e-6), persistent=False)

    def forward(self, made: Tensor, real: Tensor) -> SpectralDistance:
        """Distances of `made` to `real`."""
        logs, mels, convergences = [], [], []
        for size in FFT_SIZES:
            a, b = self._magnitudes(made, size), self._magnitudes(real, size)
            logs.append((torch.log(a + _FLOOR) - torch.log(b + _FLOOR)).abs().mean())
            # Over the whole batch: a silent crop alone would divide by next to nothing.
            convergences.append(((a - b).square().sum() / (b.square().sum() + 1e-3)).sqrt())
            bank = getattr(self, f"bank_{size}")
            mels.append((torch.log(bank @ a + _FLOOR) - torch.log(bank @ b + _FLOOR)).abs().mean())
        return SpectralDistance(
            log_spectrum=torch.stack(logs).mean(),
            mel=torch.stack(mels).mean(),
            convergence=torch.stack(convergences).mean(),
        )

    def _magnitudes(self, audio: Tensor, size: int) -> Tensor:
        window = getattr(self, f"window_{size}")
        spectrum = torch.stft(audio, size, size // 4, window=window, normalized=True, return_complex=True)
        return (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()


def kl_loss(output: TrainingOutput) -> Tensor:
    """Kullback-Leibler distance of the posterior, through the flow, to the prior; per frame and channel (VITS)."""
    prior, posterior = output.prior, output.posterior
    each = prior.log_scale - posterior.log_scale - 0.5
    each = each + 0.5 * (output.z_p - prior.mean).square() * torch.exp(-2 * prior.log_scale)
    return (each * prior.mask).sum() / prior.mask.sum()


def discriminator_loss(real: list[Judgement], made: list[Judgement]) -> Tensor:
    """Least squares: real is 1, made is 0."""
    each = [
        (1 - r.scores.float()).square().mean() + m.scores.float().square().mean()
        for r, m in zip(real, made, strict=True)
    ]
    return torch.stack(each).mean()


def adversarial_loss(made: list[Judgement]) -> Tensor:
    """Least squares: made should look like 1."""
    return torch.stack([(1 - m.scores.float()).square().mean() for m in made]).mean()


def feature_matching_loss(real: list[Judgement], made: list[Judgement]) -> Tensor:
    """L1 of the discriminators' layers, relative to the real sound's."""
    each = [
        (a.float().detach() - b.float()).abs().mean() / (a.float().detach().abs().mean() + 1e-3)
        for r, m in zip(real, made, strict=True)
        for a, b in zip(r.features, m.features, strict=True)
    ]
    return torch.stack(each).mean()
