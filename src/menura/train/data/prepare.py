"""From a folder of recordings to slices and features: parallel, restartable, with a report of what the data are."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import soundfile

from menura.audio.decode import open_audio
from menura.audio.envelope import within_full_scale
from menura.audio.processor import resample
from menura.content.registry import encoder_path
from menura.errors import AudioError, TrainingError, details_of
from menura.f0.registry import method_path
from menura.system.memory import free_memory
from menura.system.processes import run_all
from menura.train.data import slicing
from menura.train.data.features import extract_features, load_networks, whole_slice
from menura.train.data.recordings import Recording, find_recordings
from menura.train.data.report import (
    Dropped,
    Preparation,
    PreparedSlice,
    SlicedRecording,
    by_speaker,
    load_preparation,
    save_preparation,
    save_report,
)
from menura.train.events import OnEvent, Preparing
from menura.train.experiment.folder import FEATURES, SLICES
from menura.train.experiment.settings import (
    DataSettings,
    Experiment,
    read_dataclass,
    write_atomically,
    write_dataclass,
)

if TYPE_CHECKING:
    import torch

    from menura.types import FloatArray

SliceFile: TypeAlias = tuple[str, str]
"""Speaker, and file below the experiment's folder."""
_UNCUT_S = 30.0
"""Recordings that are said to be slices are still cut where they are longer."""
_TOGETHER = 8
"""Slices that one pass over the networks takes; a run that is killed loses no more."""
_MOST_VALIDATED, _FEWEST_TO_VALIDATE = 8, 8
"""Slices of a speaker; of fewer none is kept for validation."""


def is_prepared(folder: Path, experiment: Experiment) -> bool:
    """Whether everything was prepared with the settings that the experiment has now, and is still there."""
    done = load_preparation(folder)
    if done is None or done.settings_key != settings_key(experiment):
        return False
    return all((folder / item.features).is_file() for item in done.slices)


def prepare(
    folder: Path, experiment: Experiment, *, home: Path, workers: int, on_event: OnEvent, device: torch.device
) -> Preparation:
    """Cut what isn't cut and compute what isn't computed: on other devices than the CPU in this process alone.

    Raises:
        TrainingError: nothing usable is left of a speaker; the report says why.
        AssetMissingError: a network's weights are not installed.
    """
    settings, config = experiment.data, experiment.synthesizer
    encoder_path(config.content_encoder, home)
    method_path(settings.f0, home)
    recordings = find_recordings(Path(settings.dataset), experiment.speakers, by_folder=settings.by_folder)
    cut = partial(slice_recording, folder=folder, settings=settings, sample_rate=config.sample_rate)
    sliced: list[SlicedRecording] = []
    for done in run_all(cut, recordings, workers=workers):
        sliced.append(done)
        on_event(Preparing(stage=SLICES, done=len(sliced), total=len(recordings)))
    extract = partial(extract_features, folder=folder, experiment=experiment, home=home, device=device)
    files = [(recording.speaker, file) for recording in sliced for file in recording.files]
    made = _in_portions(extract, files, folder, workers if device.type == "cpu" else 1, on_event)
    load_networks.cache_clear()  # training needs the memory
    free_memory(device)
    slices = _with_held_out([made[file] for file in files], settings.held_out)
    prepared = Preparation(settings_key=settings_key(experiment), recordings=tuple(sliced), slices=slices)
    _check_speakers(folder, experiment, prepared)
    save_preparation(folder, prepared)
    return prepared


def _in_portions(
    extract: Callable[[Sequence[SliceFile]], list[PreparedSlice]],
    files: Sequence[SliceFile],
    folder: Path,
    workers: int,
    on_event: OnEvent,
) -> dict[SliceFile, PreparedSlice]:
    """Slices of about equal length go through the networks together: their windows share passes."""

    def length(file: SliceFile) -> int:
        with whole_slice(folder / file[1]) as path:
            return int(soundfile.info(path).frames)

    ordered = sorted(dict.fromkeys(files), key=length)
    size = max(1, min(_TOGETHER, len(ordered) // (2 * workers)))  # smaller where they would be too few for all workers
    portions = [ordered[begin : begin + size] for begin in range(0, len(ordered), size)]
    made: dict[SliceFile, PreparedSlice] = {}
    for portion, results in zip(portions, run_all(extract, portions, workers=workers), strict=True):
        made |= zip(portion, results, strict=True)
        on_event(Preparing(stage=FEATURES, done=len(made), total=len(ordered)))
    return made


def _with_held_out(slices: Sequence[PreparedSlice], share: float) -> tuple[PreparedSlice, ...]:
    """A share of each speaker's slices is marked: the first by the hash of their content, the same in every run."""
    held: set[str] = set()
    for own in by_speaker(slices).values():
        names = sorted({item.features for item in own})
        if share > 0 and len(names) >= _FEWEST_TO_VALIDATE:
            held.update(names[: max(1, min(_MOST_VALIDATED, round(share * len(names))))])
    return tuple(dataclasses.replace(item, held_out=item.features in held) for item in slices)


def _check_speakers(folder: Path, experiment: Experiment, made: Preparation) -> None:
    """Raise TrainingError, and write the report, where nothing is left of a speaker, or too little."""
    empty = sorted(set(experiment.speakers) - {item.speaker for item in made.slices})
    for speaker in experiment.speakers:
        if speaker not in empty and (found_s := made.seconds(speaker)) < (least_s := experiment.data.least_s):
            problem = f"{found_s:.1f} s of usable speech are too little; at least {least_s:.0f} s are needed"
            raise TrainingError(speaker, problem, f"{save_report(folder, made)} says what was left out")
    if not empty:
        return
    faults: Counter[str] = Counter()
    for item in made.recordings:
        if item.speaker in empty:
            faults.update(["unreadable"] if item.fault else {part.fault for part in item.dropped} or ["too short"])
    reasons = ", ".join(f"{count} {fault}" for fault, count in sorted(faults.items()))
    raise TrainingError(", ".join(empty), f"no usable recordings: {reasons}", f"See {save_report(folder, made)}")


def settings_key(experiment: Experiment) -> str:
    """Changes with everything that slices and features depend on."""
    facts = dataclasses.asdict(experiment.data)
    del facts["dataset"], facts["rights"], facts["least_s"]
    if not facts["denoise"]:  # as it was before there was such a setting
        del facts["denoise"]
    config = experiment.synthesizer
    text = json.dumps([facts, experiment.speakers, config.sample_rate, config.content_encoder, config.version])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def slice_recording(recording: Recording, *, folder: Path, settings: DataSettings, sample_rate: int) -> SlicedRecording:
    """Cut one recording into FLAC files, or take what an earlier run made of it."""
    try:
        stem = f"{SLICES}/{recording.speaker}/{_recording_key(recording.path, settings, sample_rate)}"
        mark = folder / f"{stem}.json"
        with suppress(OSError, ValueError):  # unknown, or damaged
            known = read_dataclass(SlicedRecording, mark, most_bytes=1 << 30)
            if all((folder / name).is_file() for name in known.files):
                return dataclasses.replace(known, source=recording.relative)
        reader = open_audio(recording.path)
        rate = reader.info.sample_rate
        samples = within_full_scale(np.concatenate(list(reader.blocks(rate))))
    except (AudioError, OSError) as error:
        fault = details_of(error).text()
        return SlicedRecording(source=recording.relative, speaker=recording.speaker, fault=fault)
    files, dropped = _write_slices(samples, rate, settings, folder / stem, sample_rate)
    made = SlicedRecording(
        source=recording.relative,
        speaker=recording.speaker,
        seconds=len(samples) / rate,
        rate=rate,
        loudness_db=round(slicing.loudness_db(samples, rate), 1),
        files=tuple(path.relative_to(folder).as_posix() for path in files),
        dropped=tuple(dropped),
    )
    write_dataclass(mark, made)
    return made


def _recording_key(path: Path, settings: DataSettings, rate: int) -> str:
    cutting = (settings.slicing, settings.slice_s, settings.overlap_s, settings.loudness, settings.high_pass, rate)
    facts = (*cutting, settings.denoise) if settings.denoise else cutting
    digest = hashlib.sha256(path.read_bytes())
    digest.update(repr(facts).encode())
    return digest.hexdigest()[:16]


def _write_slices(
    samples: FloatArray, rate: int, settings: DataSettings, stem: Path, sample_rate: int
) -> tuple[list[Path], list[Dropped]]:
    treated = slicing.high_passed(samples, rate) if settings.high_pass else samples
    treated = slicing.denoised(treated, rate, settings.denoise)
    if settings.loudness == "before":
        treated = slicing.normalised(treated, rate)
    spans = _spans(samples, rate, settings)
    files: list[Path] = []
    dropped = [] if spans else [Dropped(start_s=0.0, end_s=len(samples) / rate, fault=slicing.NEAR_SILENT)]
    for number, span in enumerate(spans):
        if (fault := slicing.fault_of(samples[span], rate)) is not None:
            dropped.append(Dropped(start_s=span.start / rate, end_s=span.stop / rate, fault=fault))
            continue
        part = slicing.normalised(treated[span], rate) if settings.loudness == "after" else treated[span]
        part, buffer = resample(part, rate, sample_rate), io.BytesIO()
        soundfile.write(buffer, np.clip(part, -1, 1), sample_rate, format="FLAC", subtype="PCM_24")
        files.append(stem.with_name(f"{stem.name}.{number:04d}.flac"))
        write_atomically(files[-1], buffer.getvalue())
    return files, dropped


def _spans(samples: FloatArray, rate: int, settings: DataSettings) -> Sequence[slice]:
    if settings.slicing == "silence":
        return slicing.spans_by_silence(samples, rate, settings.slice_s)
    length_s, overlap_s = (settings.slice_s, settings.overlap_s) if settings.slicing == "chunks" else (_UNCUT_S, 0.0)
    return slicing.spans_of_chunks(len(samples), rate, length_s, overlap_s)
