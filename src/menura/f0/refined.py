"""An F0 estimate set right in its own windows: high notes that were read an octave low, and single frames."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from menura.f0.registry import F0Estimator, Refinement

_TAPS = 64
_SAME_CENTS = 150.0
_LEAST_DOUBLED_HZ, _LEAST_OTHER_HZ = 460.0, 900.0
"""From here on the reading at half speed corrects an octave, and anything else; below it is less sure itself."""


class RefinedEstimator:
    """An estimator whose F0 is refined. Windows are those of the other, with context for the smoothing."""

    def __init__(self, estimator: F0Estimator, refinement: Refinement) -> None:
        self._estimator, self._refinement = estimator, refinement
        self.name, self.core_frames = estimator.name, estimator.core_frames
        self.context_frames = estimator.context_frames + 8 * bool(refinement.smoothing_frames)

    @property
    def resident_bytes(self) -> int:
        return self._estimator.resident_bytes

    @torch.inference_mode()
    def estimate(self, samples: Tensor) -> Tensor:
        f0_hz, refinement = self._estimator.estimate(samples), self._refinement
        if refinement.repair != "off":
            slow = self._estimator.estimate(half_speed(samples))[:, ::2]
            f0_hz = repaired(f0_hz, 2 * slow, fold=refinement.repair == "fold", ceiling_hz=refinement.ceiling_hz)
        return smoothed(f0_hz, refinement.smoothing_frames) if refinement.smoothing_frames else f0_hz


def half_speed(samples: Tensor) -> Tensor:
    """(batch, samples) to (batch, 2 samples): played at the same rate, everything is an octave lower."""
    places = torch.arange(_TAPS, dtype=samples.dtype, device=samples.device) - (_TAPS - 1) / 2
    taps = torch.special.sinc(places) * torch.cos(torch.pi / _TAPS * places).square()
    padded = F.pad(samples, (_TAPS // 2 - 1, _TAPS // 2))
    between = F.conv1d(padded[:, None], (taps / taps.sum())[None, None])[:, 0]
    return torch.stack((samples, between), dim=2).flatten(1)


def repaired(f0_hz: Tensor, guide_hz: Tensor, *, fold: bool, ceiling_hz: float) -> Tensor:
    """F0 with the octaves of a guide, both (batch, frames), 0 where unvoiced.

    Where F0 and guide agree F0 stays, and where they are an octave apart it is doubled: it is the finer of the two.
    Where it is neither, or lacks voice, the guide is taken if it is high. What was changed, an octave lower if `fold`,
    and what is above the ceiling, in any case, is moved an octave down: voices have learnt no such notes.
    """
    both = (f0_hz > 0) & (guide_hz > 0)
    apart = 1200 * torch.log2(torch.where(both, guide_hz / f0_hz.clamp(min=1.0), 1.0))
    doubled = both & ((apart - 1200).abs() < _SAME_CENTS) & (guide_hz >= _LEAST_DOUBLED_HZ)
    other = (guide_hz >= _LEAST_OTHER_HZ) & ~doubled & ~(both & (apart.abs() < _SAME_CENTS))
    result = torch.where(doubled, 2 * f0_hz, torch.where(other, guide_hz, f0_hz))
    if fold:
        result = torch.where(doubled | other, result / 2, result)
    return torch.where(result > ceiling_hz, result / 2, result)


def smoothed(f0_hz: Tensor, radius_frames: int) -> Tensor:
    """The median of the voiced frames at most so far from each voiced one of (batch, frames)."""
    padded = F.pad(f0_hz, (radius_frames, radius_frames))
    around = padded.unfold(1, 2 * radius_frames + 1, 1)
    voiced = around > 0
    ranked = torch.where(voiced, around, torch.inf).sort(-1).values
    middle = ((voiced.sum(-1, keepdim=True) - 1) // 2).clamp(min=0)
    return torch.where(f0_hz > 0, ranked.gather(-1, middle).squeeze(-1), f0_hz)
