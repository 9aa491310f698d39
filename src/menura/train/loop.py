"""The training loop. Every step is a function of the state before it and of (seed, step): resuming changes nothing."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from menura.checkpoints.voice import build_synthesizer, check_config
from menura.errors import TrainingError
from menura.models.discriminators import Discriminators, RvcDiscriminators
from menura.models.synthesizer import Synthesizer, crop
from menura.system.interrupts import deferred_interrupts
from menura.system.memory import available_memory_bytes
from menura.train.checkpoint import BEST, CHECKPOINT, checkpoint_paths, read_state, write_state
from menura.train.dataset import Dataset, Example
from menura.train.devices import Peers
from menura.train.export import voice_of
from menura.train.features import SUFFIX, StoredClip, load_features
from menura.train.folders import FEATURES
from menura.train.held_out import PREVIEWS, Course, HeldOut, HeldOutResult
from menura.train.journal import LOG, Journal
from menura.train.losses import (
    PeriodicityLoss,
    RvcMelLoss,
    SpectralLoss,
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
)
from menura.train.networks import (
    begun_with,
    make_discriminators,
    make_generator,
    warm_discriminators,
    warm_generator,
)
from menura.train.objective import Pass, direct_pass, vits_pass
from menura.train.precision import autocast
from menura.train.report import load_preparation
from menura.train.spec import EXPERIMENT_FILE, Experiment, Schedule, load_experiment
from menura.train.stepper import Stepper
from menura.train.upsampling import even_out

_ALONE = Peers()
_SAVE_EVERY_S = 600.0
"""At most so much is lost to a kill where steps are slow."""

__all__ = ["CHECKPOINT", "LOG", "StepReport", "Trainer", "learning_rate", "open_trainer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What a step did."""

    step: int
    losses: dict[str, float]
    learning_rate: float
    seconds: float
    held_out: float | None = None
    """Distance of held-out slices, where they were measured after this step."""
    best_step: int | None = None
    """Where that distance was least so far."""
    overtraining: bool = False
    """True where that distance has been rising for some time."""


def learning_rate(schedule: Schedule, step: int) -> float:
    """Linear warm-up, then half a cosine down to the final rate."""
    if step < schedule.warmup_steps:
        return schedule.learning_rate * (step + 1) / schedule.warmup_steps
    part = min(1.0, (step - schedule.warmup_steps) / max(1, schedule.steps - schedule.warmup_steps))
    cosine = (1 + math.cos(math.pi * part)) / 2
    return schedule.final_learning_rate + (schedule.learning_rate - schedule.final_learning_rate) * cosine


class Trainer:
    """Networks, optimizers and data of an experiment."""

    def __init__(
        self,
        experiment: Experiment,
        dataset: Dataset,
        device: torch.device,
        held_out: HeldOut | None = None,
        peers: Peers = _ALONE,
    ) -> None:
        """Make fresh networks.

        Args:
            experiment: what to compute.
            dataset: what to learn from.
            device: where.
            held_out: what to measure by.
            peers: the processes that train together; all have the same networks, the first writes.
        """
        self.peers = peers
        self.experiment, self.dataset, self.device, self.held_out = experiment, dataset, device, held_out
        self.step = 0
        self.course = Course()
        torch.manual_seed(experiment.seed)
        self.generator: Synthesizer = make_generator(experiment).to(device)
        self.discriminators: Discriminators | RvcDiscriminators | None = None
        self.average = {name: value.clone() for name, value in self.generator.state_dict().items()}
        self._spectral = SpectralLoss(experiment.synthesizer.sample_rate).to(device)
        self._rvc_mel = RvcMelLoss(experiment.synthesizer).to(device) if self._follows_rvc else None
        self._periodicity = PeriodicityLoss(experiment.synthesizer).to(device)
        self._stepper = self._stepper_of(self.generator, experiment.schedule.learning_rate)
        self._discriminator_stepper: Stepper | None = None
        self._saved_step, self._saved_s = 0, 0.0

    def run(self, folder: Path, *, until_step: int, report: Callable[[StepReport], None]) -> None:
        """Train and keep checkpoints and the log of losses in `folder`.

        Args:
            folder: the experiment's.
            until_step: stop after this many steps in all.
            report: called every `log_every_steps`.

        Raises:
            KeyboardInterrupt: Ctrl-C; the step it came in is finished and kept.
        """
        journal = Journal(folder, begin_step=self.step) if self.peers.leads else None
        # Several processes are stopped amid a step, as each would else wait for the others for ever.
        alone = self.peers.world == 1
        steps, going = self.steps(until_step), True
        self._saved_step, self._saved_s = self.step, time.monotonic()
        try:
            while going and self.step < until_step:
                with deferred_interrupts() if alone else nullcontext():
                    going = self._finished(next(steps), folder, journal, report, until_step)
        except KeyboardInterrupt:
            if alone and self.step > self._saved_step:
                self._keep(folder, journal)
            raise

    def _finished(
        self,
        result: StepReport,
        folder: Path,
        journal: Journal | None,
        report: Callable[[StepReport], None],
        until_step: int,
    ) -> bool:
        """Measure, log and keep what is due after a step; whether to go on."""
        schedule = self.experiment.schedule
        every = schedule.evaluate_every_steps
        due = bool(every and self.step % every == 0)
        if due:
            result = self._evaluated(result, folder, journal)
        if journal and (self.step % schedule.log_every_steps == 0 or result.held_out is not None):
            journal.log(result)
            report(result)
        stop = self.is_over or self.step == until_step
        late = time.monotonic() - self._saved_s >= _SAVE_EVERY_S
        if journal and (self.step % schedule.save_every_steps == 0 or stop or late):
            self._keep(folder, None if due and self.held_out else journal)
        return not stop

    def _keep(self, folder: Path, journal: Journal | None) -> None:
        """Save, and let the journal show what the voice makes of held-out slices.

        Unlike measurements, previews leave no trace in the state: when a run is stopped decides nothing.
        """
        self.save(folder / CHECKPOINT)
        self._saved_step, self._saved_s = self.step, time.monotonic()
        if journal and self.held_out is not None:
            made = self.held_out.previews(self._averaged())
            journal.previews(made, self.step, self.experiment.synthesizer.sample_rate)

    @property
    def is_over(self) -> bool:
        """True where held-out slices say that it doesn't get better any more."""
        patience = self.experiment.schedule.patience
        return bool(patience) and self.course.since_best >= (patience or 0)

    @property
    def _follows_rvc(self) -> bool:
        return self.experiment.discriminators == "rvc"

    def begin_warm(self, folder: Path) -> None:
        """Take over the weights that the experiment begins with.

        Args:
            folder: the experiment's.

        Raises:
            CheckpointError, TrainingError: they can't be used.
        """
        warm = self.experiment.warm_start
        if warm.generator:
            warm_generator(self.generator, begun_with(folder, warm.generator))
            self.average = {name: value.clone() for name, value in self.generator.state_dict().items()}
        if warm.discriminator:
            self._add_discriminators()
            assert self.discriminators is not None
            warm_discriminators(self.discriminators, begun_with(folder, warm.discriminator))

    def measure(self) -> HeldOutResult:
        """How far the averaged weights, as the network that converts, are from the held-out slices."""
        assert self.held_out is not None
        return self.held_out.measure(self._averaged(), self._spectral)

    def _averaged(self) -> Synthesizer:
        """The network that converts, with the averaged weights."""
        voice = voice_of(self.experiment, {name: value.cpu() for name, value in self.average.items()}, step=self.step)
        return build_synthesizer(voice).to(self.device)

    def _evaluated(self, result: StepReport, folder: Path, journal: Journal | None) -> StepReport:
        """Every process measures the same, so that all know when to stop."""
        if not self.held_out:
            return result
        measured = self.measure()
        self.course = self.course.after(self.step, measured.mel)
        if journal:
            journal.previews(measured.previews, self.step, self.experiment.synthesizer.sample_rate)
        if journal and self.course.best_step == self.step:
            write_state(folder / BEST, {"step": self.step, "average": self.average, "held_out": measured.mel})
        return dataclasses.replace(
            result, held_out=measured.mel, best_step=self.course.best_step, overtraining=self.course.overtraining
        )

    def steps(self, until_step: int) -> Iterator[StepReport]:
        """Train step by step."""
        schedule = self.experiment.schedule
        while self.step < until_step:
            started = time.monotonic()
            seed = self.experiment.seed * 1_000_003 + self.step
            torch.manual_seed(seed)  # all processes make the same discriminators
            if schedule.gan_from_step is not None and self.step >= schedule.gan_from_step:
                self._add_discriminators()
            if self.peers.rank:
                torch.manual_seed(seed + 7_919_777 * self.peers.rank)
            drawn = self.dataset.draw(
                seed=self.experiment.seed,
                step=self.step,
                batch_size=schedule.batch_size,
                row_frames=schedule.row_frames,
            )
            example = self._to_device(self.peers.share(drawn))
            losses = self._train_step(example)
            _check_finite(losses, self.step)
            self.step += 1
            rate = learning_rate(schedule, self.step - 1)
            yield StepReport(step=self.step, losses=losses, learning_rate=rate, seconds=time.monotonic() - started)

    def _train_step(self, example: Example) -> dict[str, float]:
        made = self._generate(example)
        real = self._real_crops(example, made)
        told: dict[str, float] = {}
        alone = self._discriminators_alone
        every = 1 if alone else self.experiment.schedule.discriminator_every
        if self.discriminators is not None and self.step % every == 0:
            told = self._train_discriminators(made.audio.detach(), real)
        if alone:
            return told
        losses = self._generator_losses(made, real, self._f0_crops(example, made))
        self._stepper.set_rate(learning_rate(self.experiment.schedule, self.step))
        norm = self._stepper.step(losses["total"], self.peers, self.experiment.schedule.max_gradient)
        if part := self.experiment.schedule.even_part(self.step):
            even_out(self.generator.dec, part)
        self._update_average()
        return told | _told(losses, "gradient", norm)

    @property
    def _discriminators_alone(self) -> bool:
        schedule = self.experiment.schedule
        return schedule.gan_from_step is not None and (
            schedule.gan_from_step <= self.step < schedule.gan_from_step + schedule.discriminators_alone_steps
        )

    def _generate(self, example: Example) -> Pass:
        passed = direct_pass if self.experiment.objective == "direct" else vits_pass
        with autocast(self.device, self.experiment.precision):
            return passed(self.generator, example.batch, example.audio)

    def _real_crops(self, example: Example, made: Pass) -> Tensor:
        size = self.experiment.synthesizer.frame_samples
        length = made.audio.shape[1]
        starts = (made.starts_frames * size).tolist()
        return torch.stack([row[s : s + length] for row, s in zip(example.audio, starts, strict=True)])

    def _f0_crops(self, example: Example, made: Pass) -> Tensor | None:
        if example.batch.f0_hz is None:
            return None
        frames = made.audio.shape[1] // self.experiment.synthesizer.frame_samples
        return crop(example.batch.f0_hz[:, None], made.starts_frames, frames)[:, 0]

    def _generator_losses(self, made: Pass, real: Tensor, f0_hz: Tensor | None) -> dict[str, Tensor]:
        weights = self.experiment.weights
        losses, total = self._reconstruction_losses(made.audio, real)
        if weights.periodicity and f0_hz is not None:
            losses["periodicity"] = self._periodicity(made.audio, real, f0_hz)
            total = total + weights.periodicity * losses["periodicity"]
        if self.experiment.objective == "vits":
            losses["kl"] = made.kl
            total = total + weights.kl * made.kl
        if self.discriminators is not None:
            self.discriminators.requires_grad_(False)
            with autocast(self.device, self.experiment.precision):
                judged_real, judged_made = self.discriminators(real), self.discriminators(made.audio)
            self.discriminators.requires_grad_(True)
            losses["adversarial"] = adversarial_loss(judged_made, summed=self._follows_rvc)
            losses["features"] = feature_matching_loss(judged_real, judged_made, summed=self._follows_rvc)
            total = weights.reconstruction_with_gan * total + weights.adversarial * losses["adversarial"]
            total = total + weights.feature_matching * losses["features"]
        return losses | {"total": total}

    def _reconstruction_losses(self, made: Tensor, real: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """By name, and their weighted sum."""
        weights = self.experiment.weights
        if self._rvc_mel is not None:
            mel = self._rvc_mel(made, real)
            return {"mel": mel}, weights.mel * mel
        distance = self._spectral(made, real)
        losses = {"log_spectrum": distance.log_spectrum, "mel": distance.mel, "convergence": distance.convergence}
        total = weights.log_spectrum * distance.log_spectrum + weights.mel * distance.mel
        return losses, total + weights.convergence * distance.convergence

    def _train_discriminators(self, made: Tensor, real: Tensor) -> dict[str, float]:
        assert self.discriminators is not None
        assert self._discriminator_stepper is not None
        with autocast(self.device, self.experiment.precision):
            loss = discriminator_loss(self.discriminators(real), self.discriminators(made), summed=self._follows_rvc)
        norm = self._discriminator_stepper.step(loss, self.peers, self.experiment.schedule.max_gradient)
        return _told({"discriminator": loss}, "discriminator_gradient", norm)

    def _add_discriminators(self) -> None:
        if self.discriminators is None:
            self.discriminators = make_discriminators(self.experiment).to(self.device)
            rate = self.experiment.schedule.discriminator_learning_rate
            self._discriminator_stepper = self._stepper_of(self.discriminators, rate)

    def _stepper_of(self, model: nn.Module, rate: float) -> Stepper:
        return Stepper(model, rate, device=self.device, precision=self.experiment.precision)

    @torch.no_grad()
    def _update_average(self) -> None:
        # The average follows faster at first, when little of it is worth keeping.
        decay = min(self.experiment.schedule.keep_average, (1 + self.step) / (10 + self.step))
        now = self.generator.state_dict()
        names = [name for name, value in now.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.average[n] for n in names], [now[n] for n in names], 1 - decay)

    def _to_device(self, example: Example) -> Example:
        fields = {f.name: getattr(example.batch, f.name) for f in dataclasses.fields(example.batch)}
        moved: dict[str, Any] = {
            name: None if value is None else value.to(self.device) for name, value in fields.items()
        }
        batch = dataclasses.replace(example.batch, **moved)
        return Example(batch=batch, audio=example.audio.to(self.device))

    def save(self, path: Path) -> None:
        """Write everything a resumed run needs, atomically."""
        state: dict[str, Any] = {
            "step": self.step,
            "generator": self.generator.state_dict(),
            "average": self.average,
            "optimizer": self._stepper.state_dict(),
            "course": dataclasses.asdict(self.course),
        }
        if self.discriminators is not None and self._discriminator_stepper is not None:
            state["discriminators"] = self.discriminators.state_dict()
            state["discriminator_optimizer"] = self._discriminator_stepper.state_dict()
        write_state(path, state, keep=self.experiment.schedule.keep_last)

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint.

        Raises:
            TrainingError: it can't be read or belongs to other networks.
        """
        state = read_state(path, self.device)
        try:
            self.generator.load_state_dict(state["generator"])
            self.average = state["average"]
            self._stepper.load_state_dict(state["optimizer"])
            if "discriminators" in state:
                self._add_discriminators()
                assert self.discriminators is not None
                assert self._discriminator_stepper is not None
                self.discriminators.load_state_dict(state["discriminators"])
                self._discriminator_stepper.load_state_dict(state["discriminator_optimizer"])
            course = state.get("course", {"steps": (), "distances": ()})
            self.course = Course(steps=tuple(course["steps"]), distances=tuple(course["distances"]))
            self.step = int(state["step"])
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise TrainingError(f"{path}: this checkpoint doesn't fit the experiment ({error}).") from error


def open_trainer(folder: Path, device: torch.device, peers: Peers = _ALONE) -> Trainer:
    """The experiment of a folder, continued from its newest readable checkpoint where it has one.

    Raises:
        TrainingError: the experiment, its features or all of its checkpoints can't be used.
        CheckpointError: no such network can be built.
    """
    experiment = load_experiment(folder)
    check_config(folder / EXPERIMENT_FILE, experiment.synthesizer)
    speakers = experiment.speakers
    prepared = load_preparation(folder)
    if prepared is None:
        learnt, kept = sorted((folder / FEATURES).glob(f"*{SUFFIX}")), []
    else:
        learnt = [folder / item.features for item in prepared.slices if not item.held_out]
        kept = [load_features(folder / item.features) for item in prepared.slices if item.held_out]
    own = (path for path in learnt if StoredClip.of(path).speaker in speakers)
    shown = [] if kept else [load_features(path) for path in itertools.islice(own, PREVIEWS)]
    held_out = HeldOut(kept, speakers=speakers, device=device, learnt=shown)
    dataset = Dataset.load(
        learnt,
        speakers=speakers,
        config=experiment.synthesizer,
        mix=experiment.mix,
        memory_bytes=available_memory_bytes() // 2,
    )
    trainer = Trainer(experiment, dataset, device, held_out, peers)
    paths = checkpoint_paths(folder)
    for number, path in enumerate(paths, start=1):
        try:
            trainer.restore(path)
        except TrainingError:
            if number == len(paths):
                raise
            continue
        return trainer
    trainer.begin_warm(folder)
    return trainer


def _told(losses: dict[str, Tensor], name: str, norm: float | None) -> dict[str, float]:
    """Losses as numbers, and the gradient's norm where a step was made."""
    told = {key: float(value.detach()) for key, value in losses.items()}
    return told if norm is None else told | {name: norm}


def _check_finite(losses: dict[str, float], step: int) -> None:
    broken = [name for name, value in losses.items() if not math.isfinite(value)]
    if broken:
        raise TrainingError(
            f"step {step}: {', '.join(broken)} is not a number any more. Nothing is lost: go on from the last "
            "checkpoint with a lower --learning-rate (half of it), or with --precision fp32."
        )
