"""What the trainer needs of a slice, computed once: audio at the voice's rate, F0, content in several variants."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from menura.audio.processor import resample
from menura.content.registry import ContentEncoder, encoder_path, load_encoder, projection_of
from menura.errors import TrainingError
from menura.f0.registry import F0Estimator, load_estimator, method_path
from menura.pipeline.analysis import ClipAnalysis, analyse_clips
from menura.train.data.perturb import perturb
from menura.train.data.report import PreparedSlice
from menura.train.data.slicing import loudness_db
from menura.train.experiment.folder import FEATURES
from menura.train.experiment.settings import Experiment, write_atomically
from menura.units import ANALYSIS_RATE_HZ, FRAME_RATE_HZ

if TYPE_CHECKING:
    from menura.types import FloatArray

SUFFIX = ".safetensors"
KINDS = ("own", "aligned", "perturbed")
_CPU = torch.device("cpu")
_VERSION = 3
"""Of the features themselves: a change of their computation makes old ones worthless."""


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
        with _opened(path) as (file, speaker):
            return cls(path=path, speaker=speaker, frames=file.get_slice("f0_hz").get_shape()[0])


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, str]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            yield file, (file.metadata() or {})["speaker"]
    except (SafetensorError, OSError, KeyError) as error:
        raise TrainingError(path, "damaged features", "Delete the file and prepare again") from error


def load_features(path: Path) -> ClipFeatures:
    with _opened(path) as (_, speaker):
        tensors = load_file(str(path))
        content = {name.removeprefix("content."): rows for name, rows in tensors.items() if name.startswith("content.")}
        return ClipFeatures(speaker=speaker, audio=tensors["audio"], f0_hz=tensors["f0_hz"], content=content)


def save_features(path: Path, features: ClipFeatures) -> None:
    tensors = {f"content.{kind}": rows.contiguous() for kind, rows in features.content.items()}
    tensors |= {"audio": features.audio.contiguous(), "f0_hz": features.f0_hz.contiguous()}
    write_atomically(path, save(tensors, metadata={"speaker": features.speaker}))


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

    def extract_all(self, clips: Sequence[ClipSource]) -> list[ClipFeatures]:
        """All features of some clips, whose equally long windows share passes.

        Raises:
            TrainingError: one is shorter than half a second.
        """
        varied = [list(self._variants(clip)) for clip in clips]
        spoken = [resample(clip.samples, clip.rate, ANALYSIS_RATE_HZ) for clip in clips]
        own = analyse_clips(spoken, self.encoder, self.estimator, self.device)
        samples = [samples for variants in varied for _, samples, _ in variants]
        others = iter(analyse_clips(samples, self.encoder, None, self.device))
        return [
            self._features(clip, analysis, [(kind, next(others).content, speed) for kind, _, speed in variants])
            for clip, analysis, variants in zip(clips, own, varied, strict=True)
        ]

    def _variants(self, clip: ClipSource) -> Iterator[tuple[str, FloatArray, float]]:
        """Kind, (samples,) at 16 kHz, speed."""
        for other in clip.aligned:
            yield "aligned", resample(other, clip.rate, ANALYSIS_RATE_HZ), 1.0
        rng = np.random.default_rng(clip.seed)
        for samples in [clip.samples] * self.perturbed_variants + list(clip.aligned):
            yield "perturbed", *perturb(samples, clip.rate, rng)

    def _features(
        self, clip: ClipSource, own: ClipAnalysis, variants: Sequence[tuple[str, FloatArray, float]]
    ) -> ClipFeatures:
        audio, frame_samples = resample(clip.samples, clip.rate, self.sample_rate), self.sample_rate // FRAME_RATE_HZ
        frames = 2 * (len(audio) // (2 * frame_samples))
        if frames < FRAME_RATE_HZ // 2:
            raise TrainingError(clip.speaker, "a clip is shorter than half a second")
        scaled = np.rint(np.clip(audio[: frames * frame_samples], -1, 1) * 32767)
        rows = {"own": [own.content[: frames // 2]]}
        for kind, content, speed in variants:
            rows.setdefault(kind, []).append(at_original_times(content, speed, frames // 2))
        assert own.f0_hz is not None
        return ClipFeatures(
            speaker=clip.speaker,
            audio=torch.from_numpy(scaled.astype(np.int16)),
            f0_hz=torch.from_numpy(own.f0_hz[:frames].copy()),
            content={kind: torch.from_numpy(np.stack(values)).to(torch.float16) for kind, values in rows.items()},
        )


def at_original_times(content: FloatArray, speed: float, vectors: int) -> FloatArray:
    """So many vectors of speech that was played at another speed, interpolated back to the original's time axis."""
    at = (np.arange(vectors) + 0.5) / speed - 0.5
    low = np.clip(np.floor(at).astype(np.int64), 0, len(content) - 1)
    high = np.clip(low + 1, 0, len(content) - 1)
    part = np.clip(at - low, 0, 1).astype(np.float32)[:, None]
    return np.asarray(content[low] * (1 - part) + content[high] * part, dtype=np.float32)


@functools.lru_cache(maxsize=1)
def load_networks(experiment: Experiment, home: Path, device: torch.device) -> Extractor:
    """The same networks as in conversion, once in each process."""
    config, f0 = experiment.synthesizer, experiment.data.f0
    weights, projection = encoder_path(config.content_encoder, home), projection_of(config.version)
    return Extractor(
        encoder=load_encoder(config.content_encoder, weights, device, projection),
        estimator=load_estimator(f0, method_path(f0, home), device),
        sample_rate=config.sample_rate,
        perturbed_variants=experiment.data.perturbed,
        device=device,
    )


def extract_features(
    slices: Sequence[tuple[str, str]], *, folder: Path, experiment: Experiment, home: Path, device: torch.device
) -> list[PreparedSlice]:
    """Compute features of slices (speaker, file) together, or take those that are cached."""
    config, data = experiment.synthesizer, experiment.data
    facts = (_VERSION, config.content_encoder, config.version, data.f0, config.sample_rate, data.perturbed)
    names: list[str] = []
    found: dict[str, ClipFeatures] = {}
    missing: dict[str, ClipSource] = {}
    for speaker, file in slices:
        key = hashlib.sha256(repr(facts).encode() + (folder / file).read_bytes()).hexdigest()[:16]
        name = f"{FEATURES}/{speaker}.{key}{SUFFIX}"
        names.append(name)
        with suppress(TrainingError):  # damaged: computed again
            found[name] = load_features(folder / name)
        if name not in found:
            with whole_slice(folder / file) as path:
                samples, rate = soundfile.read(path, dtype="float32")
            missing[name] = ClipSource(speaker=speaker, samples=samples, rate=rate, seed=int(key[:8], 16))
    made = load_networks(experiment, home, device).extract_all(list(missing.values())) if missing else []
    for name, features in zip(missing, made, strict=True):
        found[name] = features
        save_features(folder / name, features)
    rows = zip(slices, names, strict=True)
    return [_prepared(file, name, found[name], config.sample_rate) for (_, file), name in rows]


@contextmanager
def whole_slice(path: Path) -> Iterator[Path]:
    try:
        yield path
    except (OSError, soundfile.LibsndfileError) as error:
        raise TrainingError(path, "damaged slice", "Delete the file and prepare again") from error


def _prepared(file: str, name: str, features: ClipFeatures, rate: int) -> PreparedSlice:
    audio = features.audio.numpy().astype(np.float32) / np.float32(32767)
    f0 = features.f0_hz.numpy()
    voiced = f0[f0 > 0]
    low, middle, high = np.percentile(voiced, [5, 50, 95]).tolist() if voiced.size else (0.0, 0.0, 0.0)
    return PreparedSlice(
        file=file,
        features=name,
        speaker=features.speaker,
        seconds=features.frames / 100,
        loudness_db=round(loudness_db(audio, rate), 1),
        f0_hz=(round(low, 1), round(middle, 1), round(high, 1)),
        voiced=round(float((f0 > 0).mean()), 3),
    )
