"""Prepared clips in memory, and batches that are a function of (seed, step) alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from menura.errors import TrainingError
from menura.f0.contour import coarse_bins
from menura.models.config import SynthesizerConfig
from menura.models.synthesizer import TrainingBatch
from menura.train.features import KINDS, SUFFIX, ClipFeatures, load_features
from menura.train.spec import ContentMix


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A batch and the sound that belongs to it."""

    batch: TrainingBatch
    audio: Tensor
    """(batch, frames * frame_samples) float32."""


class Dataset:
    """All clips of an experiment."""

    def __init__(
        self, clips: Sequence[ClipFeatures], *, speakers: tuple[str, ...], config: SynthesizerConfig, mix: ContentMix
    ) -> None:
        """Keep the clips that are long enough for a crop.

        Raises:
            TrainingError: a speaker has none.
        """
        self._clips = [clip for clip in clips if clip.frames > config.segment_size_frames + 2]
        self._speaker_ids = {name: number for number, name in enumerate(speakers)}
        missing = set(speakers) - {clip.speaker for clip in self._clips}
        if missing:
            raise TrainingError(f"no usable recordings of {', '.join(sorted(missing))}; run 'menura train prepare'.")
        self._config = config
        self._mix = np.array([getattr(mix, kind) for kind in KINDS])
        lengths = np.array([clip.frames for clip in self._clips], dtype=np.float64)
        totals = {name: sum(c.frames for c in self._clips if c.speaker == name) for name in speakers}
        weights = lengths / np.array([totals[clip.speaker] for clip in self._clips])
        self._chances = weights / weights.sum()

    @classmethod
    def load(cls, folder: Path, *, speakers: tuple[str, ...], config: SynthesizerConfig, mix: ContentMix) -> Dataset:
        """Read every prepared clip of a folder, in order of file names."""
        clips = [load_features(path) for path in sorted(folder.glob(f"*{SUFFIX}"))]
        return cls([clip for clip in clips if clip.speaker in speakers], speakers=speakers, config=config, mix=mix)

    @property
    def seconds(self) -> float:
        """Sound in total."""
        return sum(clip.frames for clip in self._clips) / 100

    def draw(self, *, seed: int, step: int, batch_size: int, row_frames: int) -> Example:
        """The batch of a step: speakers evenly, clips by length, stretches and kinds of content at random."""
        rng = np.random.default_rng((seed, step))
        rows = [self._row(rng, row_frames) for _ in range(batch_size)]
        content, f0, audio, lengths, speakers = (list(column) for column in zip(*rows, strict=True))
        f0_hz = torch.stack(f0)
        coarse = torch.from_numpy(coarse_bins(f0_hz.numpy()))
        batch = TrainingBatch(
            content=torch.stack(content),
            f0_coarse=coarse if self._config.has_f0 else None,
            f0_hz=f0_hz if self._config.has_f0 else None,
            spectrogram=_spectrogram(torch.stack(audio), self._config),
            lengths=torch.tensor(lengths),
            speaker_id=torch.tensor(speakers),
        )
        return Example(batch=batch, audio=torch.stack(audio))

    @property
    def clips(self) -> int:
        """How many clips are drawn from."""
        return len(self._clips)

    def _row(self, rng: np.random.Generator, frames: int) -> tuple[Tensor, Tensor, Tensor, int, int]:
        clip = self._clips[rng.choice(len(self._clips), p=self._chances)]
        start = 2 * int(rng.integers(0, max(0, clip.frames - frames) // 2 + 1))
        length = min(frames, clip.frames - start)
        vectors = self._content(clip, rng)[start // 2 : (start + length + 1) // 2].to(torch.float32)
        content = vectors.repeat_interleave(2, dim=0)[:length]
        size = self._config.frame_samples
        audio = clip.audio[start * size : (start + length) * size].to(torch.float32) / 32767
        rest = frames - length
        return (
            F.pad(content, (0, 0, 0, rest)),
            F.pad(clip.f0_hz[start : start + length], (0, rest)),
            F.pad(audio, (0, rest * size)),
            length,
            self._speaker_ids[clip.speaker],
        )

    def _content(self, clip: ClipFeatures, rng: np.random.Generator) -> Tensor:
        chances = np.where([kind in clip.content for kind in KINDS], self._mix, 0)
        kind = KINDS[rng.choice(len(KINDS), p=chances / chances.sum())]
        variants = clip.content[kind]
        return variants[int(rng.integers(len(variants)))]


def _spectrogram(audio: Tensor, config: SynthesizerConfig) -> Tensor:
    """Linear magnitudes, one column a frame, as RVC's posterior encoder reads them.

    Args:
        audio: (batch, frames * frame_samples).
        config: gives the FFT's size and the hop.

    Returns:
        (batch, spec_channels, frames).
    """
    size, hop = 2 * (config.spec_channels - 1), config.frame_samples
    missing = size - hop
    padded = F.pad(audio, (missing // 2, missing - missing // 2), mode="reflect")
    window = torch.hann_window(size)
    spectrum = torch.stft(padded, size, hop, window=window, center=False, return_complex=True)
    return (spectrum.real.square() + spectrum.imag.square() + 1e-6).sqrt()
