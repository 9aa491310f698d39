"""Slices that are not learnt from: how far conversion is from them, and the detector of overtraining."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from menura.f0.contour import coarse_bins
from menura.models.synthesizer import Synthesizer
from menura.train.data.features import ClipFeatures
from menura.train.learning.objective import PRIOR_NOISE, SpectralLoss
from menura.types import FloatArray

_LONGEST_FRAMES = 400
PREVIEWS = 2
"""Slices that are shown."""
_RISING = 3
"""Validations in a row above the best, each above the one before, that mean overtraining."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    speaker: str
    real: FloatArray
    made: FloatArray
    learnt: bool
    """True where the voice learns from it, as there is no slice for validation."""


@dataclass(frozen=True, slots=True)
class ValidationSet:
    """The middles of slices that are kept for validation; false where there are none."""

    clips: Sequence[ClipFeatures]
    speakers: tuple[str, ...]
    device: torch.device
    learnt: Sequence[ClipFeatures] = ()
    """Shown where there are none."""

    def __len__(self) -> int:
        return len(self.clips)

    def measure(self, model: Synthesizer, loss: SpectralLoss) -> float:
        """Mean distance of log mel where every slice is converted into its own speaker, with fixed noise."""
        return float(np.mean([float(loss(made, real)["mel"]) for _, made, real in self._converted(model, self.clips)]))

    def previews(self, model: Synthesizer) -> list[Preview]:
        """The first slices as `measure` makes them; where there are none, such that are learnt from."""
        return [
            Preview(speaker=clip.speaker, real=real[0].cpu().numpy(), made=made[0].cpu().numpy(), learnt=not self.clips)
            for clip, made, real in self._converted(model, (self.clips or self.learnt)[:PREVIEWS])
        ]

    @torch.no_grad()
    def _converted(
        self, model: Synthesizer, clips: Sequence[ClipFeatures]
    ) -> Iterator[tuple[ClipFeatures, Tensor, Tensor]]:
        """Each clip, what is made of it, and its sound; training's random numbers stay as they were."""
        size = model.config.frame_samples
        for number, clip in enumerate(clips):
            frames = min(_LONGEST_FRAMES, clip.frames)
            start = (clip.frames - frames) // 4 * 2
            with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
                torch.manual_seed(number)
                made = self._made(model, clip, start, frames)
            real = clip.audio[start * size : (start + frames) * size].to(self.device, torch.float32)[None] / 32767
            yield clip, made, real

    def _made(self, model: Synthesizer, clip: ClipFeatures, start: int, frames: int) -> Tensor:
        vectors = clip.content["own"][0][start // 2 : (start + frames) // 2].to(self.device, torch.float32)
        f0_hz = clip.f0_hz[start : start + frames][None].to(self.device)
        coarse = torch.from_numpy(coarse_bins(f0_hz.cpu().numpy())).to(self.device)
        g = model.condition(torch.tensor([self.speakers.index(clip.speaker)], device=self.device))
        content = vectors.repeat_interleave(2, dim=0)[None]
        prior = model.encode(content, coarse if model.config.has_f0 else None, None)
        z_p = prior.mean + torch.randn_like(prior.mean) * PRIOR_NOISE * torch.exp(prior.log_scale)
        source = None
        if model.config.has_f0:
            noise = torch.randn(1, frames * model.config.frame_samples, device=self.device)
            source = model.source(f0_hz, torch.zeros(1, dtype=torch.float64), noise, 1.0)
        return model.decode(model.reverse_flow(z_p, None, g), g, source).float()


@dataclass(frozen=True, slots=True, kw_only=True)
class Validations:
    steps: tuple[int, ...] = ()
    distances: tuple[float, ...] = ()

    def after(self, step: int, distance: float) -> Validations:
        return Validations(steps=(*self.steps, step), distances=(*self.distances, distance))

    @property
    def best_step(self) -> int | None:
        return self.steps[-1 - self.since_best] if self.steps else None

    @property
    def since_best(self) -> int:
        return len(self.distances) - 1 - int(np.argmin(self.distances)) if self.distances else 0

    @property
    def overtraining(self) -> bool:
        """True where the distance has only risen since some time after the best."""
        recent = self.distances[-_RISING - 1 :]
        return self.since_best >= _RISING and all(b > a for a, b in itertools.pairwise(recent))
