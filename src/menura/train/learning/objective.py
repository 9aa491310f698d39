"""One pass of the synthesizer in training, by objective."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from menura.models.source import sample_phases
from menura.models.source_filter import SourceFilter
from menura.models.synthesizer import Synthesizer, TrainingBatch, crop, random_crop_starts
from menura.train.learning.losses import kl_loss

PRIOR_NOISE = 0.66666
"""Deviation of the latent's noise in conversion (RVC's)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """Crops that were made, where they lie, and what else is to be minimised."""

    audio: Tensor
    """(batch, crop_frames * frame_samples)"""
    starts_frames: Tensor
    """(batch,) int64"""
    kl: Tensor
    """Scalar, 0 where the objective has none."""


def direct_pass(model: Synthesizer, batch: TrainingBatch, real: Tensor) -> Pass:
    """Sound from the prior, exactly as conversion makes it.

    The posterior encoder takes no part: the network learns from the first step what it is used for, which for a small
    budget gives intelligible speech much sooner than VITS' detour. Needs content that doesn't leak the target.
    """
    config = model.config
    g = model.condition(batch.speaker_id)
    prior = model.encode(batch.content, batch.f0_coarse, batch.lengths)
    noise = torch.randn_like(prior.mean) * PRIOR_NOISE
    z_p = (prior.mean + noise * torch.exp(prior.log_scale)) * prior.mask
    frames = min(config.segment_size_frames, batch.content.shape[1])
    context = model.flow_context_frames
    starts = random_crop_starts(batch.lengths, frames)
    # The flow needs its context around the crop, the decoder only the crop.
    wide = crop(F.pad(z_p, (context, context)), starts, frames + 2 * context)
    mask = crop(F.pad(prior.mask, (context, context)), starts, frames + 2 * context)
    z = model.reverse_flow(wide, mask, g)[:, :, context : context + frames]
    audio = model.decode(z, g, _source(model, batch, real, starts, frames))
    return Pass(audio=audio.float(), starts_frames=starts, kl=torch.zeros(()))


def _source(model: Synthesizer, batch: TrainingBatch, real: Tensor, starts: Tensor, frames: int) -> Tensor:
    assert batch.f0_hz is not None
    size = model.config.frame_samples
    f0_hz = crop(batch.f0_hz[:, None], starts, frames)[:, 0]
    target = crop(real[:, None], starts * size, frames * size)[:, 0]
    cycles = sample_phases(torch.zeros(len(f0_hz)), f0_hz, size, model.config.sample_rate).to(torch.float32)
    cycles = cycles + fundamental_phase(target, cycles, f0_hz, size)
    assert isinstance(model.dec, SourceFilter), "the only vocoder that is trained from the prior"
    return model.dec.m_source.excitations(cycles, f0_hz, torch.randn_like(cycles))


def fundamental_phase(target: Tensor, cycles: Tensor, f0_hz: Tensor, frame_samples: int) -> Tensor:
    """Where in its cycle the fundamental of the target stands, against a sine at F0.

    A source in phase with the target lets the network learn the shape of a pitch period. From a random phase only its
    mean over all shifts could be learnt, which is a hoarse voice.

    Args:
        target: (batch, samples) sound.
        cycles: (batch, samples) phase of a sine at F0, which stands still where unvoiced.
        f0_hz: (batch, frames), 0 where unvoiced.
        frame_samples: samples in a frame.

    Returns:
        (batch, samples) cycles to be added to `cycles`, constant within a voiced stretch.
    """
    angle = -2 * math.pi * cycles
    parts = torch.stack([target * torch.cos(angle), target * torch.sin(angle)])
    by_frame = parts.view(*parts.shape[:2], -1, frame_samples).sum(dim=3)
    voiced = f0_hz > 0
    begins = voiced & ~torch.nn.functional.pad(voiced, (1, 0))[:, :-1]
    run = begins.cumsum(dim=1)
    totals = torch.zeros(2, len(f0_hz), f0_hz.shape[1] + 1, device=target.device)
    totals.scatter_add_(2, run.expand(2, -1, -1), by_frame * voiced)
    real, imaginary = totals.gather(2, run.expand(2, -1, -1))
    # The sum gives the phase of a cosine; a sine is a quarter of a cycle further.
    offset = torch.atan2(imaginary, real) / (2 * math.pi) + 0.25
    return offset.repeat_interleave(frame_samples, dim=1)


def vits_pass(model: Synthesizer, batch: TrainingBatch, real: Tensor) -> Pass:
    """RVC's: sound from the posterior of the target's own spectrogram, the prior pulled towards it."""
    config = model.config
    g = model.condition(batch.speaker_id)
    prior = model.encode(batch.content, batch.f0_coarse, batch.lengths)
    z, log_scale = model.enc_q(batch.spectrogram, prior.mask, g)
    z_p = model.flow(z, prior.mask, g)
    frames = min(config.segment_size_frames, batch.content.shape[1])
    starts = random_crop_starts(batch.lengths, frames)
    source = None
    if batch.f0_hz is not None:
        f0_hz = crop(batch.f0_hz[:, None], starts, frames)[:, 0]
        noise = torch.randn(len(f0_hz), frames * config.frame_samples, device=f0_hz.device)
        source = model.source(f0_hz, torch.zeros(len(f0_hz), dtype=torch.float64), noise, 1.0)
    audio = model.decode(crop(z, starts, frames), g, source)
    return Pass(audio=audio.float(), starts_frames=starts, kl=kl_loss(z_p, log_scale, prior))
