"""`menura train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from menura.errors import TrainingError

if TYPE_CHECKING:
    from menura.train.loop import StepReport
    from menura.train.prepare import Prepared

_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.group()
def train() -> None:
    """Train a voice from recordings: new, prepare, run, export.

    Every step can be stopped at any time; the same command continues where it was.
    """


@train.command()
@click.argument("experiment", type=_FOLDER)
@click.option("--speaker", "speakers", multiple=True, required=True, help="A speaker's name; repeat it for several.")
@click.option("--steps", type=click.IntRange(min=1), default=12_000, help="Planned steps.", show_default=True)
@click.option("--gan-from", type=click.IntRange(min=0), help="First step with discriminators; by default half way.")
@click.option("--batch-size", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def new(
    experiment: Path, speakers: tuple[str, ...], steps: int, gan_from: int | None, batch_size: int, seed: int
) -> None:
    """Make an EXPERIMENT folder: the starter pack's small network, on its content encoder."""
    from menura.train.spec import EXPERIMENT_FILE, Experiment, Schedule, save_experiment, starter_config

    if (experiment / EXPERIMENT_FILE).exists():
        raise TrainingError(f"{experiment}: there is an experiment already; choose another folder.")
    schedule = Schedule(steps=steps, batch_size=batch_size, gan_from_step=steps // 2 if gan_from is None else gan_from)
    made = Experiment(synthesizer=starter_config(len(speakers)), speakers=speakers, schedule=schedule, seed=seed)
    save_experiment(experiment, made)
    click.echo(f"Next: menura train prepare {experiment} --speaker {speakers[0]} RECORDINGS...")


@train.command()
@click.argument("experiment", type=_FOLDER)
@click.argument("recordings", nargs=-1, required=True)
@click.option("--speaker", help="Whose recordings these are; not needed where the experiment has one speaker.")
def prepare(experiment: Path, recordings: tuple[str, ...], speaker: str | None) -> None:
    """Cut RECORDINGS (files, folders, patterns) into clips and compute what training needs of them."""
    import torch

    from menura.content.starter import StarterEncoder
    from menura.f0.swift import SwiftEstimator
    from menura.train.features import Extractor
    from menura.train.prepare import prepare as run_prepare
    from menura.train.spec import load_experiment

    planned = load_experiment(experiment)
    speaker = speaker or (planned.speakers[0] if len(planned.speakers) == 1 else None)
    if speaker not in planned.speakers:
        raise TrainingError(f"say whose recordings these are: --speaker with one of {', '.join(planned.speakers)}.")
    extractor = Extractor(
        encoder=StarterEncoder.load(torch.device("cpu")),
        estimator=SwiftEstimator(),
        sample_rate=planned.synthesizer.sample_rate,
    )
    run_prepare(experiment, speaker, recordings, extractor, _tell_prepared)
    click.echo(f"Next: menura train run {experiment}")


def _tell_prepared(done: Prepared) -> None:
    told = "prepared before" if done.skipped else f"{done.clips} clips, {done.seconds:.0f} s"
    click.echo(f"{done.path}: {told}")


@train.command()
@click.argument("experiment", type=_FOLDER)
@click.option("--until", type=click.IntRange(min=1), help="Stop after this step; by default at the planned last one.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, mps, or auto.")
@click.option("--threads", type=click.IntRange(min=1), help="Compute threads; by default the physical cores.")
def run(experiment: Path, until: int | None, device: str, threads: int | None) -> None:
    """Train, or continue training, an EXPERIMENT. Losses go to its losses.jsonl."""
    from menura.device import configure_threads, resolve_device
    from menura.train.loop import open_trainer

    configure_threads(threads)
    trainer = open_trainer(experiment, resolve_device(device))
    click.echo(f"{trainer.dataset.seconds / 60:.1f} minutes of recordings; at step {trainer.step}.")
    trainer.run(experiment, until_step=until or trainer.experiment.schedule.steps, report=_tell_step)
    click.echo(f"Next: menura train export {experiment} VOICE.pth")


def _tell_step(done: StepReport) -> None:
    losses = "  ".join(f"{name} {value:.3f}" for name, value in done.losses.items() if name != "gradient")
    click.echo(f"step {done.step}  {losses}  {done.seconds:.2f} s")


@train.command()
@click.argument("experiment", type=_FOLDER)
@click.argument("voice", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--speaker", help="Keep only this speaker; by default all.")
def export(experiment: Path, voice: Path, speaker: str | None) -> None:
    """Write an EXPERIMENT's VOICE: .pth (RVC's layout) or .safetensors."""
    from menura.train.export import export_voice

    export_voice(experiment, voice, speaker=speaker)
    click.echo(f"{voice}: convert with 'menura convert INPUT --voice {voice}'.")
