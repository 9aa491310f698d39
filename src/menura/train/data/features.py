"""What the trainer needs of a recording, computed once: audio at the voice's rate, F0, content in several variants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from menura.audio.resample import resample
from menura.content.base import ContentEncoder
from menura.errors import TrainingError
from menura.f0.base import F0Estimator
from menura.pipeline.analysis import ClipAnalysis, analyse_clips
from menura.train.data.perturb import Perturbed, perturb
from menura.train.experiment.settings import write_atomically
from menura.units import ANALYSIS_RATE_HZ, FRAME_RATE_HZ

if TYPE_CHECKING:
    from menura.types import FloatArray

SUFFIX = ".safetensors"
KINDS = ("own", "aligned", "perturbed")
_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFeatures:
    """A training clip; frames are 10 ms."""

    speaker: str
    audio: Tensor
    """(frames * frame_samples,) int16."""
    f0_hz: Tensor
    """(frames,) float32, 0 where unvoiced."""
    content: dict[str, Tensor]
    """By kind: (variants, frames // 2, dim) float16."""

    @property
    def frames(self) -> int:
        return int(self.f0_hz.shape[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredClip:
    """A training clip that is read when it is needed."""

    path: Path
    speaker: str
    frames: int

    @classmethod
    def of(cls, path: Path) -> StoredClip:
        try:
            with safe_open(str(path), framework="pt") as file:
                speaker = (file.metadata() or {})["speaker"]
                frames = file.get_slice("f0_hz").get_shape()[0]
        except (SafetensorError, OSError, KeyError) as error:
            raise damaged(path) from error
        return cls(path=path, speaker=speaker, frames=frames)


def damaged(path: Path) -> TrainingError:
    return TrainingError(path, "damaged features", "Delete the file and prepare again")


def at_original_times(content: FloatArray, speed: float, vectors: int) -> FloatArray:
    """Content of speech that was played at another speed, interpolated back to the original's time axis.

    Args:
        content: (vectors, dim).
        speed: how much faster than the original.
        vectors: how many are wanted.
    """
    at = (np.arange(vectors) + 0.5) / speed - 0.5
    low = np.clip(np.floor(at).astype(np.int64), 0, len(content) - 1)
    high = np.clip(low + 1, 0, len(content) - 1)
    part = np.clip(at - low, 0, 1).astype(np.float32)[:, None]
    return np.asarray(content[low] * (1 - part) + content[high] * part, dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSource:
    speaker: str
    samples: FloatArray
    """(samples,)"""
    rate: int
    aligned: Sequence[FloatArray] = ()
    """Renditions by others with the same timing, at the same rate."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Extractor:
    """The networks that features come from, and the voice's rate."""

    encoder: ContentEncoder
    estimator: F0Estimator
    sample_rate: int
    perturbed_variants: int = 2
    device: torch.device = _CPU

    def extract(self, clip: ClipSource) -> ClipFeatures:
        (made,) = self.extract_all([clip])
        if made is None:
            raise TrainingError(None, "the clip is shorter than half a second")
        return made

    def extract_all(self, clips: Sequence[ClipSource]) -> list[ClipFeatures | None]:
        """All features of some clips, whose equally long windows share passes through the networks.

        Returns:
            None for what is shorter than half a second.
        """
        plans = [self._plan(clip) for clip in clips]
        kept = [plan for plan in plans if plan is not None]
        own = iter(analyse_clips([plan.analysed for plan in kept], self.encoder, self.estimator, self.device))
        varied = [samples for plan in kept for samples in plan.varied]
        variations = iter(analyse_clips(varied, self.encoder, None, self.device))
        return [None if plan is None else plan.features(next(own), variations) for plan in plans]

    def _plan(self, clip: ClipSource) -> _Plan | None:
        audio = resample(clip.samples, clip.rate, self.sample_rate)
        frame_samples = self.sample_rate // FRAME_RATE_HZ
        frames = 2 * (len(audio) // (2 * frame_samples))
        if frames < FRAME_RATE_HZ // 2:
            return None
        rng = np.random.default_rng(clip.seed)
        scaled = np.clip(audio[: frames * frame_samples], -1, 1) * 32767
        spoken = [clip.samples] * self.perturbed_variants + list(clip.aligned)
        return _Plan(
            speaker=clip.speaker,
            frames=frames,
            audio=torch.from_numpy(np.rint(scaled).astype(np.int16)),
            analysed=resample(clip.samples, clip.rate, ANALYSIS_RATE_HZ),
            others=[resample(other, clip.rate, ANALYSIS_RATE_HZ) for other in clip.aligned],
            perturbed=[perturb(samples, clip.rate, rng) for samples in spoken],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    speaker: str
    frames: int
    audio: Tensor
    analysed: FloatArray
    others: list[FloatArray]
    perturbed: list[Perturbed]

    @property
    def varied(self) -> list[FloatArray]:
        """What else has content."""
        return [*self.others, *(item.samples for item in self.perturbed)]

    def features(self, own: ClipAnalysis, variations: Iterator[ClipAnalysis]) -> ClipFeatures:
        vectors = self.frames // 2
        assert own.f0_hz is not None
        content = {
            "own": [own.content[:vectors]],
            "aligned": [next(variations).content[:vectors] for _ in self.others],
            "perturbed": [at_original_times(next(variations).content, item.speed, vectors) for item in self.perturbed],
        }
        return ClipFeatures(
            speaker=self.speaker,
            audio=self.audio,
            f0_hz=torch.from_numpy(own.f0_hz[: self.frames].copy()),
            content={
                kind: torch.from_numpy(np.stack(rows)).to(torch.float16) for kind, rows in content.items() if rows
            },
        )


def save_features(path: Path, features: ClipFeatures) -> None:
    tensors = {f"content.{kind}": rows.contiguous() for kind, rows in features.content.items()}
    tensors |= {"audio": features.audio.contiguous(), "f0_hz": features.f0_hz.contiguous()}
    write_atomically(path, save(tensors, metadata={"speaker": features.speaker}))


def load_features(path: Path) -> ClipFeatures:
    try:
        tensors = load_file(str(path))
        with safe_open(str(path), framework="pt") as file:
            speaker = (file.metadata() or {})["speaker"]
        content = {name.removeprefix("content."): rows for name, rows in tensors.items() if name.startswith("content.")}
        return ClipFeatures(speaker=speaker, audio=tensors["audio"], f0_hz=tensors["f0_hz"], content=content)
    except (SafetensorError, OSError, KeyError) as error:
        raise damaged(path) from error
