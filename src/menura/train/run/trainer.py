"""The training loop. Every step is a function of the state before it and of (seed, step): resuming changes nothing."""

from __future__ import annotations

import dataclasses
import itertools
import math
import threading
import time
from collections.abc import Generator
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from menura.checkpoints.voice import build_synthesizer, check_config
from menura.errors import TrainingError
from menura.models.synthesizer import Synthesizer
from menura.system.device import sent
from menura.system.interrupts import deferred_interrupts
from menura.system.memory import available_memory_bytes
from menura.train.data.features import SUFFIX, StoredClip, load_features
from menura.train.data.report import load_preparation
from menura.train.events import OnEvent, Saved, Stepped, Validated
from menura.train.experiment.folder import BEST, CHECKPOINT, FEATURES, checkpoint_paths
from menura.train.experiment.settings import EXPERIMENT_FILE, Experiment, Schedule, load_experiment
from menura.train.learning import networks, objective
from menura.train.learning.batches import Dataset, Example, drawn_ahead
from menura.train.learning.checkpoint import read_state, write_state
from menura.train.learning.stepper import LEFT_OUT, Peers, Stepper, autocast
from menura.train.run.log import TrainingLog
from menura.train.run.validation import PREVIEWS, Validations, ValidationSet
from menura.train.voice import voice_of

_ALONE = Peers()
_UNMEASURED = ValidationSet((), speakers=(), device=torch.device("cpu"))
_SAVE_EVERY_S = 600.0
"""At most so much is lost to a kill where steps are slow."""


def learning_rate(schedule: Schedule, step: int) -> float:
    """Linear warm-up, then half a cosine down to the final rate."""
    if step < schedule.warmup_steps:
        return schedule.learning_rate * (step + 1) / schedule.warmup_steps
    part = min(1.0, (step - schedule.warmup_steps) / max(1, schedule.steps - schedule.warmup_steps))
    cosine = (1 + math.cos(math.pi * part)) / 2
    return schedule.final_learning_rate + (schedule.learning_rate - schedule.final_learning_rate) * cosine


class Trainer:
    def __init__(
        self,
        experiment: Experiment,
        dataset: Dataset,
        device: torch.device,
        validation: ValidationSet = _UNMEASURED,
        peers: Peers = _ALONE,
    ) -> None:
        self.experiment, self.dataset, self.device, self.validation = experiment, dataset, device, validation
        self.peers, self.step, self.validations = peers, 0, Validations()
        torch.manual_seed(experiment.seed)
        self.generator: Synthesizer = networks.make_generator(experiment).to(device)
        self.average = {name: value.clone() for name, value in self.generator.state_dict().items()}
        self._spectral = objective.SpectralLoss(experiment.synthesizer.sample_rate).to(device)
        vits = experiment.objective == "vits"
        self._rvc_mel = objective.RvcMelLoss(experiment.synthesizer).to(device) if vits else None
        rate = experiment.schedule.learning_rate
        self._stepper = Stepper(self.generator, rate, device=device, precision=experiment.precision)
        self._judges: Stepper | None = None
        self.ends_s = math.inf  # monotonic
        self._unread: dict[int, dict[str, Tensor]] = {}
        """Losses by step, on the device."""

    def run(self, folder: Path, *, until_step: int, on_event: OnEvent, cancel: threading.Event | None = None) -> None:
        """Train up to a step, and keep checkpoints and the log of losses in the experiment's folder.

        Setting `cancel` stops after the current step, which is kept. Without it, a KeyboardInterrupt does.
        """
        log = TrainingLog(folder, begin_step=self.step) if self.peers.leads else None
        # Several processes are stopped amid a step, as each would else wait for the others for ever.
        deferring = self.peers.world == 1 and cancel is None
        steps = self.steps(until_step)
        self._saved_step, self._saved_s = self.step, time.monotonic()
        try:
            while self.step < until_step and not self.is_over and not (cancel and cancel.is_set()):
                with deferred_interrupts() if deferring else nullcontext():
                    self._after_step(next(steps), folder, log, on_event, until_step)
        except KeyboardInterrupt:
            if deferring:
                self._keep(folder, log, on_event)
            raise
        finally:
            steps.close()
        self._keep(folder, log, on_event)

    def _after_step(
        self, stepped: Stepped, folder: Path, log: TrainingLog | None, on_event: OnEvent, until_step: int
    ) -> None:
        """Validate, log and save what is due after a step."""
        schedule = self.experiment.schedule
        every = schedule.evaluate_every_steps
        validated = self._validate(folder) if every and self.step % every == 0 else None
        if log:
            if self.step % schedule.log_every_steps == 0 or validated is not None:
                log.log(stepped, validated)
            on_event(stepped)
            if validated is not None:
                on_event(validated)
        late = time.monotonic() - self._saved_s >= _SAVE_EVERY_S
        if self.step % schedule.save_every_steps == 0 or self.step == until_step or self.is_over or late:
            self._keep(folder, log, on_event)

    def _keep(self, folder: Path, log: TrainingLog | None, on_event: OnEvent) -> None:
        """Save what isn't saved yet, and show what the voice makes of some slices, which leaves no trace in it."""
        if log and self.step > self._saved_step:
            self._read_losses()  # weights that are no numbers are not kept
            self.save(folder / CHECKPOINT)
            self._saved_step, self._saved_s = self.step, time.monotonic()
            on_event(Saved(step=self.step, path=folder / CHECKPOINT))
            made = self.validation.previews(self._averaged())
            log.previews(made, self.step, self.experiment.synthesizer.sample_rate)

    @property
    def is_over(self) -> bool:
        return self.is_late or 0 < (self.experiment.schedule.patience or 0) <= self.validations.since_best

    @property
    def is_late(self) -> bool:
        return self.step > 0 and time.monotonic() >= self.ends_s

    def begin_warm(self, folder: Path) -> None:
        warm = self.experiment.warm_start
        if warm.generator:
            networks.warm_generator(self.generator, networks.initial_weights(folder, warm.generator))
            self.average = {name: value.clone() for name, value in self.generator.state_dict().items()}
        if warm.discriminator:
            path = networks.initial_weights(folder, warm.discriminator)
            networks.warm_discriminators(self._make_judges().model, path)

    def measure(self) -> float:
        """How far the averaged weights, as the network that converts, are from the validation slices."""
        return self.validation.measure(self._averaged(), self._spectral)

    def _averaged(self) -> Synthesizer:
        voice = voice_of(self.experiment, {name: value.cpu() for name, value in self.average.items()}, step=self.step)
        return build_synthesizer(voice).to(self.device)

    def _validate(self, folder: Path) -> Validated | None:
        """Every process measures the same, so that all know when to stop."""
        if not self.validation:
            return None
        mel = self.measure()
        self.validations = self.validations.after(self.step, mel)
        best_step = self.validations.best_step
        assert best_step is not None
        if self.peers.leads and best_step == self.step:
            write_state(folder / BEST, {"step": self.step, "average": self.average, "held_out": mel})
        return Validated(step=self.step, mel=mel, best_step=best_step, overtraining=self.validations.overtraining)

    def steps(self, until_step: int) -> Generator[Stepped, None, None]:
        """Steps as they are made. Their losses are read where that costs no waiting, or is due: else they are empty."""
        schedule = self.experiment.schedule
        spent_s, made = 0.0, 0
        with closing(drawn_ahead(self._drawn, range(self.step, until_step), self.device)) as examples:
            while self.step < until_step:
                started = time.monotonic()
                step_seed = self.experiment.seed * 1_000_003 + self.step
                torch.manual_seed(step_seed)  # all processes make the same discriminators
                if schedule.gan_from_step is not None and self.step >= schedule.gan_from_step:
                    self._make_judges()
                if self.peers.rank:
                    torch.manual_seed(step_seed + 7_919_777 * self.peers.rank)
                rate = learning_rate(schedule, self.step)
                self._stepper.set_rate(rate)
                example = next(examples).mapped(lambda tensor: sent(tensor, self.device))
                self._unread[self.step] = self._train_step(example)
                losses = self._read_losses() if self._is_due(self.step + 1) else {}
                self.step += 1
                # One that reads waits for some that didn't: on a GPU only their mean says something.
                spent_s, made = spent_s + time.monotonic() - started, made + 1
                yield Stepped(step=self.step, losses=losses, learning_rate=rate, seconds=spent_s / made)
                if losses:
                    spent_s, made = 0.0, 0

    def _drawn(self, step: int) -> Example:
        """This process's rows of a step's batch."""
        seed, schedule = self.experiment.seed, self.experiment.schedule
        rows, frames = schedule.batch_size, schedule.row_frames
        drawn = self.peers.share(self.dataset.draw(seed=seed, step=step, batch_size=rows, row_frames=frames))
        return drawn.mapped(Tensor.pin_memory) if self.device.type == "cuda" else drawn

    def _is_due(self, step: int) -> bool:
        """Whether a step's losses are wanted; to read them is to wait for a GPU, and free on a CPU."""
        every = (self.experiment.schedule.log_every_steps, self.experiment.schedule.evaluate_every_steps)
        return self.device.type == "cpu" or any(steps and step % steps == 0 for steps in every)

    def _read_losses(self) -> dict[str, float]:
        """The last step's losses, in one transfer with all unread ones. Raises TrainingError where one is no number."""
        unread, self._unread = self._unread, {}
        every = [value for losses in unread.values() for value in losses.values()]
        numbers = iter(torch.stack(every).tolist() if every else ())
        losses: dict[str, float] = {}
        for step, names in unread.items():
            losses = {name: next(numbers) for name in names}
            losses = {name: value for name, value in losses.items() if "gradient" not in name or value != LEFT_OUT}
            if broken := [name for name, value in losses.items() if not math.isfinite(value)]:
                advice = "Resume from the last checkpoint with half the {learning_rate}, or with {precision=fp32}"
                raise TrainingError(f"step {step}", f"{', '.join(broken)} became NaN or infinite", advice)
        return losses

    def _train_step(self, example: Example) -> dict[str, Tensor]:
        made, real, kl = self._generate(example)
        judged = {} if self._judges is None else self._train_discriminators(self._judges, made.detach(), real)
        losses = self._generator_losses(made, real, kl)
        norm = self._stepper.step(losses["total"], self.peers, self.experiment.schedule.max_gradient)
        self._update_average()
        return judged | {name: loss.detach() for name, loss in losses.items()} | {"gradient": norm}

    def _generate(self, example: Example) -> objective.Pass:
        forward = objective.direct_pass if self.experiment.objective == "direct" else objective.vits_pass
        with autocast(self.device, self.experiment.precision):
            return forward(self.generator, example.batch, example.audio)

    def _generator_losses(self, made: Tensor, real: Tensor, kl: Tensor) -> dict[str, Tensor]:
        """By name, and their weighted sum, "total"."""
        weights = dataclasses.asdict(self.experiment.weights)
        weights["features"] = weights.pop("feature_matching")
        losses = {"mel": self._rvc_mel(made, real), "kl": kl} if self._rvc_mel else self._spectral(made, real)
        if self._judges is not None:
            self._judges.model.requires_grad_(False)
            with autocast(self.device, self.experiment.precision):
                judged_real, judged_made = self._judges.model(real), self._judges.model(made)
            self._judges.model.requires_grad_(True)
            losses["adversarial"] = objective.adversarial_loss(judged_made)
            losses["features"] = objective.feature_matching_loss(judged_real, judged_made)
        total = sum((weights[name] * loss for name, loss in losses.items()), start=torch.zeros((), device=self.device))
        return losses | {"total": total}

    def _train_discriminators(self, judges: Stepper, made: Tensor, real: Tensor) -> dict[str, Tensor]:
        with autocast(self.device, self.experiment.precision):
            loss = objective.discriminator_loss(judges.model(real), judges.model(made))
        norm = judges.step(loss, self.peers, self.experiment.schedule.max_gradient)
        return {"discriminator": loss.detach(), "discriminator_gradient": norm}

    @property
    def discriminators(self) -> nn.Module | None:
        return None if self._judges is None else self._judges.model

    def _make_judges(self) -> Stepper:
        if self._judges is None:
            discriminators = networks.make_discriminators(self.experiment).to(self.device)
            rate = self.experiment.schedule.discriminator_learning_rate
            self._judges = Stepper(discriminators, rate, device=self.device, precision=self.experiment.precision)
        return self._judges

    @torch.no_grad()
    def _update_average(self) -> None:
        # The average follows faster at first, when little of it is worth keeping.
        decay = min(self.experiment.schedule.keep_average, (1 + self.step) / (10 + self.step))
        now = self.generator.state_dict()
        names = [name for name, value in now.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.average[n] for n in names], [now[n] for n in names], 1 - decay)

    def save(self, path: Path) -> None:
        state: dict[str, Any] = {
            "step": self.step,
            "generator": self.generator.state_dict(),
            "average": self.average,
            "optimizer": self._stepper.state_dict(),
            "course": dataclasses.asdict(self.validations),
        }
        if self._judges is not None:
            state["discriminators"] = self._judges.model.state_dict()
            state["discriminator_optimizer"] = self._judges.state_dict()
        write_state(path, state, keep=self.experiment.schedule.keep_last)

    def restore(self, path: Path) -> None:
        state = read_state(path, self.device)
        try:
            self.generator.load_state_dict(state["generator"])
            self.average = state["average"]
            self._stepper.load_state_dict(state["optimizer"])
            if "discriminators" in state:
                judges = self._make_judges()
                judges.model.load_state_dict(state["discriminators"])
                judges.load_state_dict(state["discriminator_optimizer"])
            course = state.get("course", {})
            self.validations = Validations(**{name: tuple(values) for name, values in course.items()})
            self.step = state["step"]
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
            raise TrainingError(path, f"this checkpoint doesn't fit the experiment ({error})") from error


def open_trainer(folder: Path, device: torch.device, peers: Peers = _ALONE) -> Trainer:
    """The experiment of a folder, continued from its newest readable checkpoint where it has one."""
    experiment = load_experiment(folder)
    check_config(folder / EXPERIMENT_FILE, experiment.synthesizer)
    speakers = experiment.speakers
    if prepared := load_preparation(folder):
        learnt, kept = ([folder / i.features for i in prepared.slices if i.held_out == held] for held in (False, True))
    else:  # of recipes, where nothing says which are for validation
        learnt, kept = sorted((folder / FEATURES).glob(f"*{SUFFIX}")), []
    own = (path for path in learnt if StoredClip.of(path).speaker in speakers)
    shown = [] if kept else [load_features(path) for path in itertools.islice(own, PREVIEWS)]
    held_out = [load_features(path) for path in kept]
    validation = ValidationSet(held_out, speakers=speakers, device=device, learnt=shown)
    dataset = Dataset.load(learnt, experiment, memory_bytes=available_memory_bytes() // 2)
    trainer = Trainer(experiment, dataset, device, validation, peers)
    paths = checkpoint_paths(folder)
    for path in paths:
        with suppress(TrainingError) if path != paths[-1] else nullcontext():
            trainer.restore(path)
            return trainer
    trainer.begin_warm(folder)
    return trainer
