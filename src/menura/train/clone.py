"""A voice from a minute of a person: a starter voice that is trained on for some minutes, then installed."""

from __future__ import annotations

import dataclasses
import math
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from menura.audio.places import AUDIO_SUFFIXES
from menura.content.registry import STARTER
from menura.errors import ErrorDetails, OptionError
from menura.f0.shift import registers_hz
from menura.f0.swift import SwiftEstimator
from menura.options import DEFAULT_VOICE, TRAINING_RATES, CloneOptions, EngineOptions, TrainingOptions
from menura.pipeline.contours import estimated_contour
from menura.pipeline.recording import FileRecording, first_pass
from menura.pipeline.windows import streaming_extent
from menura.system.files import sha256_of, writing
from menura.train import events
from menura.train.create import Created, create_experiment
from menura.train.data.recordings import MINIMUM_S, Recording, find_recordings, survey_dataset
from menura.train.events import OnEvent, ignore
from menura.train.experiment.folder import alone_in, remove_experiment
from menura.train.experiment.settings import EXPERIMENT_FILE, Experiment, load_experiment, save_experiment
from menura.train.session import TrainingSession
from menura.types import FloatArray
from menura.voices.assets import home_folder
from menura.voices.library import ImportRequest, VoiceEntry, find_voice, free_name, import_voices, list_voices

CLONES = "clones"
"""Folder of unfinished ones in the data folder."""
_RECORDINGS = "recordings"
_MOST_S = 600.0
_RATE = "24k"
_STEPS, _BATCH, _LEARNING_RATE = 300, 8, 5e-4
_SAVE_EVERY_STEPS = 100
_SLICE_S = 4.0
_SHARPNESS = 0.3
"""So few steps leave formants blurred."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloned:
    """How a clone ended."""

    training: events.Finished
    voice: VoiceEntry | None = None
    """As it is installed; None where it was cancelled."""


def clone_voice(
    name: str,
    references: Sequence[Path],
    *,
    rights: str,
    options: CloneOptions | None = None,
    engine: EngineOptions | None = None,
    on_event: OnEvent = ignore,
    cancel: threading.Event | None = None,
) -> Cloned:
    """Make a voice of a person from 30 s to 3 minutes of recordings, and install it; or go on where that was stopped.

        voice = clone_voice("me", [Path("me.wav")], rights="my own voice, recorded by me").voice

    Args:
        name: what the voice is to be called.
        references: recordings of one speaker.
        rights: who that is, and what allows the use; kept in the voice.
        options: which voice to adapt, and how long it may take.
        engine: device, threads, data folder.
        on_event: called with every event of `menura.train.events`.
        cancel: ends it after the current step when it is set; the same call goes on.

    Raises:
        MenuraError: as `create_clone` and TrainingSession; the name is taken or impossible.
    """
    options, engine = options or CloneOptions(), engine or EngineOptions()
    home = home_folder(engine.home)
    try:
        folder = home / CLONES / free_name(name, home)
    except OptionError as error:  # a name is no option here
        raise type(error)(None, error.problem, "Take another name, or remove that voice first") from error
    for note in _begun(folder, references, rights, options, home):
        on_event(events.Noted(note=note))
    finished = TrainingSession(folder, None, engine, on_event=on_event, cancel=cancel).run()
    if finished.voice is None:
        return Cloned(training=finished)
    request = ImportRequest(source=finished.voice, home=home, name=name, index=finished.index)
    (result,) = import_voices(request)
    if result.error is not None:
        raise result.error
    _remove(folder)
    return Cloned(training=finished, voice=result.voice)


def _begun(
    folder: Path, references: Sequence[Path], rights: str, options: CloneOptions, home: Path
) -> Sequence[ErrorDetails]:
    """Make the experiment, unless the one that is there is of the same; notes on it."""
    dataset, wanted = folder / _RECORDINGS, _named(references)
    if (folder / EXPERIMENT_FILE).is_file():
        found, experiment = {path.name for path in dataset.glob("*")}, load_experiment(folder)
        same_base = options.base == "auto" or find_voice(options.base, home).name == experiment.warm_start.origin
        if found == wanted.keys() and experiment.data.rights == rights.strip() and same_base:
            schedule = dataclasses.replace(experiment.schedule, longest_s=60 * options.longest)
            with alone_in(folder):
                save_experiment(folder, dataclasses.replace(experiment, schedule=schedule))
            return ()
        remove_experiment(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder):  # before anything is removed: another run may be about to make it
        try:
            with writing(dataset):
                shutil.rmtree(dataset, ignore_errors=True)
                dataset.mkdir()
                for file, path in wanted.items():
                    shutil.copyfile(path, dataset / file)
            return create_clone(folder, dataset=dataset, rights=rights, options=options, home=home).notes
        except BaseException:
            if not (folder / EXPERIMENT_FILE).is_file():
                shutil.rmtree(folder, ignore_errors=True)
            raise


def _named(references: Sequence[Path]) -> dict[str, Path]:
    """Names for copies of recordings, which say what is in them."""
    named = {}
    for path in references:
        if not path.is_file():
            raise OptionError(str(path), "no such recording", "Give recordings (wav, flac, mp3, ...)", "reference")
        suffix = path.suffix.lower()
        named[f"{path.stem}-{sha256_of(path)[:8]}{suffix if suffix in AUDIO_SUFFIXES else '.wav'}"] = path
    return named


def _remove(folder: Path) -> None:
    remove_experiment(folder)
    shutil.rmtree(folder, ignore_errors=True)


def create_clone(folder: Path, *, dataset: Path, rights: str, options: CloneOptions, home: Path) -> Created:
    """Make the experiment that a session turns into a clone of the speaker of a folder's recordings.

    Raises:
        TrainingError: there is an experiment already; the recordings can't be read, or are too short.
        OptionError: they are longer than is sensible; the voice to begin with is none of Menura's own kind.
        MenuraError: as `create_experiment`.
    """
    found = find_recordings(dataset, ("",), by_folder=False)
    facts = survey_dataset(found, TRAINING_RATES[_RATE])
    if facts.total_s > _MOST_S:
        problem = f"{facts.total_s / 60:.0f} minutes are more than a clone can use"
        advice = "Choose three of them; to learn from all, use 'menura train new'"
        raise OptionError(None, problem, advice, "reference")
    device = torch.device("cpu")
    estimator = SwiftEstimator.load(device)
    f0_hz = np.concatenate([estimated_contour(FileRecording(each.path), estimator, device) for each in found])
    training = TrainingOptions(
        content=STARTER,
        sample_rate=_RATE,
        base=nearest_voice(f0_hz, home) if options.base == "auto" else options.base,
        slice_length=_SLICE_S,
        steps=_STEPS,
        batch_size=_BATCH,
        learning_rate=_LEARNING_RATE,
        patience=0,
        keep=1,
    )

    def adapted(experiment: Experiment) -> Experiment:
        # No slice is kept for validation: the mel distance, by which weights would be chosen, likes blurred formants.
        schedule = dataclasses.replace(
            experiment.schedule,
            longest_s=60 * options.longest,
            evaluate_every_steps=None,
            save_every_steps=_SAVE_EVERY_STEPS,
        )
        data = dataclasses.replace(experiment.data, held_out=0.0, least_s=MINIMUM_S)
        return dataclasses.replace(experiment, schedule=schedule, data=data, sharpness=_SHARPNESS)

    made = create_experiment(folder, dataset=dataset, rights=rights, options=training, home=home, adapted=adapted)
    return dataclasses.replace(made, notes=(*made.notes, *_unclear(found), *_two_speakers(f0_hz)))


def _unclear(recordings: Sequence[Recording]) -> tuple[ErrorDetails, ...]:
    """A note where there is noise or an echo in one of them."""
    for recording in recordings:
        if first_pass(FileRecording(recording.path), None, streaming_extent).unclear:
            problem = "there is noise, or an echo, which the voice will learn too"
            advice = "Record in a quiet room without echoes, near the microphone"
            return (ErrorDetails(kind="note", subject=recording.relative, problem=problem, advice=advice),)
    return ()


def _two_speakers(f0_hz: FloatArray) -> tuple[ErrorDetails, ...]:
    """A note where F0 is that of two people, or of one who speaks and sings."""
    if len(registers := sorted(registers_hz(f0_hz))) < 2:
        return ()
    problem = f"there are two registers or speakers, around {registers[0]:.0f} and {registers[1]:.0f} Hz"
    return (ErrorDetails(kind="note", problem=problem, advice="Take recordings of one speaker alone"),)


def nearest_voice(f0_hz: FloatArray, home: Path) -> str:
    """The starter voice whose median pitch is nearest to that of (frames,) F0, 0 where unvoiced."""
    voiced = f0_hz[f0_hz > 0]
    known = {voice.name: voice.f0_median_hz for voice in list_voices(home) if voice.builtin and voice.f0_median_hz}
    if not len(voiced) or not known:
        return DEFAULT_VOICE
    own_hz = float(np.median(voiced))
    return min(known, key=lambda name: abs(math.log(known[name] / own_hz)))
