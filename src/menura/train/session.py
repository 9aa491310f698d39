"""Training as a session: what is missing is done, events report it, and nothing is printed."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from pathlib import Path

import torch

from menura.errors import ErrorDetails
from menura.options import EngineOptions, RunOptions, TrainingOptions
from menura.system.device import configure_torch, flushed_denormals, physical_cores, resolve_device
from menura.system.gpu import lasting_errors
from menura.system.memory import enough_memory
from menura.train import events
from menura.train.create import create_experiment, slow_device_note
from menura.train.data.prepare import is_prepared, prepare
from menura.train.data.recordings import find_recordings, survey_dataset
from menura.train.data.report import REPORT_FILE, load_preparation
from menura.train.events import ENDS, OnEvent, ignore
from menura.train.experiment.defaults import changed
from menura.train.experiment.folder import (
    BEST,
    CHECKPOINT,
    LOGS,
    alone_in,
    checkpoint_paths,
    remove_unfinished,
    size_of,
)
from menura.train.experiment.settings import EXPERIMENT_FILE, Experiment, load_experiment, save_experiment
from menura.train.learning.checkpoint import check_disk_space, remove_older
from menura.train.learning.networks import check_warm_start
from menura.train.learning.stepper import Peers
from menura.train.run.devices import check_devices, train_together
from menura.train.run.log import curves_available
from menura.train.run.trainer import open_trainer
from menura.train.voice import adopt_index, export_experiment, make_index
from menura.voices.assets import home_folder


class TrainingSession:
    """The training of one experiment, which was made with `create_experiment` or `menura train new`.

    Every step can be stopped at any time; the next session resumes there.
    """

    def __init__(
        self,
        folder: Path | str,
        options: RunOptions | None = None,
        engine: EngineOptions | None = None,
        *,
        on_event: OnEvent = ignore,
        cancel: threading.Event | None = None,
    ) -> None:
        """Open an experiment.

        Args:
            folder: the experiment's.
            options: how it is trained; what changes the experiment is kept in it.
            engine: device, threads, data folder.
            on_event: called with every event of `menura.train.events`; with several devices from another thread.
            cancel: ends training after the current step, which is kept, when it is set. Where it is given, Ctrl-C
                is its owner's business. With several devices it has no effect.

        Raises:
            TrainingError: there is no valid experiment.
        """
        self._folder, self._on_event, self._cancel = Path(folder), on_event, cancel
        self._options, self._engine = options or RunOptions(), engine or EngineOptions()
        load_experiment(self._folder)

    def prepare(self) -> Path:
        """Cut the recordings into slices and compute their features. Raises MenuraError, as `run` does.

        Returns:
            report.txt, which says what the data are.
        """
        with alone_in(self._folder):
            remove_unfinished(self._folder)
            return self._prepare(self._change_experiment())

    def run(self) -> events.Finished:
        """Do what is missing: prepare, train, make the index, export the voice.

        Raises:
            TrainingError: the data or the experiment can't be trained.
            OptionError: the devices don't fit the machine or the batch.
            AssetMissingError: a network's weights, or an optional package, are not installed.
            ResourceError: memory or disk space is short.
            KeyboardInterrupt: Ctrl-C without `cancel`; the step it came in is kept.
        """
        with alone_in(self._folder):
            remove_unfinished(self._folder)
            began_s, device = time.monotonic(), resolve_device(self._engine.device)
            if self._options.devices > 1:  # preparing may take hours: what training lacks is told before
                batch_size = self._options.batch_size or load_experiment(self._folder).schedule.batch_size
                check_devices(self._options.devices, device, batch_size)
            experiment = self._change_experiment()
            again = self._options.dataset is not None or not is_prepared(self._folder, experiment)
            unprepared = bool(experiment.data.dataset) and again
            for note in slow_device_note(experiment, device):
                self._on_event(events.Noted(note=note))
            if not checkpoint_paths(self._folder):
                check_warm_start(self._folder, experiment)
            if unprepared:
                self._prepare(experiment)
            finished = self._train(device, began_s)
            self._on_event(events.Trained(step=finished.step))
            if finished.reason in ENDS:
                index, paths = self._index(again=unprepared), export_experiment(self._folder)
                self._on_event(events.Exported(paths=paths))
                remove_older(self._folder / CHECKPOINT)  # the older ones were a reserve; the voice is complete
                finished = dataclasses.replace(finished, index=index, voice=paths[0])
            checkpoints = (*checkpoint_paths(self._folder), self._folder / BEST)
            finished = dataclasses.replace(finished, checkpoint_bytes=sum(map(size_of, checkpoints)))
            self._on_event(finished)
            return finished

    def _change_experiment(self) -> Experiment:
        before = load_experiment(self._folder)
        experiment = changed(before, self._options)
        if self._options.dataset is not None:  # what can't be right is not kept
            find_recordings(self._options.dataset, experiment.speakers, by_folder=experiment.data.by_folder)
        if experiment != before:
            save_experiment(self._folder, experiment)
        return experiment

    @lasting_errors()
    def _prepare(self, experiment: Experiment) -> Path:
        data = experiment.data
        recordings = find_recordings(Path(data.dataset), experiment.speakers, by_folder=data.by_folder)
        facts = survey_dataset(recordings, experiment.synthesizer.sample_rate)
        check_disk_space(self._folder, experiment, seconds=facts.total_s)
        home, device = home_folder(self._engine.home), resolve_device(self._engine.device)
        workers, tell = self._options.workers or physical_cores(), self._on_event
        with enough_memory("Use {workers=1}, and on a GPU {device=cpu}"):
            prepared = prepare(self._folder, experiment, home=home, workers=workers, on_event=tell, device=device)
        seconds = {speaker: prepared.seconds(speaker) for speaker in experiment.speakers}
        self._on_event(events.Prepared(report=self._folder / REPORT_FILE, seconds=seconds))
        return self._folder / REPORT_FILE

    def _train(self, device: torch.device, began_s: float) -> events.Finished:
        task, ends = (self._folder, self._options.until, self._engine, began_s), []

        def tell(event: events.TrainingEvent) -> None:
            ends.append(event) if isinstance(event, events.Finished) else self._on_event(event)

        if self._options.devices == 1:
            _train(Peers(tell=tell), device, task, self._cancel)
        else:
            train_together(self._options.devices, device, _train, task, tell)
        return ends[0]

    def _index(self, *, again: bool) -> Path | None:
        if load_preparation(self._folder) is None:
            return None
        if not again and (index := adopt_index(self._folder)) is not None:
            return index
        index, built = make_index(self._folder, method=self._options.index_method)
        self._on_event(events.Indexed(path=index, vectors=built.vectors, cells=built.cells))
        return index


def train_voice(
    folder: Path | str,
    *,
    dataset: Path | str | None = None,
    rights: str = "",
    training: TrainingOptions | None = None,
    options: RunOptions | None = None,
    engine: EngineOptions | None = None,
    on_event: OnEvent = ignore,
    cancel: threading.Event | None = None,
) -> events.Finished:
    """Train a voice, or resume its training.

        small = TrainingOptions(content="menura-starter", sample_rate="24k")
        voice = train_voice("my-voice", dataset="recordings", rights="my own voice", training=small).voice

    Args:
        folder: the experiment's; where there is none in it yet, one is made from the next three arguments.
        dataset: folder of recordings; where all lie in sub-folders, each of these is a speaker.
        rights: who recorded them and what allows their use; kept in the voice.
        training: which network, and how the data are cut.
        options: how it is trained.
        engine: device, threads, data folder.
        on_event: called with every event of `menura.train.events`.
        cancel: ends training after the current step when it is set; the next call goes on.

    Raises:
        MenuraError: as TrainingSession and create_experiment.
    """
    folder = Path(folder)
    if dataset is not None and not (folder / EXPERIMENT_FILE).exists():
        training, home = training or TrainingOptions(), home_folder(engine.home if engine else None)
        created = create_experiment(folder, dataset=Path(dataset), rights=rights, options=training, home=home)
        for note in created.notes:
            on_event(events.Noted(note=note))
    return TrainingSession(folder, options, engine, on_event=on_event, cancel=cancel).run()


def _noted(problem: str, advice: str) -> events.Noted:
    return events.Noted(note=ErrorDetails(kind="note", problem=problem, advice=advice))


@flushed_denormals()
@lasting_errors()
def _train(
    peers: Peers,
    device: torch.device,
    task: tuple[Path, int | None, EngineOptions, float],
    cancel: threading.Event | None = None,
) -> None:
    folder, until, engine, began_s = task
    configure_torch(engine.threads, cudnn=engine.cudnn)
    trainer = open_trainer(folder, device, peers)
    schedule = trainer.experiment.schedule
    last = until or schedule.steps
    if trainer.step < last and not trainer.is_over:
        if schedule.patience and not trainer.validation:
            advice = "{patience} is ignored: training runs to its last step"
            peers.tell(_noted("too few slices for validation", advice))
        curves = folder / LOGS if curves_available() else None
        if curves is None and schedule.longest_s is None:
            peers.tell(_noted("no curves are written without TensorBoard", "pip install 'menura[curves]'"))
        if peers.leads:
            check_disk_space(folder, trainer.experiment)
        step, every, seconds = trainer.step, schedule.log_every_steps, trainer.dataset.seconds
        trainer.ends_s = began_s + (schedule.longest_s or math.inf)
        peers.tell(events.Started(step=step, last_step=last, log_every_steps=every, seconds=seconds, curves=curves))
        with enough_memory("Lower {batch_size}, or make the experiment with {gradient_checkpointing}"):
            trainer.run(folder, until_step=last, on_event=peers.tell, cancel=cancel)
    step, best_step = trainer.step, trainer.validations.best_step
    reason = "cancelled" if step < last else "steps" if step >= schedule.steps else "until"
    if trainer.is_late:
        reason = "time" if step < last else reason
    elif trainer.is_over:
        reason = "patience"
    peers.tell(events.Finished(step=step, last_step=schedule.steps, reason=reason, best_step=best_step))
