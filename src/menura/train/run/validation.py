"""Slices that are not learnt from: how far conversion is from them, and the detector of overtraining."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from menura.f0.contour import coarse_bins
from menura.models.synthesizer import Synthesizer
from menura.train.data.features import ClipFeatures
from menura.train.learning.losses import SpectralLoss
from menura.train.learning.objective import PRIOR_NOISE

if TYPE_CHECKING:
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


class ValidationSet:
    """The middles of slices that are kept for validation; false where there are none."""

    def __init__(
        self,
        clips: Sequence[ClipFeatures],
        *,
        speakers: tuple[str, ...],
        device: torch.device,
        learnt: Sequence[ClipFeatures] = (),
    ) -> None:
        self._clips, self._speakers, self._device = clips, speakers, device
        self._learnt = () if clips else learnt[:PREVIEWS]

    def __len__(self) -> int:
        return len(self._clips)

    def measure(self, model: Synthesizer, loss: SpectralLoss) -> float:
        """Mean distance of log mel where every slice is converted into its own speaker, with fixed noise."""
        converted = self._all_converted(model, self._clips)
        return float(np.mean([float(loss(made, real)["mel"]) for _, made, real in converted]))

    def previews(self, model: Synthesizer) -> tuple[Preview, ...]:
        """The first slices as `measure` makes them; where there are none, such that are learnt from."""
        converted = self._all_converted(model, self._clips[:PREVIEWS] or self._learnt)
        return tuple(
            Preview(
                speaker=clip.speaker,
                real=real[0].cpu().numpy(),
                made=made[0].cpu().numpy(),
                learnt=not self._clips,
            )
            for clip, made, real in converted
        )

    @torch.no_grad()
    def _all_converted(
        self, model: Synthesizer, clips: Sequence[ClipFeatures]
    ) -> Iterator[tuple[ClipFeatures, Tensor, Tensor]]:
        """Each clip, what is made of it, and its sound; training's random numbers stay as they were."""
        for number, clip in enumerate(clips):
            with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
                torch.manual_seed(number)
                made, real = self._converted(model, clip)
            yield clip, made, real

    def _converted(self, model: Synthesizer, clip: ClipFeatures) -> tuple[Tensor, Tensor]:
        config = model.config
        frames = min(_LONGEST_FRAMES, clip.frames)
        start = (clip.frames - frames) // 4 * 2
        size = config.frame_samples
        vectors = clip.content["own"][0][start // 2 : (start + frames) // 2].to(self._device, torch.float32)
        f0_hz = clip.f0_hz[start : start + frames][None].to(self._device)
        coarse = torch.from_numpy(coarse_bins(f0_hz.cpu().numpy())).to(self._device)
        g = model.condition(torch.tensor([self._speakers.index(clip.speaker)], device=self._device))
        lengths = torch.tensor([frames], device=self._device)
        content = vectors.repeat_interleave(2, dim=0)[None]
        prior = model.encode(content, coarse if config.has_f0 else None, lengths)
        z_p = (prior.mean + torch.randn_like(prior.mean) * PRIOR_NOISE * torch.exp(prior.log_scale)) * prior.mask
        source = None
        if config.has_f0:
            noise = torch.randn(1, frames * size, device=self._device)
            source = model.source(f0_hz, torch.zeros(1, dtype=torch.float64), noise, 1.0)
        made = model.decode(model.reverse_flow(z_p, prior.mask, g), g, source)
        real = clip.audio[start * size : (start + frames) * size].to(self._device, torch.float32)[None] / 32767
        return made.float(), real


@dataclass(frozen=True, slots=True, kw_only=True)
class Validations:
    steps: tuple[int, ...] = ()
    distances: tuple[float, ...] = ()

    def after(self, step: int, distance: float) -> Validations:
        return Validations(steps=(*self.steps, step), distances=(*self.distances, distance))

    @property
    def best_step(self) -> int | None:
        if not self.steps:
            return None
        return self.steps[int(np.argmin(self.distances))]

    @property
    def since_best(self) -> int:
        return len(self.distances) - 1 - int(np.argmin(self.distances)) if self.distances else 0

    @property
    def overtraining(self) -> bool:
        """True where the distance has only risen since some time after the best."""
        recent = self.distances[-_RISING - 1 :]
        return self.since_best >= _RISING and all(b > a for a, b in itertools.pairwise(recent))
