"""`menura train`."""

from __future__ import annotations

import os
import shlex
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from menura.cli.derive import Group, flag_with, grouped_option, home_option, option_of, options_of, values_of
from menura.cli.terminal import LiveLine, clock, note, say, say_lines, table, warn
from menura.options import EngineOptions, RunOptions, TrainingOptions
from menura.train import events

FOR_CONVERSION = ("compile", "precision")
"""Of a process's options; training has a precision of its own."""
_NAME = click.argument("name", type=click.Path(path_type=Path, file_okay=False), metavar="NAME")
RIGHTS = grouped_option(
    "--rights",
    group="data",
    required=True,
    help='Who made the recordings and what allows their use, as in "my own voice"; kept in the voice.',
)
_QUIET_S = 60.0
"""Longest time without a line where there is no terminal."""


@click.group(cls=Group)
def train() -> None:
    """Train a voice from recordings: new, then run; or prepare, run, index, export one by one.

    NAME is the experiment's folder. It can be moved, and every step can be stopped at any time: the same command
    resumes it.
    """


@train.command()
@_NAME
@grouped_option(
    "--dataset",
    group="data",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of recordings. If all are in sub-folders, each sub-folder is a speaker.",
)
@RIGHTS
@options_of(TrainingOptions)
@home_option
def new(name: Path, dataset: Path, rights: str, home: Path | None, **given: Any) -> None:
    """Create the experiment NAME, and check now everything that could stop it later."""
    options = values_of(TrainingOptions, given)
    from menura.train.create import create_experiment
    from menura.voices.assets import home_folder

    created = create_experiment(name, dataset=dataset, rights=rights, options=options, home=home_folder(home))
    for speaker, seconds in created.facts.seconds.items():
        say(f"{speaker}: {seconds / 60:.1f} minutes")
    for remark in created.notes:
        note(remark.text(flag_with))
    say(f"Next: menura train run {shlex.quote(str(name))}")


@train.command()
@_NAME
@option_of(RunOptions, "workers")
@option_of(RunOptions, "dataset")
@option_of(EngineOptions, "device")
@home_option
def prepare(name: Path, workers: int | None, dataset: Path | None, device: str, home: Path | None) -> None:
    """Cut the recordings into slices and compute their features; write report.txt."""
    from menura.train.session import TrainingSession

    options, engine = RunOptions(workers=workers, dataset=dataset), EngineOptions(device=device, home=home)
    with closing(Display()) as display:
        report = TrainingSession(name, options, engine, on_event=display).prepare()
    say_lines(report.read_text(encoding="utf-8").splitlines())


@train.command()
@_NAME
@options_of(RunOptions)
@options_of(EngineOptions, without=FOR_CONVERSION)
def run(name: Path, **given: Any) -> None:
    """Prepare, train, make the index and export the voice: whatever is still missing.

    Steps, learning rate, batch size, precision, patience and dataset change the experiment permanently.
    """
    options = values_of(RunOptions, given)
    engine = values_of(EngineOptions, {name: given[name] for name in given if name not in FOR_CONVERSION})
    cancel = threading.Event()
    with closing(Display()) as display, finishing_step(display, cancel, several=options.devices > 1):
        from menura.train.session import TrainingSession

        finished = TrainingSession(name, options, engine, on_event=display, cancel=cancel).run()
    folder, stopped = shlex.quote(str(name)), f"Stopped after step {finished.step}"
    if finished.reason in ("until", "cancelled"):
        say(f"{stopped} of {finished.last_step}; saved. To resume: menura train run {folder}")
        raise click.exceptions.Exit(128 + display.signal if finished.reason == "cancelled" else 0)
    if finished.reason == "patience":
        say(f"{stopped}: validation was best at step {finished.best_step}. To continue anyway: --patience 0")
    _hint(finished.voice, finished.index)
    if finished.checkpoint_bytes:
        delete = f"To delete it: menura train remove --checkpoints {folder}"
        say(f"The checkpoint ({finished.checkpoint_bytes / 1e6:.0f} MB) is only needed to train further. {delete}")


def _hint(voice: Path | None, index: Path | None) -> None:
    apart = f" --index {shlex.quote(str(index))}" if index and voice and index.parent != voice.parent else ""
    say(f"Convert with it: menura convert INPUT --voice {shlex.quote(str(voice))}{apart}")


@contextmanager
def finishing_step(display: Display, cancel: threading.Event, *, several: bool) -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM during training end it after the current step; the second one at once."""
    able = not several and threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if able else ()
    before = {number: handler for number in numbers if callable(handler := signal.getsignal(number))}

    def finish(number: int, frame: Any) -> None:
        if not display.training or cancel.is_set():
            before[signal.Signals(number)](number, frame)
        cancel.set()
        display.finishing(number)

    for number in before:
        signal.signal(number, finish)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Display:
    """Prints a session's events: lines that stay, and a live one on terminals."""

    def __init__(self) -> None:
        self.training = self._stopping = self._warned = False
        self.signal: int = signal.SIGINT
        self._line = LiveLine(self._text)
        self.close = self._line.close
        self._enter("loading ...")
        self._step = self._first_step = self._last_step = 0
        self._every, self._losses = 1, ""
        self._begun_s = self._stepped_s = self._said_s = -_QUIET_S

    def __call__(self, event: events.TrainingEvent) -> None:
        match event:
            case events.Preparing():
                self._preparing(event)
            case events.Prepared():
                self._enter("loading ...")
                lines = (f"{speaker}: {seconds / 60:.1f} minutes" for speaker, seconds in event.seconds.items())
                self._line.tell(*(f"{line} in slices (see {event.report})" for line in lines))
            case events.Started():
                self._started(event)
            case events.Stepped():
                self._stepped(event)
            case events.Validated():
                self._validated(event)
            case events.Trained():
                self.training = False
                self._enter("making the voice ...")
            case events.Indexed():
                self._line.tell(f"{event.path}: {event.vectors} vectors in {event.cells} cells")
            case events.Exported():
                self._line.tell(*map(str, event.paths))
            case events.Noted():
                self._line.tell(event.note.text(flag_with), to=note)
        self._line.show()

    def _enter(self, stage: str) -> None:
        self._stage, self._stage_s = stage, time.monotonic()

    def finishing(self, number: int) -> None:
        """Answer a signal at once. From its handler, where nothing may be locked."""
        self._stopping, self.signal = True, number
        if not self._line.live:
            with suppress(OSError):
                os.write(2, f"{self._text(200)}\n".encode())

    def _text(self, columns: int) -> str:
        if not self.training:
            return f"{self._stage} {clock(time.monotonic() - self._stage_s)}"
        if self._stopping:
            return f"finishing step {self._step + 1}; run again to resume (Ctrl-C again: stop at once)"
        if self._step >= self._last_step:
            return "saving ..."
        since_s = time.monotonic() - self._stepped_s
        pace = "  ".join(self._pace(since_s)) if self._losses else clock(since_s)
        return f"step {self._step + 1}/{self._last_step}  {pace}  {self._losses}"

    def _pace(self, since_s: float = 0.0) -> tuple[str, str]:
        """What a step takes, and all that are left."""
        pace_s = (self._stepped_s - self._begun_s) / max(1, self._step - self._first_step)
        return f"{pace_s:.2f} s/step", f"{clock(max(0.0, pace_s * (self._last_step - self._step) - since_s))} left"

    def _is_due(self) -> bool:
        """Whether it's time for a line, where no line is live."""
        due = not self._line.live and time.monotonic() - self._said_s >= _QUIET_S
        self._said_s = time.monotonic() if due else self._said_s
        return due

    def _preparing(self, event: events.Preparing) -> None:
        self._stage = f"preparing {event.stage}: {event.done} of {event.total}"
        if self._is_due() or (event.done == event.total and not self._line.live):
            say(self._stage, err=True)

    def _started(self, event: events.Started) -> None:
        self._step = self._first_step = event.step
        self._last_step, self._every = event.last_step, event.log_every_steps
        self._begun_s = self._stepped_s = time.monotonic()
        self._said_s, self.training = -_QUIET_S, True
        curves = f" Curves: tensorboard --logdir {shlex.quote(str(event.curves))}" if event.curves else ""
        steps = f"steps {event.step + 1} to {event.last_step}"
        self._line.tell(f"Training on {event.seconds / 60:.1f} minutes, {steps}.{curves}")

    def _stepped(self, event: events.Stepped) -> None:
        self._step, self._stepped_s = event.step, time.monotonic()
        losses = (f"{name} {value:.3f}" for name, value in event.losses.items() if "gradient" not in name)
        self._losses = "  ".join(losses) or self._losses
        if event.step % self._every == 0 or self._is_due():
            self._line.tell(f"step {event.step}/{self._last_step}  {self._losses}  {', '.join(self._pace())}")

    def _validated(self, event: events.Validated) -> None:
        self._line.tell(f"  validation: {event.mel:.4f} (best: step {event.best_step})")
        if event.overtraining and not self._warned:
            self._warned = True
            problem = f"validation has been getting worse since step {event.best_step}: overtraining"
            self._line.tell(f"{problem}. That step's voice is kept and will be exported; you can stop.", to=warn)


@train.command()
@_NAME
@option_of(RunOptions, "index_method")
def index(name: Path, index_method: str) -> None:
    """Make the retrieval index, named and sized like RVC's."""
    from menura.train.voice import make_index

    path, built = make_index(name, method=index_method)
    say(f"{path}: {built.vectors} vectors in {built.cells} cells")


@train.command()
@_NAME
@click.argument("voice", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option("--speaker", help="Keep only this speaker.  [default: all]")
@click.option("--newest", is_flag=True, help="Export the newest weights instead of the best by validation.")
@click.option("--checkpoints", is_flag=True, help="Also write RVC's G and D files, to train further in RVC.")
def export(name: Path, voice: Path | None, speaker: str | None, newest: bool, checkpoints: bool) -> None:
    """Write the voice to VOICE (.pth in RVC's format, or .safetensors); by default both, and a card, to NAME/voice."""
    from menura.train.voice import adopt_index, export_checkpoints, export_experiment, export_voice

    if voice is not None:
        export_voice(name, voice, speaker=speaker, newest=newest)
        paths: tuple[Path, ...] = (voice,)
    else:
        paths = export_experiment(name, speaker=speaker, newest=newest)
    say_lines(map(str, (*paths, *(export_checkpoints(name) if checkpoints else ()))))
    _hint(paths[0], adopt_index(name))


@train.command("list")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=".")
def list_(folder: Path) -> None:
    """List the experiments in FOLDER (by default the current one) with their progress and size."""
    from menura.train.experiment.folder import find_experiments

    found = find_experiments(folder)
    if not found:
        say(f"No experiments in {folder}. To make one: menura train new NAME --dataset FOLDER --rights TEXT")
    progress = (i.problem or f"step {i.step} of {i.steps}{', exported' if i.exported else ''}" for i in found)
    rows = zip(found, progress, strict=True)
    say_lines(table((str(item.folder), f"{item.size_bytes / 1e6:>6.0f} MB", text) for item, text in rows))


@train.command()
@_NAME
@click.option("--checkpoints", is_flag=True, help="Delete only the checkpoints; the exported voice stays.")
def remove(name: Path, checkpoints: bool) -> None:
    """Delete the experiment NAME with its slices, features, checkpoints and voice. The recordings stay."""
    from menura.train.experiment.folder import remove_experiment

    freed_bytes, kept = remove_experiment(name, checkpoints_only=checkpoints)
    say(f"{freed_bytes / 1e6:.0f} MB freed")
    say_lines(f"kept: {path}" for path in kept)
