"""One pass of the synthesizer in training, by objective."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from menura.models.synthesizer import Synthesizer, TrainingBatch, crop, random_crop_starts
from menura.train.losses import kl_loss

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


def direct_pass(model: Synthesizer, batch: TrainingBatch) -> Pass:
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
    audio = model.decode(z, g, _source(model, batch, starts, frames))
    return Pass(audio=audio.float(), starts_frames=starts, kl=torch.zeros(()))


def _source(model: Synthesizer, batch: TrainingBatch, starts: Tensor, frames: int) -> Tensor | None:
    if batch.f0_hz is None:
        return None
    f0_hz = crop(batch.f0_hz[:, None], starts, frames)[:, 0]
    noise = torch.randn(len(f0_hz), frames * model.config.frame_samples, device=f0_hz.device)
    phase = torch.rand(len(f0_hz), dtype=torch.float64)
    return model.source(f0_hz, phase, noise, 1.0)


def vits_pass(model: Synthesizer, batch: TrainingBatch) -> Pass:
    """RVC's: sound from the posterior of the target's own spectrogram, the prior pulled towards it."""
    output = model.forward_train(batch)
    return Pass(audio=output.audio[:, 0].float(), starts_frames=output.crop_start_frames, kl=kl_loss(output))
