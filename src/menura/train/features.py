"""What the trainer needs of a recording, computed once: audio at the voice's rate, F0, content in several variants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from menura.audio.resample import resample
from menura.content.base import ContentEncoder
from menura.errors import TrainingError
from menura.f0.base import F0Estimator
from menura.pipeline.edges import reflect
from menura.pipeline.plan import analysis_windows, streaming_extent
from menura.train.perturb import another_throat
from menura.train.spec import write_atomically
from menura.units import ANALYSIS_RATE_HZ, FRAME_RATE_HZ, FRAME_SAMPLES

if TYPE_CHECKING:
    from menura.types import FloatArray

SUFFIX = ".safetensors"
KINDS = ("own", "aligned", "perturbed")


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
        """Length in frames of 10 ms, even."""
        return int(self.f0_hz.shape[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredClip:
    """A training clip that is read when it is needed."""

    path: Path
    speaker: str
    frames: int

    @classmethod
    def of(cls, path: Path) -> StoredClip:
        """What the header of a clip's file says.

        Raises:
            TrainingError: the file is damaged.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="pt") as file:
                speaker = (file.metadata() or {})["speaker"]
                frames = file.get_slice("f0_hz").get_shape()[0]
        except (SafetensorError, OSError, KeyError) as error:
            raise damaged(path) from error
        return cls(path=path, speaker=speaker, frames=frames)


def damaged(path: Path) -> TrainingError:
    """What to do about features that can't be read."""
    return TrainingError(f"{path}: damaged features; delete the file and prepare again.")


def content_of(encoder: ContentEncoder, samples: FloatArray) -> Tensor:
    """Content of a whole recording in the pipeline's own fixed windows.

    Args:
        encoder: the content encoder.
        samples: (samples,) at 16 kHz.

    Returns:
        (vectors, dim) float32 from the recording's start, one vector for each begun 20 ms at least.
    """
    extent = streaming_extent(len(samples), encoder.edge_frames)
    extended = reflect(samples, extent.left_samples, extent.right_samples)
    collector = encoder.survey()
    collector.push(extended)
    statistics = collector.finish()
    parts = []
    for window in analysis_windows(extent, encoder.core_frames, encoder.context_frames):
        start = (window.from_frames + extent.left_frames) * FRAME_SAMPLES
        end = (window.to_frames + extent.left_frames) * FRAME_SAMPLES + extent.tail_samples
        vectors = encoder.encode(torch.from_numpy(extended[start:end].copy())[None], [statistics])[0]
        skip = (window.start_frames - window.from_frames) // 2
        parts.append(vectors[skip : skip + (window.end_frames - window.start_frames) // 2])
    return torch.cat(parts)[extent.left_frames // 2 :].cpu()


def perturbed_content(
    encoder: ContentEncoder, samples: FloatArray, rate: int, vectors: int, rng: np.random.Generator
) -> Tensor:
    """Content of the recording as if another throat had spoken it in another room, on the original time axis.

    See `menura.train.perturb`; where it is played at another speed, the vectors are interpolated back.

    Args:
        encoder: the content encoder.
        samples: (samples,) at `rate`.
        rate: Hz.
        vectors: how many are wanted.
        rng: decides how.
    """
    other = another_throat(samples, rate, rng)
    content = content_of(encoder, other.samples)
    at = (np.arange(vectors) + 0.5) / other.speed - 0.5
    low = np.clip(np.floor(at).astype(np.int64), 0, len(content) - 1)
    high = np.clip(low + 1, 0, len(content) - 1)
    part = torch.from_numpy(np.clip(at - low, 0, 1).astype(np.float32))[:, None]
    return content[low] * (1 - part) + content[high] * part


def f0_of(estimator: F0Estimator, samples: FloatArray, frames: int) -> Tensor:
    """(frames,) F0 of a short recording (samples,) at 16 kHz."""
    context = -(-estimator.context_frames // 8) * 8
    padded = reflect(samples, context * FRAME_SAMPLES, context * FRAME_SAMPLES)
    return estimator.estimate(torch.from_numpy(padded)[None])[0, context : context + frames].cpu()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSource:
    """A recording to be prepared."""

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

    def extract(self, clip: ClipSource, *, perturbed: int | None = None) -> ClipFeatures:
        """All features of a clip.

        Args:
            clip: the recording.
            perturbed: how many perturbed variants of its own content; by default `perturbed_variants`.

        Raises:
            TrainingError: it is shorter than half a second.
        """
        audio = resample(clip.samples, clip.rate, self.sample_rate)
        frame_samples = self.sample_rate // FRAME_RATE_HZ
        frames = 2 * (len(audio) // (2 * frame_samples))
        if frames < FRAME_RATE_HZ // 2:
            raise TrainingError("a clip is shorter than half a second; leave it out.")
        rng = np.random.default_rng(clip.seed)
        analysed = resample(clip.samples, clip.rate, ANALYSIS_RATE_HZ)
        vectors = frames // 2
        others = [resample(other, clip.rate, ANALYSIS_RATE_HZ) for other in clip.aligned]
        content = {
            "own": [content_of(self.encoder, analysed)[:vectors]],
            "aligned": [content_of(self.encoder, other)[:vectors] for other in others],
            "perturbed": [
                perturbed_content(self.encoder, clip.samples, clip.rate, vectors, rng)
                for _ in range(self.perturbed_variants if perturbed is None else perturbed)
            ],
        }
        for other in clip.aligned:
            content["perturbed"].append(perturbed_content(self.encoder, other, clip.rate, vectors, rng))
        scaled = np.clip(audio[: frames * frame_samples], -1, 1) * 32767
        return ClipFeatures(
            speaker=clip.speaker,
            audio=torch.from_numpy(np.rint(scaled).astype(np.int16)),
            f0_hz=f0_of(self.estimator, analysed, frames),
            content={kind: torch.stack(rows).to(torch.float16) for kind, rows in content.items() if rows},
        )


def save_features(path: Path, features: ClipFeatures) -> None:
    """Write one clip's features, atomically."""
    tensors = {f"content.{kind}": rows.contiguous() for kind, rows in features.content.items()}
    tensors |= {"audio": features.audio.contiguous(), "f0_hz": features.f0_hz.contiguous()}
    write_atomically(path, save(tensors, metadata={"speaker": features.speaker}))


def load_features(path: Path) -> ClipFeatures:
    """Read one clip's features.

    Raises:
        TrainingError: the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        tensors = load_file(str(path))
        with safe_open(str(path), framework="pt") as file:
            speaker = (file.metadata() or {})["speaker"]
        content = {name.removeprefix("content."): rows for name, rows in tensors.items() if name.startswith("content.")}
        return ClipFeatures(speaker=speaker, audio=tensors["audio"], f0_hz=tensors["f0_hz"], content=content)
    except (SafetensorError, OSError, KeyError) as error:
        raise damaged(path) from error
