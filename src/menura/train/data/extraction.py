"""What a worker process does to a slice: the same networks as in conversion, loaded once in each process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch

from menura.content.registry import encoder_path, load_encoder, projection_of
from menura.errors import TrainingError
from menura.f0.registry import load_estimator, method_path
from menura.train.data.features import SUFFIX, ClipFeatures, ClipSource, Extractor, load_features, save_features
from menura.train.data.report import PreparedSlice
from menura.train.data.slicing import loudness_db
from menura.train.experiment.folder import FEATURES
from menura.train.experiment.settings import Experiment

_VERSION = 3
"""Of the features themselves: a change of their computation makes old ones worthless."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkNames:
    content: str
    version: str
    content_path: str
    f0: str
    f0_path: str
    sample_rate: int
    perturbed: int
    """Variants of each slice's content."""
    device: str

    @classmethod
    def of(cls, experiment: Experiment, home: Path | None, device: str) -> NetworkNames:
        """An experiment's networks, to be run on a device."""
        config = experiment.synthesizer
        return cls(
            content=config.content_encoder,
            version=config.version,
            content_path=str(encoder_path(config.content_encoder, home)),
            f0=experiment.data.f0,
            f0_path=str(method_path(experiment.data.f0, home)),
            sample_rate=config.sample_rate,
            perturbed=experiment.data.perturbed,
            device=device,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureJob:
    folder: Path
    slice_file: str
    """Below the experiment's folder."""
    speaker: str
    networks: NetworkNames


_loaded: dict[NetworkNames, Extractor] = {}


def load_networks(names: NetworkNames) -> None:
    if names not in _loaded:
        _loaded.clear()
        device = torch.device(names.device)
        _loaded[names] = Extractor(
            encoder=load_encoder(names.content, Path(names.content_path), device, projection_of(names.version)),
            estimator=load_estimator(names.f0, Path(names.f0_path), device, threads=torch.get_num_threads()),
            sample_rate=names.sample_rate,
            perturbed_variants=names.perturbed,
            device=device,
        )


def unload_networks() -> None:
    """Free this process's networks: training needs the memory."""
    _loaded.clear()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _content_key(job: FeatureJob, data: bytes) -> str:
    names = job.networks
    facts = (_VERSION, names.content, names.version, names.f0, names.sample_rate, names.perturbed)
    return hashlib.sha256(repr(facts).encode() + data).hexdigest()[:16]


def _cached(target: Path) -> ClipFeatures | None:
    if not target.is_file():
        return None
    try:
        return load_features(target)
    except TrainingError:
        return None  # damaged: computed again


def extract_features(jobs: Sequence[FeatureJob]) -> list[PreparedSlice | None]:
    """Compute features of slices for the same networks together, or take those that are cached; None: too short."""
    data = [(job.folder / job.slice_file).read_bytes() for job in jobs]
    keys = [_content_key(job, content) for job, content in zip(jobs, data, strict=True)]
    names = [f"{FEATURES}/{job.speaker}.{key}{SUFFIX}" for job, key in zip(jobs, keys, strict=True)]
    found = [_cached(job.folder / name) for job, name in zip(jobs, names, strict=True)]
    missing = [number for number, features in enumerate(found) if features is None]
    if missing:
        made = _extracted([jobs[number] for number in missing], [int(keys[number][:8], 16) for number in missing])
        for number, features in zip(missing, made, strict=True):
            found[number] = features
            if features is not None:
                save_features(jobs[number].folder / names[number], features)
    rows = zip(jobs, names, found, strict=True)
    return [None if features is None else _result(job, name, features) for job, name, features in rows]


@contextmanager
def whole_slice(job: FeatureJob) -> Iterator[None]:
    try:
        yield
    except (OSError, soundfile.LibsndfileError) as error:
        path = job.folder / job.slice_file
        raise TrainingError(path, "damaged slice", "Delete the file and prepare again") from error


def _extracted(jobs: Sequence[FeatureJob], seeds: Sequence[int]) -> list[ClipFeatures | None]:
    networks = jobs[0].networks
    load_networks(networks)
    clips = []
    for job, seed in zip(jobs, seeds, strict=True):
        with whole_slice(job):
            samples, rate = soundfile.read(job.folder / job.slice_file, dtype="float32")
        clips.append(ClipSource(speaker=job.speaker, samples=samples, rate=rate, seed=seed))
    return _loaded[networks].extract_all(clips)


def _result(job: FeatureJob, name: str, features: ClipFeatures) -> PreparedSlice:
    audio = features.audio.numpy().astype(np.float32) / np.float32(32767)
    f0 = features.f0_hz.numpy()
    voiced = f0[f0 > 0]
    low, middle, high = np.percentile(voiced, [5, 50, 95]).tolist() if voiced.size else (0.0, 0.0, 0.0)
    return PreparedSlice(
        file=job.slice_file,
        features=name,
        speaker=job.speaker,
        seconds=features.frames / 100,
        loudness_db=round(loudness_db(audio, job.networks.sample_rate), 1),
        f0_hz=(round(low, 1), round(middle, 1), round(high, 1)),
        voiced=round(float((f0 > 0).mean()), 3),
    )
