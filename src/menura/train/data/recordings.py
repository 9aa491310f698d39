"""Which recordings a data set has, whose they are, and whether they are enough to begin with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from menura.audio.decode import open_audio
from menura.audio.places import AUDIO_SUFFIXES
from menura.errors import AudioError, ErrorDetails, TrainingError
from menura.train.experiment.folder import FEATURES, LOGS, SLICES, VOICE
from menura.train.experiment.settings import EXPERIMENT_FILE

MINIMUM_S = 10.0
"""Less sound than this makes no voice."""
ADVISED_S = 300.0
"""Less than this seldom makes a good one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    speaker: str
    path: Path
    relative: str
    """Below the data set's folder, with slashes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFacts:
    seconds: dict[str, float]
    """By speaker."""
    unreadable: tuple[ErrorDetails, ...]
    low_rate: tuple[str, ...]
    """Files whose rate is below the voice's: they have no sound at its top."""

    @property
    def total_s(self) -> float:
        return sum(self.seconds.values())


def speakers_of(dataset: Path, name: str) -> tuple[str, ...]:
    """The speakers of a data set: its sub-folders where all recordings lie in them, else one."""
    paths = _audio_below(dataset)
    folders = sorted({path.relative_to(dataset).parts[0] for path in paths if path.parent != dataset})
    alone = any(path.parent == dataset for path in paths) or len(folders) < 2
    return (name,) if alone else tuple(folders)


def find_recordings(dataset: Path, speakers: Sequence[str], *, by_folder: bool) -> list[Recording]:
    """All recordings of a data set, sorted."""
    found = []
    for path in _audio_below(dataset):
        relative = path.relative_to(dataset)
        speaker = relative.parts[0] if by_folder else speakers[0]
        if speaker in speakers:
            found.append(Recording(speaker=speaker, path=path, relative=relative.as_posix()))
    missing = set(speakers) - {recording.speaker for recording in found}
    if missing:
        raise TrainingError(dataset, f"has no recordings of {', '.join(sorted(missing))} any more", "Put them back")
    return found


def _audio_below(dataset: Path) -> list[Path]:
    """Recordings, but no hidden ones and none that an experiment made, such as its slices."""
    if not dataset.is_dir():
        raise TrainingError(dataset, "no such folder", "Give the folder of the recordings with {dataset}", "dataset")
    below = sorted(dataset.rglob("*"))
    experiments = {path.parent for path in below if path.name == EXPERIMENT_FILE}
    made = {dataset / name for name in (SLICES, FEATURES, LOGS, VOICE)} if dataset in experiments else set()
    made |= experiments - {dataset}
    paths = [
        path
        for path in below
        if path.suffix.lower() in AUDIO_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(dataset).parts)
        and made.isdisjoint(path.parents)
        and path.is_file()
    ]
    if not paths:
        raise TrainingError(dataset, "contains no recordings (wav, flac, mp3, ...)", option="dataset")
    return paths


def survey_dataset(recordings: Sequence[Recording], sample_rate: int) -> DatasetFacts:
    """Read the headers of all recordings, and those whole whose header gives no length."""
    seconds = {recording.speaker: 0.0 for recording in recordings}
    unreadable, low = [], []
    for recording in recordings:
        try:
            reader = open_audio(recording.path)
            seconds[recording.speaker] += reader.length_samples() / reader.info.sample_rate
        except AudioError as error:
            unreadable.append(error.details)
            continue
        if reader.info.sample_rate < sample_rate:
            low.append(recording.relative)
    if len(unreadable) == len(recordings):
        problem = f"{unreadable[0].problem}; none of {len(recordings)} recordings can be read"
        raise TrainingError(unreadable[0].subject, problem, unreadable[0].advice)
    for speaker, length_s in seconds.items():
        if length_s < MINIMUM_S:
            raise TrainingError(
                speaker,
                f"{length_s:.1f} s of recordings are too little to train a voice",
                f"At least {MINIMUM_S:.0f} s are needed; {ADVISED_S / 60:.0f} minutes or more are better",
            )
    return DatasetFacts(seconds=seconds, unreadable=tuple(unreadable), low_rate=tuple(low))
