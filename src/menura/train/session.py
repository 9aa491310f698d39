"""Training as a session: what is missing is done, events report it, and nothing is printed."""

from __future__ import annotations

import dataclasses
import threading
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import torch

from menura.errors import ErrorDetails
from menura.options import EngineOptions, RunOptions, TrainingOptions
from menura.system.device import configure_torch, flushed_denormals, physical_cores, resolve_device
from menura.system.memory import enough_memory
from menura.train.create import create_experiment, slow_device_note
from menura.train.data.prepare import is_prepared, prepare
from menura.train.data.recordings import find_recordings, survey_dataset
from menura.train.data.report import REPORT_FILE, load_preparation
from menura.train.events import Exported, Finished, Indexed, Noted, OnEvent, Prepared, Started, Trained, ignore
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
from menura.train.run.log import curves_available
from menura.train.run.trainer import open_trainer
from menura.train.voice.export import export_experiment
from menura.train.voice.index import adopt_index, make_index
from menura.voices.assets import home_folder

_NO_VALIDATION = ErrorDetails(
    kind="note",
    problem="too few slices for validation",
    advice="{patience} is ignored: training runs to its last step",
)

_NO_CURVES = ErrorDetails(
    kind="note", problem="no curves are written without TensorBoard", advice="pip install 'menura[curves]'"
)


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
        """Cut the recordings into slices and compute their features.

        Returns:
            report.txt, which says what the data are.

        Raises:
            MenuraError: as `run`.
        """
        with alone_in(self._folder):
            remove_unfinished(self._folder)
            self._change_experiment()
            return self._prepare()

    def run(self) -> Finished:
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
            return self._run()

    def _run(self) -> Finished:
        device = resolve_device(self._engine.device)
        if self._options.devices > 1:  # preparing may take hours: what training lacks is told before
            from menura.train.run.devices import check_devices

            batch_size = self._options.batch_size or load_experiment(self._folder).schedule.batch_size
            check_devices(self._options.devices, device, batch_size)
        experiment = self._change_experiment()
        again = self._options.dataset is not None or not is_prepared(self._folder, experiment)
        unprepared = bool(experiment.data.dataset) and again
        for note in slow_device_note(experiment, device):
            self._on_event(Noted(note=note))
        if not checkpoint_paths(self._folder):
            check_warm_start(self._folder, experiment)
        if unprepared:
            self._prepare()
        finished = self._train(device)
        self._on_event(Trained(step=finished.step))
        if finished.reason in ("steps", "patience"):
            finished = dataclasses.replace(finished, index=self._index(again=unprepared), voice=self._export())
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

    def _prepare(self) -> Path:
        experiment = load_experiment(self._folder)
        data = experiment.data
        recordings = find_recordings(Path(data.dataset), experiment.speakers, by_folder=data.by_folder)
        facts = survey_dataset(recordings, experiment.synthesizer.sample_rate)
        check_disk_space(self._folder, experiment, seconds=facts.total_s)
        with enough_memory("Use {workers=1}, and on a GPU {device=cpu}"):
            prepared = prepare(
                self._folder,
                experiment,
                home=home_folder(self._engine.home),
                workers=self._options.workers or physical_cores(),
                on_event=self._on_event,
                device=resolve_device(self._engine.device),
            )
        report = self._folder / REPORT_FILE
        seconds = {speaker: prepared.seconds(speaker) for speaker in experiment.speakers}
        self._on_event(Prepared(report=report, seconds=seconds))
        return report

    def _train(self, device: torch.device) -> Finished:
        task = (self._folder, self._options.until, self._engine)
        if self._options.devices == 1:
            return _train_here(Peers(), device, *task, self._on_event, self._cancel)
        from menura.train.run.devices import events_of_processes, train_together

        ends: list[Finished] = []

        def hear(event: Any) -> None:
            ends.append(event) if isinstance(event, Finished) else self._on_event(event)

        with events_of_processes(hear) as queue:
            train_together(self._options.devices, device, _train_with_peers, (*task, queue))
        return ends[0]

    def _index(self, *, again: bool) -> Path | None:
        if load_preparation(self._folder) is None:
            return None
        if not again and (index := adopt_index(self._folder)) is not None:
            return index
        index, built = make_index(self._folder, method=self._options.index_method)
        self._on_event(Indexed(path=index, vectors=built.vectors, cells=built.cells))
        return index

    def _export(self) -> Path:
        paths = export_experiment(self._folder)
        self._on_event(Exported(paths=paths))
        remove_older(self._folder / CHECKPOINT)  # the older ones were a reserve; the voice is complete
        return paths[0]


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
) -> Finished:
    """Train a voice, or resume its training.

        from menura import TrainingOptions, train_voice

        voice = train_voice(
            "my-voice",
            dataset="recordings",
            rights="my own voice",
            training=TrainingOptions(content="menura-starter", sample_rate="24k"),
        ).voice

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
        home = home_folder(None if engine is None else engine.home)
        created = create_experiment(
            folder, dataset=Path(dataset), rights=rights, options=training or TrainingOptions(), home=home
        )
        for note in created.notes:
            on_event(Noted(note=note))
    return TrainingSession(folder, options, engine, on_event=on_event, cancel=cancel).run()


def _train_with_peers(
    peers: Peers, device: torch.device, given: tuple[Path, int | None, EngineOptions, SimpleQueue[Any]]
) -> None:
    folder, until, engine, queue = given
    finished = _train_here(peers, device, folder, until, engine, queue.put, None)
    if peers.leads:
        queue.put(finished)


@flushed_denormals()
def _train_here(
    peers: Peers,
    device: torch.device,
    folder: Path,
    until: int | None,
    engine: EngineOptions,
    on_event: OnEvent,
    cancel: threading.Event | None,
) -> Finished:
    configure_torch(engine.threads, cudnn=engine.cudnn)
    trainer = open_trainer(folder, device, peers)
    schedule = trainer.experiment.schedule
    last = until or schedule.steps
    if trainer.step < last and not trainer.is_over:
        tell = on_event if peers.leads else ignore
        if schedule.patience and not trainer.validation:
            tell(Noted(note=_NO_VALIDATION))
        if not curves_available():
            tell(Noted(note=_NO_CURVES))
        if peers.leads:
            check_disk_space(folder, trainer.experiment)
        tell(
            Started(
                step=trainer.step,
                last_step=last,
                log_every_steps=schedule.log_every_steps,
                seconds=trainer.dataset.seconds,
                curves=folder / LOGS if curves_available() else None,
            )
        )
        with enough_memory("Lower {batch_size}, or make the experiment with {gradient_checkpointing}"):
            trainer.run(folder, until_step=last, on_event=tell, cancel=cancel)
    if trainer.is_over:
        reason = "patience"
    elif trainer.step < last:
        reason = "cancelled"
    else:
        reason = "steps" if trainer.step >= schedule.steps else "until"
    best_step = trainer.validations.best_step
    return Finished(step=trainer.step, last_step=schedule.steps, reason=reason, best_step=best_step)
