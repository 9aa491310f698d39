"""What training minimises: a pass of the synthesizer, by objective, and losses of audio (batch, samples) float32."""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from menura.models.config import MEL_BANDS, SynthesizerConfig
from menura.models.discriminators import Judgement
from menura.models.mel import magnitude_spectrogram, mel_filterbank
from menura.models.source import sample_phases
from menura.models.source_filter import SourceFilter
from menura.models.synthesizer import Synthesizer, TrainingBatch, crop, random_crop_starts
from menura.types import Prior

PRIOR_NOISE = 0.66666
"""Deviation of the latent's noise in conversion (RVC's)."""
FFT_SIZES = (256, 512, 1024, 2048)
_MELS = (40, 64, 80, 120)
_FLOOR = 1e-3
"""Added before the logarithm: what lies some 56 dB below full scale hardly counts."""
_RVC_FLOOR = 1e-5


Pass: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Crops that were made and those of the target, both (batch, samples); kl, 0 where the objective has none."""


def direct_pass(model: Synthesizer, batch: TrainingBatch, audio: Tensor) -> Pass:
    """Sound from the prior, exactly as conversion makes it. Needs content that doesn't leak the target."""
    size = model.config.frame_samples
    g = model.condition(batch.speaker_id)
    prior = model.encode(batch.content, batch.f0_coarse, batch.lengths)
    assert prior.mask is not None
    noise = torch.randn_like(prior.mean) * PRIOR_NOISE
    z_p = (prior.mean + noise * torch.exp(prior.log_scale)) * prior.mask
    frames = min(model.config.segment_size_frames, batch.content.shape[1])
    context = model.flow_context_frames
    starts = random_crop_starts(batch.lengths, frames)
    # The flow needs its context around the crop, the decoder only the crop.
    wide = crop(F.pad(z_p, (context, context)), starts, frames + 2 * context)
    mask = crop(F.pad(prior.mask, (context, context)), starts, frames + 2 * context)
    z = model.reverse_flow(wide, mask, g)[:, :, context : context + frames]
    assert batch.f0_hz is not None
    f0_hz = crop(batch.f0_hz[:, None], starts, frames)[:, 0]
    real = crop(audio[:, None], starts * size, frames * size)[:, 0]
    cycles = sample_phases(f0_hz.new_zeros(len(f0_hz)), f0_hz, size, model.config.sample_rate).to(torch.float32)
    cycles = cycles + fundamental_phase(real, cycles, f0_hz, size)
    assert isinstance(model.dec, SourceFilter), "the only vocoder that is trained from the prior"
    made = model.decode(z, g, model.dec.m_source.excitations(cycles, f0_hz, torch.randn_like(cycles)))
    return made.float(), real, torch.zeros(())


def fundamental_phase(target: Tensor, cycles: Tensor, f0_hz: Tensor, frame_samples: int) -> Tensor:
    """How far the target's fundamental is ahead of a sine at F0, in cycles, constant within a voiced stretch.

    A source in phase lets the network learn the shape of a pitch period; a random phase makes a hoarse voice. All
    (batch, samples), F0 (batch, frames) and 0 where unvoiced.
    """
    angle = -2 * math.pi * cycles
    parts = torch.stack([target * torch.cos(angle), target * torch.sin(angle)])
    by_frame = parts.view(*parts.shape[:2], -1, frame_samples).sum(dim=3)
    voiced = f0_hz > 0
    begins = voiced & ~F.pad(voiced, (1, 0))[:, :-1]
    run = begins.cumsum(dim=1)
    totals = torch.zeros(2, len(f0_hz), f0_hz.shape[1] + 1, device=target.device)
    totals.scatter_add_(2, run.expand(2, -1, -1), by_frame * voiced)
    real, imaginary = totals.gather(2, run.expand(2, -1, -1))
    # The sum gives the phase of a cosine; a sine is a quarter of a cycle further.
    offset = torch.atan2(imaginary, real) / (2 * math.pi) + 0.25
    return offset.repeat_interleave(frame_samples, dim=1)


def vits_pass(model: Synthesizer, batch: TrainingBatch, audio: Tensor) -> Pass:
    """RVC's: sound from the posterior of the target's own spectrogram, the prior pulled towards it."""
    size = model.config.frame_samples
    g = model.condition(batch.speaker_id)
    prior = model.encode(batch.content, batch.f0_coarse, batch.lengths)
    z, log_scale = model.enc_q(batch.spectrogram, prior.mask, g)
    z_p = model.flow(z, prior.mask, g)
    frames = min(model.config.segment_size_frames, batch.content.shape[1])
    starts = random_crop_starts(batch.lengths, frames)
    source = None
    if batch.f0_hz is not None:
        f0_hz = crop(batch.f0_hz[:, None], starts, frames)[:, 0]
        noise = torch.randn(len(f0_hz), frames * size, device=f0_hz.device)
        source = model.source(f0_hz, f0_hz.new_zeros(len(f0_hz)), noise, 1.0)
    made = model.decode(crop(z, starts, frames), g, source)
    return made.float(), crop(audio[:, None], starts * size, frames * size)[:, 0], kl_loss(z_p, log_scale, prior)


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
    assert prior.mask is not None
    log_scale = prior.log_scale.float()  # sums of thousands of terms need more than bfloat16
    each = log_scale - posterior_log_scale.float() - 0.5
    each = each + 0.5 * (z_p.float() - prior.mean.float()).square() * torch.exp(-2 * log_scale)
    return (each * prior.mask).sum() / prior.mask.sum()


def rvc_spectrogram(audio: Tensor, config: SynthesizerConfig) -> Tensor:
    """Linear magnitudes (batch, spec_channels, frames), as RVC's posterior encoder reads them."""
    size, hop = 2 * (config.spec_channels - 1), config.frame_samples
    padded = F.pad(audio, ((size - hop) // 2, (size - hop + 1) // 2), mode="reflect")
    return magnitude_spectrogram(padded, n_fft=size, hop_length=hop, power_floor=1e-6)


class RvcMelLoss(nn.Module):
    """RVC's: L1 of log mel at one resolution, that of the posterior encoder's spectrogram."""

    bank: Tensor

    def __init__(self, config: SynthesizerConfig) -> None:
        super().__init__()
        self.config = config
        size, bands = 2 * (config.spec_channels - 1), MEL_BANDS.get(config.sample_rate, 80)
        bank = mel_filterbank(sample_rate=config.sample_rate, n_fft=size, n_mels=bands)
        self.register_buffer("bank", bank, persistent=False)

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        return (self._log_mel(made) - self._log_mel(real)).abs().mean()

    def _log_mel(self, audio: Tensor) -> Tensor:
        return torch.log((self.bank @ rvc_spectrogram(audio, self.config)).clamp(min=_RVC_FLOOR))


def discriminator_loss(real: list[Judgement], made: list[Judgement]) -> Tensor:
    """Least squares: real is 1, made is 0; the sum over discriminators, as in RVC."""
    pairs = [(r.scores.float(), m.scores.float()) for r, m in zip(real, made, strict=True)]
    return torch.stack([(1 - r).square().mean() + m.square().mean() for r, m in pairs]).sum()


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
