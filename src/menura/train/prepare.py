"""Recordings of a speaker to prepared clips: cut at quiet places, silence dropped, features computed; resumable."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from menura.audio.decode import open_audio
from menura.audio.listing import Selection, audio_files
from menura.errors import TrainingError
from menura.train.features import SUFFIX, ClipSource, Extractor, save_features

if TYPE_CHECKING:
    from menura.types import FloatArray

SHORTEST_S = 1.0
LONGEST_S = 8.0
_SEARCH_S = 3.0
_WINDOW_S = 0.05
_SILENCE_DB = -50.0
"""Clips whose loudest tenth of a second is below this level (of full scale) are left out."""
_DONE = ".done"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What became of one recording."""

    path: Path
    clips: int
    seconds: float
    skipped: bool
    """It had been prepared before."""


def cut_points(samples: FloatArray, rate: int) -> list[int]:
    """Borders of clips of at most LONGEST_S, each at the quietest place of the last seconds allowed.

    Args:
        samples: (samples,)
        rate: Hz.

    Returns:
        Samples, from 0 to the recording's end.
    """
    longest, search, window = int(LONGEST_S * rate), int(_SEARCH_S * rate), max(1, int(_WINDOW_S * rate))
    points = [0]
    while len(samples) - points[-1] > longest:
        low = points[-1] + longest - search
        energy = np.convolve(samples[low : points[-1] + longest] ** 2, np.ones(window), mode="valid")
        points.append(low + int(np.argmin(energy)) + window // 2)
    return [*points, len(samples)]


def clips_of(samples: FloatArray, rate: int) -> Iterator[FloatArray]:
    """The clips of a recording that hold sound."""
    points = cut_points(samples, rate)
    tenth = max(1, rate // 10)
    for start, end in itertools.pairwise(points):
        clip = samples[start:end]
        if len(clip) < SHORTEST_S * rate:
            continue
        blocks = clip[: len(clip) // tenth * tenth].reshape(-1, tenth)
        if 10 * np.log10(np.mean(blocks**2, axis=1).max() + 1e-12) > _SILENCE_DB:
            yield clip


def prepare(
    folder: Path,
    speaker: str,
    recordings: Sequence[Path | str],
    extractor: Extractor,
    report: Callable[[Prepared], None],
) -> None:
    """Prepare every recording of a speaker that wasn't yet.

    Args:
        folder: the experiment's.
        speaker: one of its speakers.
        recordings: files, folders (searched with the folders in them) or patterns.
        extractor: computes the features.
        report: called for every recording.

    Raises:
        TrainingError: there is nothing to read, or a recording can't be.
    """
    found = audio_files(recordings, Selection(recursive=True))
    errors = [item.error for item in found if item.error]
    if errors or not found:
        raise TrainingError(errors[0] if errors else "no recordings were given.")
    for item in found:
        report(_prepare_one(folder / "features", speaker, item.path, extractor))


def _prepare_one(features: Path, speaker: str, path: Path, extractor: Extractor) -> Prepared:
    with open_audio(path) as reader:
        stem = f"{speaker}.{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
        mark = features / f"{stem}{_DONE}"
        if mark.exists():
            return Prepared(path=path, clips=0, seconds=0.0, skipped=True)
        rate = reader.info.sample_rate
        samples = np.concatenate(list(reader.blocks(rate)))
    features.mkdir(parents=True, exist_ok=True)
    clips = list(clips_of(samples, rate))
    for number, clip in enumerate(clips):
        target = features / f"{stem}.{number:04d}{SUFFIX}"
        if not target.exists():
            save_features(target, extractor.extract(ClipSource(speaker=speaker, samples=clip, rate=rate, seed=number)))
    mark.touch()
    return Prepared(path=path, clips=len(clips), seconds=sum(map(len, clips)) / rate, skipped=False)
