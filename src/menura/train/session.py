"""Training as a session: what is missing is done, events report it, and nothing is printed."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from menura.errors import ErrorDetails
from menura.options import EngineOptions, RunOptions, TrainingOptions
from menura.system.device import configure_torch, flushed_denormals
from menura.train.events import Exported, Finished, Indexed, Noted, OnEvent, Prepared, Started, Trained, ignore
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

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue

    import torch

    from menura.train.learning.peers import Peers
    from menura.train.run.trainer import Trainer


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
        from menura.system.device import resolve_device
        from menura.train.create import slow_device_note
        from menura.train.data.prepare import is_prepared
        from menura.train.learning.networks import check_warm_start

        device = resolve_device(self._engine.device)
        self._check_devices(device)
        experiment = self._change_experiment()
        again = self._options.dataset is not None or not is_prepared(self._folder, experiment)
        unprepared = bool(experiment.data.dataset) and again
        for note in slow_device_note(experiment, device):
            self._on_event(Noted(note=note))
        if not checkpoint_paths(self._folder):
            check_warm_start(self._folder, experiment)
        if unprepared:
            self._prepare()
        outcome = self._train(device)
        self._on_event(Trained(step=outcome.step))
        if outcome.reason in ("until", "cancelled"):
            return self._finished(outcome)
        index = self._index(again=unprepared)
        voice = self._export()
        return self._finished(outcome, voice, index)

    def _check_devices(self, device: torch.device) -> None:
        """Preparing may take hours: what training lacks is told before."""
        if self._options.devices > 1:
            from menura.train.run.devices import check_devices

            batch_size = self._options.batch_size or load_experiment(self._folder).schedule.batch_size
            check_devices(self._options.devices, device, batch_size)

    def _change_experiment(self) -> Experiment:
        """The experiment with what the options change, which is kept in it."""
        from menura.train.data.recordings import find_recordings
        from menura.train.experiment.defaults import changed

        before = load_experiment(self._folder)
        experiment = changed(before, self._options)
        if self._options.dataset is not None:  # what can't be right is not kept
            find_recordings(self._options.dataset, experiment.speakers, by_folder=experiment.data.by_folder)
        if experiment != before:
            save_experiment(self._folder, experiment)
        return experiment

    def _prepare(self) -> Path:
        from menura.system.device import physical_cores, resolve_device
        from menura.system.memory import enough_memory
        from menura.train.data.prepare import prepare
        from menura.train.data.report import REPORT_FILE
        from menura.voices.assets import home_folder

        experiment = load_experiment(self._folder)
        self._check_disk_for_preparing(experiment)
        with enough_memory("Use {workers=1}, and on a GPU {device=cpu}"):
            prepared = prepare(
                self._folder,
                experiment,
                home=home_folder(self._engine.home),
                workers=self._options.workers or physical_cores(),
                on_event=self._on_event,
                device=str(resolve_device(self._engine.device)),
            )
        report = self._folder / REPORT_FILE
        seconds = {speaker: prepared.seconds(speaker) for speaker in experiment.speakers}
        self._on_event(Prepared(report=report, seconds=seconds))
        return report

    def _check_disk_for_preparing(self, experiment: Experiment) -> None:
        from menura.train.data.recordings import find_recordings, survey_dataset
        from menura.train.learning.checkpoint import check_disk_space

        data = experiment.data
        recordings = find_recordings(Path(data.dataset), experiment.speakers, by_folder=data.by_folder)
        facts = survey_dataset(recordings, experiment.synthesizer.sample_rate)
        check_disk_space(self._folder, experiment, seconds=facts.total_s)

    def _train(self, device: torch.device) -> _Outcome:
        from menura.train.learning.peers import Peers

        task = _Task(folder=self._folder, until=self._options.until, engine=self._engine)
        if self._options.devices == 1:
            return _train_here(Peers(), device, task, self._on_event, self._cancel)
        from menura.train.run.devices import events_of_processes, train_together

        outcomes: list[_Outcome] = []

        def hear(event: Any) -> None:
            outcomes.append(event) if isinstance(event, _Outcome) else self._on_event(event)

        batch_size = load_experiment(self._folder).schedule.batch_size
        with events_of_processes(hear) as queue:
            train_together(self._options.devices, device, batch_size, _train_with_peers, (task, queue))
        return outcomes[0]

    def _index(self, *, again: bool) -> Path | None:
        from menura.train.data.report import load_preparation
        from menura.train.voice.index import adopt_index, make_index

        if load_preparation(self._folder) is None:
            return None
        if not again and (index := adopt_index(self._folder)) is not None:
            return index
        index, built = make_index(self._folder, method=self._options.index_method)
        self._on_event(Indexed(path=index, vectors=built.vectors, cells=built.cells))
        return index

    def _export(self) -> Path:
        from menura.train.learning.checkpoint import remove_older
        from menura.train.voice.export import export_experiment

        paths = export_experiment(self._folder)
        self._on_event(Exported(paths=paths))
        remove_older(self._folder / CHECKPOINT)  # the older ones were a reserve; the voice is complete
        return paths[0]

    def _finished(self, outcome: _Outcome, voice: Path | None = None, index: Path | None = None) -> Finished:
        finished = Finished(
            step=outcome.step,
            last_step=load_experiment(self._folder).schedule.steps,
            reason=outcome.reason,
            best_step=outcome.best_step,
            voice=voice,
            index=index,
            checkpoint_bytes=sum(map(size_of, (*checkpoint_paths(self._folder), self._folder / BEST))),
        )
        self._on_event(finished)
        return finished


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
        from menura.train.create import create_experiment
        from menura.voices.assets import home_folder

        home = home_folder(None if engine is None else engine.home)
        created = create_experiment(
            folder, dataset=Path(dataset), rights=rights, options=training or TrainingOptions(), home=home
        )
        for note in created.notes:
            on_event(Noted(note=note))
    return TrainingSession(folder, options, engine, on_event=on_event, cancel=cancel).run()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    folder: Path
    until: int | None
    engine: EngineOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    step: int
    reason: str
    best_step: int | None


def _train_with_peers(peers: Peers, device: torch.device, given: tuple[_Task, SimpleQueue[Any]]) -> None:
    task, queue = given
    outcome = _train_here(peers, device, task, queue.put, None)
    if peers.leads:
        queue.put(outcome)


@flushed_denormals()
def _train_here(
    peers: Peers, device: torch.device, task: _Task, on_event: OnEvent, cancel: threading.Event | None
) -> _Outcome:
    from menura.system.memory import enough_memory
    from menura.train.learning.checkpoint import check_disk_space
    from menura.train.run.curves import curves_available
    from menura.train.run.trainer import open_trainer

    configure_torch(task.engine.threads, cudnn=task.engine.cudnn)
    trainer = open_trainer(task.folder, device, peers)
    schedule = trainer.experiment.schedule
    last = task.until or schedule.steps
    if trainer.step < last and not trainer.is_over:
        tell = on_event if peers.leads else ignore
        if schedule.patience and not trainer.validation:
            tell(Noted(note=_NO_VALIDATION))
        if not curves_available():
            tell(Noted(note=_NO_CURVES))
        if peers.leads:
            check_disk_space(task.folder, trainer.experiment)
        tell(
            Started(
                step=trainer.step,
                last_step=last,
                log_every_steps=schedule.log_every_steps,
                seconds=trainer.dataset.seconds,
                curves=task.folder / LOGS if curves_available() else None,
            )
        )
        with enough_memory("Lower {batch_size}, or make the experiment with {gradient_checkpointing}"):
            trainer.run(task.folder, until_step=last, on_event=tell, cancel=cancel)
    return _outcome(trainer, last)


def _outcome(trainer: Trainer, last: int) -> _Outcome:
    if trainer.is_over:
        reason = "patience"
    elif trainer.step < last:
        reason = "cancelled"
    else:
        reason = "steps" if trainer.step >= trainer.experiment.schedule.steps else "until"
    return _Outcome(step=trainer.step, reason=reason, best_step=trainer.validations.best_step)
