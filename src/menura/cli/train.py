"""`menura train`."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from menura.cli.derive import GroupedCommand, GroupedOption, home_option, option_of, options_of, values_of
from menura.errors import TrainingError
from menura.options import EngineOptions, RunOptions, TrainingOptions

if TYPE_CHECKING:
    import torch

    from menura.train.devices import Peers
    from menura.train.loop import StepReport
    from menura.train.prepare import Progress
    from menura.train.spec import Experiment

_NAME = click.argument("name", type=click.Path(path_type=Path, file_okay=False), metavar="NAME")


@click.group()
def train() -> None:
    """Train a voice from recordings: new, then run; or prepare, run, index, export one by one.

    NAME is the experiment's folder. It can be moved, and every step can be stopped at any time: the same command
    continues where it was.
    """


@train.command(cls=GroupedCommand)
@_NAME
@click.option(
    "--dataset",
    cls=GroupedOption,
    group="data",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FOLDER",
    help="Folder of recordings. If all are in sub-folders, each sub-folder is a speaker.",
)
@click.option(
    "--rights",
    cls=GroupedOption,
    group="data",
    required=True,
    help="Whose voice it is and what permits its use, such as 'my own voice' or 'CC BY 4.0, NAME'; kept in the voice.",
)
@options_of(TrainingOptions)
@home_option
def new(name: Path, dataset: Path, rights: str, home: Path | None, **given: Any) -> None:
    """Make the experiment NAME; everything that would stop it later is checked now."""
    options = values_of(TrainingOptions, given)
    from menura.train.create import create_experiment
    from menura.voices.assets import home_folder

    made = create_experiment(name, dataset=dataset, rights=rights, options=options, home=home_folder(home))
    for speaker, seconds in made.facts.seconds.items():
        click.echo(f"{speaker}: {seconds / 60:.1f} minutes")
    for note in made.notes:
        click.echo(f"note: {note}")
    click.echo(f"Next: menura train run {shlex.quote(str(name))}")


@train.command()
@_NAME
@option_of(RunOptions, "workers")
@option_of(RunOptions, "dataset")
@option_of(EngineOptions, "device")
@home_option
def prepare(name: Path, workers: int | None, dataset: Path | None, device: str, home: Path | None) -> None:
    """Cut the recordings into slices and compute what training needs of them; write report.txt."""
    from menura.train.folders import remove_unfinished
    from menura.train.lock import alone_in
    from menura.train.spec import load_experiment

    load_experiment(name)
    with alone_in(name):
        remove_unfinished(name)
        _changed(name, RunOptions(dataset=dataset))
        _prepare(name, workers, EngineOptions(device=device, home=home))
    click.echo((name / "report.txt").read_text(encoding="utf-8"), nl=False)


def _prepare(name: Path, workers: int | None, engine: EngineOptions) -> None:
    from menura.system.device import physical_cores, resolve_device
    from menura.system.memory import enough_memory
    from menura.train.prepare import prepare as run_prepare
    from menura.train.spec import load_experiment
    from menura.voices.assets import home_folder

    with enough_memory("Use {device=cpu}"):
        run_prepare(
            name,
            load_experiment(name),
            home=home_folder(engine.home),
            workers=workers or physical_cores(),
            report=_PreparedLine(),
            device=str(resolve_device(engine.device)),
        )


class _PreparedLine:
    """Progress of preparing, on standard error, once a second."""

    def __init__(self) -> None:
        self._next_s = 0.0

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() >= self._next_s or progress.done == progress.total:
            self._next_s = time.monotonic() + 1.0
            click.echo(f"{progress.stage}: {progress.done} of {progress.total}", err=True)


@train.command(cls=GroupedCommand)
@_NAME
@options_of(RunOptions, EngineOptions)
def run(name: Path, **given: Any) -> None:
    """Do what is missing: prepare, train, make the index, export the voice.

    Steps, learning rate, batch size, precision, patience and data set change the experiment for good.
    """
    options, engine = values_of(RunOptions, given), values_of(EngineOptions, given)
    from menura.train.folders import remove_unfinished
    from menura.train.lock import alone_in
    from menura.train.spec import load_experiment

    load_experiment(name)
    with alone_in(name):
        remove_unfinished(name)
        _run(name, options, engine)


def _run(name: Path, options: RunOptions, engine: EngineOptions) -> None:
    from menura.system.device import resolve_device
    from menura.train.checkpoint import checkpoint_paths
    from menura.train.networks import check_warm_start
    from menura.train.prepare import is_prepared
    from menura.train.report import load_preparation
    from menura.train.spec import load_experiment

    batch_size = options.batch_size or load_experiment(name).schedule.batch_size
    _check_devices(options.devices, resolve_device(engine.device), batch_size)
    experiment = _changed(name, options)
    fresh = bool(experiment.data.dataset) and (options.dataset is not None or not is_prepared(name, experiment))
    if not checkpoint_paths(name):
        check_warm_start(name, experiment)
    if fresh:
        _prepare(name, options.workers, engine)
    _train(name, options.until, engine, options.devices)
    if options.until is not None and options.until < experiment.schedule.steps:
        return
    if load_preparation(name) is not None:
        _index(name, options.index_method, again=fresh)
    _export(name, None, speaker=None, newest=False)


def _changed(name: Path, options: RunOptions) -> Experiment:
    """The experiment with what the options change, which is kept in it."""
    from menura.train.create import changed
    from menura.train.recordings import find_recordings
    from menura.train.spec import load_experiment, save_experiment

    before = load_experiment(name)
    experiment = changed(before, options)
    if options.dataset is not None:  # what can't be right is not kept
        find_recordings(options.dataset, experiment.speakers, by_folder=experiment.data.by_folder)
    if experiment != before:
        save_experiment(name, experiment)
    return experiment


def _check_devices(devices: int, device: torch.device, batch_size: int) -> None:
    """Preparing may take hours: what training lacks is told before."""
    if devices > 1:
        from menura.train.devices import check_devices

        check_devices(devices, device, batch_size)


def _train(name: Path, until: int | None, engine: EngineOptions, devices: int) -> None:
    from menura.system.device import resolve_device
    from menura.train.devices import Peers, train_together
    from menura.train.spec import load_experiment

    device, task = resolve_device(engine.device), _Task(name=name, until=until, engine=engine)
    if devices == 1:
        _train_here(Peers(), device, task)
    else:
        train_together(devices, device, load_experiment(name).schedule.batch_size, _train_here, task)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """What a training process is told."""

    name: Path
    until: int | None
    engine: EngineOptions


def _train_here(peers: Peers, device: torch.device, task: _Task) -> None:

    from menura.system.device import configure_torch
    from menura.system.memory import enough_memory
    from menura.train.loop import open_trainer
    from menura.train.room import check_room

    name, until, engine = task.name, task.until, task.engine
    configure_torch(engine.threads, cudnn=engine.cudnn)
    trainer = open_trainer(name, device, peers)
    last = until or trainer.experiment.schedule.steps
    say = click.echo if peers.leads else _silent
    if trainer.step >= last or trainer.is_over:
        say(f"trained: {trainer.step} steps")
        return
    if trainer.experiment.schedule.patience and not trainer.held_out:
        say("note: too few slices to hold any out: --patience has nothing to go by; training runs to its last step.")
    if peers.leads:
        check_room(name, trainer.experiment)
    say(
        f"{trainer.dataset.seconds / 60:.1f} minutes of recordings; at step {trainer.step} of {last}. "
        f"Curves: tensorboard --logdir {shlex.quote(str(name / 'logs'))}"
    )
    with enough_memory("Use a smaller {batch_size}, or make the experiment with {gradient_checkpointing}"):
        trainer.run(name, until_step=last, report=_StepLine(last))
    if trainer.is_over:
        say(
            f"stopped at step {trainer.step}: held-out slices were best at step {trainer.course.best_step}. "
            "Go on all the same with --patience 0."
        )


def _silent(line: str) -> None:
    pass


class _StepLine:
    """A line for each logged step, with the time left."""

    def __init__(self, last: int) -> None:
        self._last = last
        self._begun: tuple[int, float] | None = None
        self._warned = False

    def __call__(self, done: StepReport) -> None:
        now = time.monotonic()
        if self._begun is None:
            self._begun = (done.step, now)
        steps = done.step - self._begun[0]
        pace = (now - self._begun[1]) / steps if steps else done.seconds
        losses = "  ".join(f"{name} {value:.3f}" for name, value in done.losses.items() if "gradient" not in name)
        left = _clock(pace * (self._last - done.step))
        click.echo(f"step {done.step}/{self._last}  {losses}  {pace:.2f} s a step, {left} left")
        if done.held_out is not None:
            click.echo(f"  held out: {done.held_out:.4f} (best at step {done.best_step})")
        if done.overtraining and not self._warned:
            self._warned = True
            click.echo(
                f"menura: warning: held-out slices have been getting worse since step {done.best_step}: overtraining. "
                "That step's voice is kept and will be exported; you can stop.",
                err=True,
            )
        sys.stdout.flush()


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


@train.command()
@_NAME
@option_of(RunOptions, "index_method")
def index(name: Path, index_method: str) -> None:
    """Make the retrieval index, named and sized as RVC's."""
    from menura.train.spec import load_experiment

    load_experiment(name)
    _index(name, index_method, again=True)


def _index(name: Path, method: str, *, again: bool = False) -> None:
    from menura.train.index import adopt_index, make_index

    if not again and adopt_index(name) is not None:
        return
    path, made = make_index(name, method=method)
    click.echo(f"{path}: {made.vectors} vectors in {made.cells} cells")


@train.command()
@_NAME
@click.argument("voice", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option("--speaker", help="Keep only this speaker; by default all.")
@click.option("--newest", is_flag=True, help="The newest weights, not those that held-out slices liked best.")
@click.option("--training-state", is_flag=True, help="Also write RVC's G and D files, to go on with elsewhere.")
def export(name: Path, voice: Path | None, speaker: str | None, newest: bool, training_state: bool) -> None:
    """Write the voice: to VOICE (.pth in RVC's layout, or .safetensors), else both and a card to NAME/voice."""
    _export(name, voice, speaker=speaker, newest=newest)
    if training_state:
        from menura.train.export import export_training_states

        for path in export_training_states(name):
            click.echo(path)


def _export(name: Path, voice: Path | None, *, speaker: str | None, newest: bool) -> None:
    from menura.train.export import export_experiment, export_voice

    if voice is not None:
        if voice.suffix.lower() not in (".pth", ".safetensors"):
            raise TrainingError(f"{voice}: a voice ends in .pth or .safetensors.")
        export_voice(name, voice, speaker=speaker, newest=newest)
        paths: tuple[Path, ...] = (voice,)
    else:
        paths = export_experiment(name, speaker=speaker, newest=newest)
    for path in paths:
        click.echo(path)
    click.echo(f"Convert with it: menura convert INPUT --voice {shlex.quote(str(paths[0]))}")
