"""Prepared clips, in memory where they fit, and batches that are a function of (seed, step) alone."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from menura.errors import TrainingError
from menura.f0.contour import coarse_bins
from menura.models.synthesizer import TrainingBatch
from menura.train.data.features import KINDS, ClipFeatures, StoredClip, load_features
from menura.train.experiment.settings import Experiment
from menura.train.learning.objective import rvc_spectrogram

_KEPT_CLIPS = 64
"""Clips of a data set larger than memory that stay there."""
_BUCKET_FRAMES = 50
"""Rows of a batch differ by less than this in length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    batch: TrainingBatch
    audio: Tensor
    """(batch, frames * frame_samples) float32."""

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Example:
        """With all tensors changed alike."""
        values = {field.name: getattr(self.batch, field.name) for field in dataclasses.fields(self.batch)}
        changed: dict[str, Any] = {name: None if value is None else change(value) for name, value in values.items()}
        return Example(batch=TrainingBatch(**changed), audio=change(self.audio))


def drawn_ahead(draw: Callable[[int], Example], steps: range, device: torch.device) -> Generator[Example, None, None]:
    """What is drawn for some steps, in order: for a GPU the next one's in a thread, while this one's is learnt from.

    A second thread that uses torch slows a CPU's: OpenMP, with more threads than cores, has those that wait sleep.
    """
    if device.type == "cpu":
        yield from map(draw, steps)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="training batches") as pool:
        coming: deque[Future[Example]] = deque()
        for step in steps:
            coming.append(pool.submit(draw, step))
            if len(coming) > 1:
                yield coming.popleft().result()
        yield from (drawn.result() for drawn in coming)


class Dataset:
    def __init__(self, clips: Sequence[ClipFeatures | StoredClip], experiment: Experiment) -> None:
        config, speakers = experiment.synthesizer, experiment.speakers
        self._clips = [clip for clip in clips if clip.frames > config.segment_size_frames + 2]
        self._stored = lru_cache(maxsize=_KEPT_CLIPS)(load_features)
        self._speakers = speakers
        if missing := set(speakers) - {clip.speaker for clip in self._clips}:
            problem = "no slice is long enough to train on"
            raise TrainingError(", ".join(sorted(missing)), problem, "Run 'menura train prepare'")
        self._config = config
        self._mix = np.array([getattr(experiment.mix, kind) for kind in KINDS])
        lengths = np.array([clip.frames for clip in self._clips], dtype=np.float64)
        totals = {name: sum(c.frames for c in self._clips if c.speaker == name) for name in speakers}
        weights = lengths / np.array([totals[clip.speaker] for clip in self._clips])
        self._chances = weights / weights.sum()

    @classmethod
    def load(cls, paths: Sequence[Path], experiment: Experiment, *, memory_bytes: int) -> Dataset:
        stored = [clip for clip in map(StoredClip.of, paths) if clip.speaker in experiment.speakers]
        fits = sum(clip.path.stat().st_size for clip in stored) <= memory_bytes
        return cls([load_features(clip.path) for clip in stored] if fits else stored, experiment)

    @property
    def seconds(self) -> float:
        return sum(clip.frames for clip in self._clips) / 100

    def __len__(self) -> int:
        return len(self._clips)

    def draw(self, *, seed: int, step: int, batch_size: int, row_frames: int) -> Example:
        """The batch of a step: speakers evenly, clips by length, stretches and kinds of content at random."""
        rng = np.random.default_rng((seed, step))
        numbers, frames = self._bucket(rng, row_frames)
        chances = self._chances[numbers] / self._chances[numbers].sum()
        rows = [
            self._row(rng, self._clips[int(numbers[rng.choice(len(numbers), p=chances)])], frames)
            for _ in range(batch_size)
        ]
        content, f0, audio, lengths, speakers = (list(column) for column in zip(*rows, strict=True))
        f0_hz = torch.stack(f0)
        coarse = torch.from_numpy(coarse_bins(f0_hz.numpy()))
        batch = TrainingBatch(
            content=torch.stack(content),
            f0_coarse=coarse if self._config.has_f0 else None,
            f0_hz=f0_hz if self._config.has_f0 else None,
            spectrogram=rvc_spectrogram(torch.stack(audio), self._config),
            lengths=torch.tensor(lengths),
            speaker_id=torch.tensor(speakers),
        )
        return Example(batch=batch, audio=torch.stack(audio))

    def _bucket(self, rng: np.random.Generator, row_frames: int) -> tuple[NDArray[np.int64], int]:
        """The clips of a batch and its length: those of about the same length come together, so little is padding."""
        lengths = np.minimum([clip.frames for clip in self._clips], row_frames)
        ends = np.minimum(row_frames, -(-lengths // _BUCKET_FRAMES) * _BUCKET_FRAMES)
        choices = np.unique(ends)
        if len(choices) == 1:
            return np.arange(len(ends)), int(choices[0])
        weights = np.array([self._chances[ends == end].sum() for end in choices])
        end = choices[rng.choice(len(choices), p=weights / weights.sum())]
        return np.flatnonzero(ends == end), int(end)

    def _row(
        self, rng: np.random.Generator, clip: ClipFeatures | StoredClip, frames: int
    ) -> tuple[Tensor, Tensor, Tensor, int, int]:
        if isinstance(clip, StoredClip):
            clip = self._stored(clip.path)
        start = 2 * int(rng.integers(0, max(0, clip.frames - frames) // 2 + 1))
        length = min(frames, clip.frames - start)
        chances = np.where([kind in clip.content for kind in KINDS], self._mix, 0)
        variants = clip.content[KINDS[rng.choice(len(KINDS), p=chances / chances.sum())]]
        vectors = variants[int(rng.integers(len(variants)))][start // 2 : (start + length + 1) // 2]
        content = vectors.to(torch.float32).repeat_interleave(2, dim=0)[:length]
        size = self._config.frame_samples
        audio = clip.audio[start * size : (start + length) * size].to(torch.float32) / 32767
        rest = frames - length
        return (
            F.pad(content, (0, 0, 0, rest)),
            F.pad(clip.f0_hz[start : start + length], (0, rest)),
            F.pad(audio, (0, rest * size)),
            length,
            self._speakers.index(clip.speaker),
        )
