"""From a folder of recordings to slices and features: parallel, restartable, with a report of what the data are."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from menura.audio.decode import open_audio
from menura.audio.envelope import within_full_scale
from menura.audio.resample import resample
from menura.errors import AudioError, TrainingError, details_of
from menura.train.data.denoise import denoised
from menura.train.data.extraction import (
    FeatureJob,
    NetworkNames,
    extract_features,
    load_networks,
    unload_networks,
    whole_slice,
)
from menura.train.data.recordings import Recording, find_recordings
from menura.train.data.report import (
    Dropped,
    Preparation,
    PreparedSlice,
    SlicedRecording,
    by_speaker,
    load_preparation,
    reasons_against,
    save_preparation,
    save_report,
)
from menura.train.data.slicing import (
    NEAR_SILENT,
    fault_of,
    high_passed,
    loudness_db,
    normalised,
    spans_by_silence,
    spans_of_chunks,
)
from menura.train.data.workers import run_all
from menura.train.events import OnEvent, Preparing
from menura.train.experiment.folder import FEATURES, SLICES
from menura.train.experiment.settings import DataSettings, Experiment, built, write_atomically

if TYPE_CHECKING:
    from menura.types import FloatArray

_UNCUT_S = 30.0
"""Recordings that are said to be slices are still cut where they are longer."""
_TOGETHER = 8
"""Slices that one pass over the networks takes; a run that is killed loses no more."""
_MOST_VALIDATED = 8
"""Slices of a speaker."""
_FEWEST_TO_VALIDATE = 8
"""Of fewer slices none is kept for validation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceJob:
    recording: Recording
    folder: Path
    settings: DataSettings
    sample_rate: int


def is_prepared(folder: Path, experiment: Experiment) -> bool:
    """Whether everything was prepared with the settings that the experiment has now, and is still there."""
    done = load_preparation(folder)
    return (
        done is not None
        and done.settings_key == settings_key(experiment)
        and all((folder / item.features).is_file() for item in done.slices)
    )


def prepare(
    folder: Path,
    experiment: Experiment,
    *,
    home: Path | None,
    workers: int,
    on_event: OnEvent,
    device: str,
) -> Preparation:
    """Cut what isn't cut and compute what isn't computed: on other devices than "cpu" in this process alone.

    Raises:
        TrainingError: nothing usable is left of a speaker; the report says why.
        AssetMissingError: a network's weights are not installed.
    """
    settings = experiment.data
    rate = experiment.synthesizer.sample_rate
    networks = NetworkNames.of(experiment, home, device)
    recordings = find_recordings(Path(settings.dataset), experiment.speakers, by_folder=settings.by_folder)
    jobs = [SliceJob(recording=r, folder=folder, settings=settings, sample_rate=rate) for r in recordings]
    sliced: list[SlicedRecording] = []
    for done in run_all(slice_recording, jobs, workers=workers):
        sliced.append(done)
        on_event(Preparing(stage=SLICES, done=len(sliced), total=len(jobs)))
    slices = _computed(folder, sliced, networks, workers, on_event)
    made = Preparation(
        settings_key=settings_key(experiment),
        recordings=tuple(sliced),
        slices=_with_held_out(slices, settings.held_out),
    )
    _check_speakers(folder, experiment.speakers, made)
    save_preparation(folder, made)
    return made


def _check_speakers(folder: Path, speakers: Sequence[str], made: Preparation) -> None:
    """Raise TrainingError, and write the report, where nothing is left of a speaker."""
    empty = sorted(set(speakers) - {item.speaker for item in made.slices})
    if not empty:
        return
    path = save_report(folder, made)
    faults = Counter(fault for item in made.recordings if item.speaker in empty for fault in reasons_against(item))
    raise TrainingError(
        ", ".join(empty),
        f"no usable recordings: {', '.join(f'{count} {fault}' for fault, count in sorted(faults.items()))}",
        f"See {path}",
    )


def settings_key(experiment: Experiment) -> str:
    """Changes with everything that slices and features depend on."""
    facts = dataclasses.asdict(experiment.data)
    for name in ("dataset", "rights"):
        facts.pop(name)
    if not facts["denoise"]:  # as it was before there was such a setting
        facts.pop("denoise")
    config = experiment.synthesizer
    text = json.dumps([facts, experiment.speakers, config.sample_rate, config.content_encoder, config.version])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def slice_recording(job: SliceJob) -> SlicedRecording:
    """Cut one recording into FLAC files, or take what an earlier run made of it."""
    path, settings = job.recording.path, job.settings
    folder = job.folder / SLICES / job.recording.speaker
    try:
        key = _recording_key(path, settings, job.sample_rate)
        mark = folder / f"{key}.json"
        known = _known(mark)
        if known is not None and all((job.folder / name).is_file() for name in known.files):
            return dataclasses.replace(known, source=job.recording.relative)
        reader = open_audio(path)
        rate = reader.info.sample_rate
        samples = within_full_scale(np.concatenate(list(reader.blocks(rate))))
    except (AudioError, OSError) as error:
        fault = details_of(error).text()
        return SlicedRecording(source=job.recording.relative, speaker=job.recording.speaker, fault=fault)
    made = _cut(job, samples, rate, stem=f"{SLICES}/{job.recording.speaker}/{key}")
    write_atomically(mark, json.dumps(dataclasses.asdict(made)).encode())
    return made


def _known(mark: Path) -> SlicedRecording | None:
    try:
        known: SlicedRecording = built(SlicedRecording, json.loads(mark.read_bytes()))
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return None  # unknown, or damaged
    return known


def _recording_key(path: Path, settings: DataSettings, rate: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    cutting: tuple[object, ...] = (
        settings.slicing, settings.slice_s, settings.overlap_s, settings.loudness, settings.high_pass, rate,
    )  # fmt: skip
    if settings.denoise:
        cutting = (*cutting, settings.denoise)
    digest.update(repr(cutting).encode())
    return digest.hexdigest()[:16]


def _cut(job: SliceJob, samples: FloatArray, rate: int, *, stem: str) -> SlicedRecording:
    settings = job.settings
    original = samples
    if settings.high_pass:
        samples = high_passed(samples, rate)
    if settings.denoise:
        samples = denoised(samples, rate, settings.denoise)
    if settings.loudness == "before":
        samples = normalised(samples, rate)
    files, dropped = [], []
    spans = _spans(original, rate, settings)
    if not spans:
        dropped.append(Dropped(start_s=0.0, end_s=len(samples) / rate, fault=NEAR_SILENT))
    for number, span in enumerate(spans):
        fault = fault_of(original[span], rate)
        if fault is not None:
            dropped.append(Dropped(start_s=span.start / rate, end_s=span.stop / rate, fault=fault))
            continue
        part = samples[span]
        if settings.loudness == "after":
            part = normalised(part, rate)
        name = f"{stem}.{number:04d}.flac"
        _write_flac(job.folder / name, resample(part, rate, job.sample_rate), job.sample_rate)
        files.append(name)
    return SlicedRecording(
        source=job.recording.relative,
        speaker=job.recording.speaker,
        seconds=len(samples) / rate,
        rate=rate,
        loudness_db=round(loudness_db(original, rate), 1),
        files=tuple(files),
        dropped=tuple(dropped),
    )


def _spans(samples: FloatArray, rate: int, settings: DataSettings) -> Sequence[slice]:
    if settings.slicing == "chunks":
        return spans_of_chunks(len(samples), rate, settings.slice_s, settings.overlap_s)
    if settings.slicing == "silence":
        return spans_by_silence(samples, rate, settings.slice_s)
    return spans_of_chunks(len(samples), rate, _UNCUT_S, 0.0)


def _write_flac(path: Path, samples: FloatArray, rate: int) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(samples, -1, 1), rate, format="FLAC", subtype="PCM_24")
    write_atomically(path, buffer.getvalue())


def _computed(
    folder: Path,
    sliced: Sequence[SlicedRecording],
    networks: NetworkNames,
    workers: int,
    on_event: OnEvent,
) -> list[PreparedSlice]:
    jobs = [
        FeatureJob(folder=folder, slice_file=file, speaker=recording.speaker, networks=networks)
        for recording in sliced
        for file in recording.files
    ]
    if networks.device != "cpu":
        workers = 1
    made: list[PreparedSlice | None] = [None] * len(jobs)
    portions, count = _portions(jobs, workers), 0
    rows = [[jobs[number] for number in portion] for portion in portions]
    results = run_all(extract_features, rows, workers=workers, prepare=load_networks, using=networks)
    for portion, done in zip(portions, results, strict=True):
        for number, result in zip(portion, done, strict=True):
            made[number] = result
        count += len(portion)
        on_event(Preparing(stage=FEATURES, done=count, total=len(jobs)))
    unload_networks()
    return [item for item in made if item is not None]


def _portions(jobs: Sequence[FeatureJob], workers: int) -> list[list[int]]:
    """Which jobs go through the networks together: such of about equal length, whose windows share passes.

    Smaller where there would be too few for all workers.
    """
    size = max(1, min(_TOGETHER, len(jobs) // (2 * workers)))
    order = sorted(range(len(jobs)), key=lambda number: _length(jobs[number]))
    return [order[begin : begin + size] for begin in range(0, len(order), size)]


def _length(job: FeatureJob) -> int:
    with whole_slice(job):
        return int(soundfile.info(job.folder / job.slice_file).frames)


def _with_held_out(slices: Sequence[PreparedSlice], share: float) -> tuple[PreparedSlice, ...]:
    """A share of each speaker's slices is marked: the first by the hash of their content, the same in every run."""
    held: set[str] = set()
    for own in by_speaker(slices).values():
        names = sorted({item.features for item in own})
        if share > 0 and len(names) >= _FEWEST_TO_VALIDATE:
            held.update(names[: max(1, min(_MOST_VALIDATED, round(share * len(names))))])
    return tuple(dataclasses.replace(item, held_out=item.features in held) for item in slices)
