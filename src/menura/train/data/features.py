"""What the trainer needs of a recording, computed once: audio at the voice's rate, F0, content in several variants."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from menura.audio.resample import resample
from menura.content.base import ContentEncoder, RecordingStatistics
from menura.errors import TrainingError
from menura.f0.base import F0Estimator
from menura.pipeline.recording import reflect
from menura.pipeline.windows import Windowing, streaming_extent
from menura.train.data.perturb import Perturbed, another_throat
from menura.train.experiment.settings import write_atomically
from menura.units import ANALYSIS_RATE_HZ, FRAME_RATE_HZ, FRAME_SAMPLES

if TYPE_CHECKING:
    from menura.types import FloatArray

SUFFIX = ".safetensors"
KINDS = ("own", "aligned", "perturbed")
_CPU = torch.device("cpu")
_TOGETHER_SAMPLES = 60 * ANALYSIS_RATE_HZ
_F0_STEP_FRAMES = 40
"""Windows end at such a multiple, so that many have one length; itself one of SwiftF0's grid of 8."""


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
    return TrainingError(path, "damaged features", "Delete the file and prepare again")


def contents_of(encoder: ContentEncoder, recordings: Sequence[FloatArray], device: torch.device = _CPU) -> list[Tensor]:
    """Content of whole recordings in the pipeline's own fixed windows; those of equal length share passes.

    The pipeline reflects recordings up to a multiple of 0.2 s, so windows of equal length are many.

    Args:
        encoder: the content encoder.
        recordings: each (samples,) at 16 kHz.
        device: the encoder's.

    Returns:
        For each (vectors, dim) float32 from its start, one vector for each begun 20 ms at least.
    """
    by_recording = [_content_windows(encoder, samples) for samples in recordings]
    windows = [window for own in by_recording for window in own]

    def encode(batch: Tensor, numbers: list[int]) -> Tensor:
        return encoder.encode(batch, [windows[number].statistics for number in numbers])

    encoded = iter(_by_length([window.samples for window in windows], encode, device))
    joined = [torch.cat([next(encoded)[window.keep] for window in own]) for own in by_recording]
    return [content[own[0].edge_vectors :].cpu() for content, own in zip(joined, by_recording, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _ContentWindow:
    samples: FloatArray
    statistics: RecordingStatistics
    """Of the whole recording."""
    keep: slice
    """Its vectors that aren't context."""
    edge_vectors: int
    """Of the recording's reflected beginning."""


def _content_windows(encoder: ContentEncoder, samples: FloatArray) -> list[_ContentWindow]:
    extent = streaming_extent(len(samples), encoder.edge_frames)
    extended = reflect(samples, extent.left_samples, extent.right_samples)
    collector = encoder.survey()
    collector.push(extended)
    statistics = collector.finish()
    made = []
    for window in Windowing().windows(extent, encoder.core_frames, encoder.context_frames):
        start = (window.from_frames + extent.left_frames) * FRAME_SAMPLES
        end = (window.to_frames + extent.left_frames) * FRAME_SAMPLES + extent.tail_samples
        skip = (window.start_frames - window.from_frames) // 2
        made.append(
            _ContentWindow(
                samples=extended[start:end],
                statistics=statistics,
                keep=slice(skip, skip + (window.end_frames - window.start_frames) // 2),
                edge_vectors=extent.left_frames // 2,
            )
        )
    return made


def _by_length(
    windows: Sequence[FloatArray], run: Callable[[Tensor, list[int]], Tensor], device: torch.device
) -> list[Tensor]:
    """A network's output of each window; equally long ones go through together, up to a minute at once."""
    by_length: dict[int, list[int]] = {}
    for number, window in enumerate(windows):
        by_length.setdefault(len(window), []).append(number)
    made: dict[int, Tensor] = {}
    for length, numbers in by_length.items():
        most = max(1, _TOGETHER_SAMPLES // max(1, length))
        for begin in range(0, len(numbers), most):
            some = numbers[begin : begin + most]
            batch = torch.from_numpy(np.stack([windows[number] for number in some])).to(device)
            made.update(zip(some, run(batch, some), strict=True))
    return [made[number] for number in range(len(windows))]


def perturbed_contents(
    encoder: ContentEncoder,
    throats: Sequence[Perturbed],
    lengths_vectors: Sequence[int],
    device: torch.device = _CPU,
) -> list[Tensor]:
    """Content of perturbed speech, interpolated back to the original's time axis where it was played at another speed.

    Args:
        encoder: the content encoder.
        throats: see `menura.train.data.perturb`.
        lengths_vectors: how many vectors are wanted of each.
        device: the encoder's.
    """
    contents = contents_of(encoder, [throat.samples for throat in throats], device)
    rows = zip(contents, throats, lengths_vectors, strict=True)
    return [_at_original_times(content, throat.speed, vectors) for content, throat, vectors in rows]


def _at_original_times(content: Tensor, speed: float, vectors: int) -> Tensor:
    at = (np.arange(vectors) + 0.5) / speed - 0.5
    low = np.clip(np.floor(at).astype(np.int64), 0, len(content) - 1)
    high = np.clip(low + 1, 0, len(content) - 1)
    part = torch.from_numpy(np.clip(at - low, 0, 1).astype(np.float32))[:, None]
    return content[low] * (1 - part) + content[high] * part


def contours_of(
    estimator: F0Estimator,
    recordings: Sequence[FloatArray],
    lengths_frames: Sequence[int],
    device: torch.device = _CPU,
) -> list[Tensor]:
    """F0 (frames,) of short recordings (samples,) at 16 kHz; such of about equal length share passes."""
    context = -(-estimator.context_frames // 8) * 8
    padded = []
    for samples in recordings:
        left, step = context * FRAME_SAMPLES, _F0_STEP_FRAMES * FRAME_SAMPLES
        right = -(-(len(samples) + left) // step) * step - len(samples)
        padded.append(reflect(samples, left, right))
    tracks = _by_length(padded, lambda batch, _: estimator.estimate(batch), device)
    return [track[context : context + frames].cpu() for track, frames in zip(tracks, lengths_frames, strict=True)]


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
    device: torch.device = _CPU
    """The networks'."""

    def extract(self, clip: ClipSource) -> ClipFeatures:
        """All features of a clip.

        Raises:
            TrainingError: it is shorter than half a second.
        """
        (made,) = self.extract_all([clip])
        if made is None:
            raise TrainingError(None, "the clip is shorter than half a second")
        return made

    def extract_all(self, clips: Sequence[ClipSource], *, perturbed: int | None = None) -> list[ClipFeatures | None]:
        """All features of some clips, whose equally long windows share passes through the networks.

        Args:
            clips: the recordings.
            perturbed: how many perturbed variants of each one's own content; by default `perturbed_variants`.

        Returns:
            None for what is shorter than half a second.
        """
        variants = self.perturbed_variants if perturbed is None else perturbed
        plans = [self._plan(clip, variants) for clip in clips]
        kept = [plan for plan in plans if plan is not None]
        heard = [samples for plan in kept for samples in (plan.analysed, *plan.others)]
        plain = iter(contents_of(self.encoder, heard, self.device))
        throats = [(throat, plan.frames // 2) for plan in kept for throat in plan.throats]
        voices, vectors = [throat for throat, _ in throats], [length for _, length in throats]
        changed = iter(perturbed_contents(self.encoder, voices, vectors, self.device))
        frames = [plan.frames for plan in kept]
        contours = iter(contours_of(self.estimator, [plan.analysed for plan in kept], frames, self.device))
        return [None if plan is None else plan.features(plain, changed, next(contours)) for plan in plans]

    def _plan(self, clip: ClipSource, variants: int) -> _Plan | None:
        audio = resample(clip.samples, clip.rate, self.sample_rate)
        frame_samples = self.sample_rate // FRAME_RATE_HZ
        frames = 2 * (len(audio) // (2 * frame_samples))
        if frames < FRAME_RATE_HZ // 2:
            return None
        rng = np.random.default_rng(clip.seed)
        scaled = np.clip(audio[: frames * frame_samples], -1, 1) * 32767
        spoken = [clip.samples] * variants + list(clip.aligned)
        return _Plan(
            speaker=clip.speaker,
            frames=frames,
            audio=torch.from_numpy(np.rint(scaled).astype(np.int16)),
            analysed=resample(clip.samples, clip.rate, ANALYSIS_RATE_HZ),
            others=[resample(other, clip.rate, ANALYSIS_RATE_HZ) for other in clip.aligned],
            throats=[another_throat(samples, clip.rate, rng) for samples in spoken],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """A clip ready for the networks."""

    speaker: str
    frames: int
    audio: Tensor
    analysed: FloatArray
    others: list[FloatArray]
    throats: list[Perturbed]

    def features(self, plain: Iterator[Tensor], changed: Iterator[Tensor], f0_hz: Tensor) -> ClipFeatures:
        """Take this clip's contents, which come next."""
        vectors = self.frames // 2
        content = {
            "own": [next(plain)[:vectors]],
            "aligned": [next(plain)[:vectors] for _ in self.others],
            "perturbed": [next(changed) for _ in self.throats],
        }
        return ClipFeatures(
            speaker=self.speaker,
            audio=self.audio,
            f0_hz=f0_hz,
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
