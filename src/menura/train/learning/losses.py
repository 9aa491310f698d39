"""What training minimises. All take audio as (batch, samples) float32."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from menura.models.config import MEL_BANDS, SynthesizerConfig
from menura.models.discriminators import Judgement
from menura.models.mel import magnitude_spectrogram, mel_filterbank
from menura.types import Prior

FFT_SIZES = (256, 512, 1024, 2048)
_MELS = (40, 64, 80, 120)
_FLOOR = 1e-3
"""Added before the logarithm: what lies some 56 dB below full scale hardly counts."""
_RVC_FLOOR = 1e-5


class SpectralLoss(nn.Module):
    """Short-time spectra at several resolutions (Yamamoto et al., 2020), linear and mel; distances by name."""

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        for size, n_mels in zip(FFT_SIZES, _MELS, strict=True):
            self.register_buffer(f"window_{size}", torch.hann_window(size), persistent=False)
            bank = mel_filterbank(sample_rate=sample_rate, n_fft=size, n_mels=n_mels)
            self.register_buffer(f"bank_{size}", bank / bank.sum(dim=1, keepdim=True).clamp(min=1e-6), persistent=False)

    def forward(self, made: Tensor, real: Tensor) -> dict[str, Tensor]:
        logs, mels, convergences = [], [], []
        for size in FFT_SIZES:
            a, b = self._magnitudes(made, size), self._magnitudes(real, size)
            logs.append((torch.log(a + _FLOOR) - torch.log(b + _FLOOR)).abs().mean())
            # Over the whole batch: a silent crop alone would divide by next to nothing.
            convergences.append(((a - b).square().sum() / (b.square().sum() + 1e-3)).sqrt())
            bank = getattr(self, f"bank_{size}")
            mels.append((torch.log(bank @ a + _FLOOR) - torch.log(bank @ b + _FLOOR)).abs().mean())
        distances = {"log_spectrum": logs, "mel": mels, "convergence": convergences}
        return {name: torch.stack(each).mean() for name, each in distances.items()}

    def _magnitudes(self, audio: Tensor, size: int) -> Tensor:
        window = getattr(self, f"window_{size}")
        spectrum = torch.stft(audio, size, size // 4, window=window, normalized=True, return_complex=True)
        return (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()


def kl_loss(z_p: Tensor, posterior_log_scale: Tensor, prior: Prior) -> Tensor:
    """Kullback-Leibler distance of the posterior, through the flow, to the prior; per frame (VITS)."""
    log_scale = prior.log_scale.float()  # sums of thousands of terms need more than bfloat16
    each = log_scale - posterior_log_scale.float() - 0.5
    each = each + 0.5 * (z_p.float() - prior.mean.float()).square() * torch.exp(-2 * log_scale)
    return (each * prior.mask).sum() / prior.mask.sum()


def rvc_spectrogram(audio: Tensor, config: SynthesizerConfig) -> Tensor:
    """Linear magnitudes, one column a frame, as RVC's posterior encoder reads them.

    Args:
        audio: (batch, frames * frame_samples).
        config: gives the FFT's size and the hop.

    Returns:
        (batch, spec_channels, frames).
    """
    size, hop = 2 * (config.spec_channels - 1), config.frame_samples
    padded = nn.functional.pad(audio, ((size - hop) // 2, (size - hop + 1) // 2), mode="reflect")
    return magnitude_spectrogram(padded, n_fft=size, hop_length=hop, power_floor=1e-6)


class RvcMelLoss(nn.Module):
    """RVC's: L1 of log mel at one resolution, that of the posterior encoder's spectrogram."""

    bank: Tensor

    def __init__(self, config: SynthesizerConfig) -> None:
        super().__init__()
        self.config = config
        bank = mel_filterbank(
            sample_rate=config.sample_rate,
            n_fft=2 * (config.spec_channels - 1),
            n_mels=MEL_BANDS.get(config.sample_rate, 80),
        )
        self.register_buffer("bank", bank, persistent=False)

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        return (self._log_mel(made) - self._log_mel(real)).abs().mean()

    def _log_mel(self, audio: Tensor) -> Tensor:
        return torch.log((self.bank @ rvc_spectrogram(audio, self.config)).clamp(min=_RVC_FLOOR))


def discriminator_loss(real: list[Judgement], made: list[Judgement]) -> Tensor:
    """Least squares: real is 1, made is 0; the sum over discriminators, as in RVC."""
    each = [
        (1 - r.scores.float()).square().mean() + m.scores.float().square().mean()
        for r, m in zip(real, made, strict=True)
    ]
    return torch.stack(each).sum()


def adversarial_loss(made: list[Judgement]) -> Tensor:
    """Least squares: made should look like 1."""
    return torch.stack([(1 - m.scores.float()).square().mean() for m in made]).sum()


def feature_matching_loss(real: list[Judgement], made: list[Judgement]) -> Tensor:
    """L1 of the discriminators' layers, summed over layers and discriminators, as in RVC."""
    each = [
        (a.float().detach() - b.float()).abs().mean()
        for r, m in zip(real, made, strict=True)
        for a, b in zip(r.features, m.features, strict=True)
    ]
    return torch.stack(each).sum()
