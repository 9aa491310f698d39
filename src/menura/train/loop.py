"""The training loop. Every step is a function of the state before it and of (seed, step): resuming changes nothing."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from menura.errors import TrainingError
from menura.models.discriminators import DiscriminatorConfig, Discriminators
from menura.models.synthesizer import Synthesizer
from menura.models.vocoders import HifiGan
from menura.train.dataset import Dataset, Example
from menura.train.losses import SpectralLoss, adversarial_loss, discriminator_loss, feature_matching_loss
from menura.train.objective import Pass, direct_pass, vits_pass
from menura.train.precision import autocast, keep_float32, prefer_channels_last
from menura.train.spec import Experiment, Schedule, load_experiment, write_atomically

CHECKPOINT = "checkpoint.pt"
LOG = "losses.jsonl"
_BETAS = (0.8, 0.99)
_MAX_GRADIENT = 5.0
_INITIAL_LOG_SCALE = -3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What a step did."""

    step: int
    losses: dict[str, float]
    learning_rate: float
    seconds: float


def learning_rate(schedule: Schedule, step: int) -> float:
    """Linear warm-up, then half a cosine down to the final rate."""
    if step < schedule.warmup_steps:
        return schedule.learning_rate * (step + 1) / schedule.warmup_steps
    part = min(1.0, (step - schedule.warmup_steps) / max(1, schedule.steps - schedule.warmup_steps))
    cosine = (1 + math.cos(math.pi * part)) / 2
    return schedule.final_learning_rate + (schedule.learning_rate - schedule.final_learning_rate) * cosine


class Trainer:
    """Networks, optimizers and data of an experiment."""

    def __init__(self, experiment: Experiment, dataset: Dataset, device: torch.device) -> None:
        """Make fresh networks.

        Args:
            experiment: what to compute.
            dataset: what to learn from.
            device: where.
        """
        self.experiment, self.dataset, self.device = experiment, dataset, device
        self.step = 0
        torch.manual_seed(experiment.seed)
        self.generator = _make_generator(experiment).to(device)
        self.discriminators: Discriminators | None = None
        self.average = {name: value.clone() for name, value in self.generator.state_dict().items()}
        self._spectral = SpectralLoss(experiment.synthesizer.sample_rate).to(device)
        self._optimizer = _optimizer(self.generator, experiment.schedule.learning_rate)
        self._discriminator_optimizer: torch.optim.Optimizer | None = None

    def run(self, folder: Path, *, until_step: int, report: Callable[[StepReport], None]) -> None:
        """Train and keep checkpoints and the log of losses in `folder`.

        Args:
            folder: the experiment's.
            until_step: stop after this many steps in all.
            report: called every `log_every_steps`.
        """
        schedule = self.experiment.schedule
        for result in self.steps(until_step):
            if self.step % schedule.log_every_steps == 0:
                with (folder / LOG).open("a", encoding="utf-8") as log:
                    log.write(json.dumps(dataclasses.asdict(result)) + "\n")
                report(result)
            if self.step % schedule.save_every_steps == 0 or self.step == until_step:
                self.save(folder / CHECKPOINT)

    def steps(self, until_step: int) -> Iterator[StepReport]:
        """Train step by step."""
        schedule = self.experiment.schedule
        while self.step < until_step:
            started = time.monotonic()
            torch.manual_seed(self.experiment.seed * 1_000_003 + self.step)
            if schedule.gan_from_step is not None and self.step >= schedule.gan_from_step:
                self._add_discriminators()
            example = self._to_device(
                self.dataset.draw(
                    seed=self.experiment.seed,
                    step=self.step,
                    batch_size=schedule.batch_size,
                    row_frames=schedule.row_frames,
                )
            )
            losses = self._train_step(example)
            if not all(math.isfinite(value) for value in losses.values()):
                raise TrainingError(f"step {self.step}: a loss is not finite; resume with a lower learning rate.")
            self.step += 1
            rate = learning_rate(schedule, self.step - 1)
            yield StepReport(step=self.step, losses=losses, learning_rate=rate, seconds=time.monotonic() - started)

    def _train_step(self, example: Example) -> dict[str, float]:
        made = self._generate(example)
        real = self._real_crops(example, made)
        losses: dict[str, Tensor] = {}
        if self.discriminators is not None and self.step % self.experiment.schedule.discriminator_every == 0:
            losses["discriminator"] = self._train_discriminators(made.audio.detach(), real)
        losses |= self._generator_losses(made, real)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self.experiment.schedule, self.step)
        self._optimizer.zero_grad(set_to_none=True)
        losses["total"].backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.generator.parameters(), _MAX_GRADIENT)
        self._optimizer.step()
        self._update_average()
        return {name: float(value.detach()) for name, value in losses.items()} | {"gradient": float(norm)}

    def _generate(self, example: Example) -> Pass:
        passed = direct_pass if self.experiment.objective == "direct" else vits_pass
        with autocast(self.device, self.experiment.precision):
            return passed(self.generator, example.batch, example.audio)

    def _real_crops(self, example: Example, made: Pass) -> Tensor:
        size = self.experiment.synthesizer.frame_samples
        length = made.audio.shape[1]
        starts = (made.starts_frames * size).tolist()
        return torch.stack([row[s : s + length] for row, s in zip(example.audio, starts, strict=True)])

    def _generator_losses(self, made: Pass, real: Tensor) -> dict[str, Tensor]:
        weights = self.experiment.weights
        distance = self._spectral(made.audio, real)
        losses = {"log_spectrum": distance.log_spectrum, "mel": distance.mel, "convergence": distance.convergence}
        total = weights.log_spectrum * distance.log_spectrum + weights.mel * distance.mel
        total = total + weights.convergence * distance.convergence
        if self.experiment.objective == "vits":
            losses["kl"] = made.kl
            total = total + weights.kl * made.kl
        if self.discriminators is not None:
            self.discriminators.requires_grad_(False)
            with autocast(self.device, self.experiment.precision):
                judged_real, judged_made = self.discriminators(real), self.discriminators(made.audio)
            self.discriminators.requires_grad_(True)
            losses["adversarial"] = adversarial_loss(judged_made)
            losses["features"] = feature_matching_loss(judged_real, judged_made)
            total = weights.reconstruction_with_gan * total + weights.adversarial * losses["adversarial"]
            total = total + weights.feature_matching * losses["features"]
        return losses | {"total": total}

    def _train_discriminators(self, made: Tensor, real: Tensor) -> Tensor:
        assert self.discriminators is not None
        assert self._discriminator_optimizer is not None
        with autocast(self.device, self.experiment.precision):
            loss = discriminator_loss(self.discriminators(real), self.discriminators(made))
        self._discriminator_optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.discriminators.parameters(), _MAX_GRADIENT)
        self._discriminator_optimizer.step()
        return loss

    def _add_discriminators(self) -> None:
        if self.discriminators is None:
            made = Discriminators(DiscriminatorConfig()).to(self.device)
            self.discriminators = made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            rate = self.experiment.schedule.discriminator_learning_rate
            self._discriminator_optimizer = _optimizer(self.discriminators, rate)

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
            "optimizer": self._optimizer.state_dict(),
        }
        if self.discriminators is not None and self._discriminator_optimizer is not None:
            state["discriminators"] = self.discriminators.state_dict()
            state["discriminator_optimizer"] = self._discriminator_optimizer.state_dict()
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(path, buffer.getvalue())

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint.

        Raises:
            TrainingError: it can't be read or belongs to other networks.
        """
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.generator.load_state_dict(state["generator"])
            self.average = state["average"]
            _load_optimizer(self._optimizer, state["optimizer"])
            if "discriminators" in state:
                self._add_discriminators()
                assert self.discriminators is not None
                assert self._discriminator_optimizer is not None
                self.discriminators.load_state_dict(state["discriminators"])
                _load_optimizer(self._discriminator_optimizer, state["discriminator_optimizer"])
            self.step = int(state["step"])
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise TrainingError(f"{path}: this checkpoint doesn't fit the experiment ({error}).") from error


def open_trainer(folder: Path, device: torch.device) -> Trainer:
    """The experiment of a folder, continued from its checkpoint where it has one."""
    experiment = load_experiment(folder)
    dataset = Dataset.load(
        folder / "features", speakers=experiment.speakers, config=experiment.synthesizer, mix=experiment.mix
    )
    trainer = Trainer(experiment, dataset, device)
    if (folder / CHECKPOINT).exists():
        trainer.restore(folder / CHECKPOINT)
    return trainer


def _make_generator(experiment: Experiment) -> Synthesizer:
    generator = Synthesizer(experiment.synthesizer, training=True)
    if experiment.objective == "direct":
        del generator.enc_q
        bias = generator.enc_p.proj.bias
        assert bias is not None
        with torch.no_grad():  # begin nearly without noise
            bias[experiment.synthesizer.inter_channels :] = _INITIAL_LOG_SCALE
    _preserve_variance(generator)
    prefer_channels_last(generator)
    for module in (generator.dec.conv_post, getattr(generator.dec, "m_source", None)):
        if module is not None:
            keep_float32(module)
    return generator


def _preserve_variance(generator: Synthesizer) -> None:
    """Start the decoder with stages that pass on what they get.

    HiFi-GAN's own start (deviation 0.01 throughout) lets hardly a thousandth of the latent reach the output, which
    costs thousands of steps until it does.
    """
    if not isinstance(generator.dec, HifiGan):
        return
    with torch.no_grad():
        for layer, rate in zip(generator.dec.ups, generator.dec.rates, strict=True):
            assert isinstance(layer, nn.ConvTranspose1d)
            fan_in = layer.weight.shape[0] * layer.weight.shape[2] / rate
            layer.weight = torch.randn_like(layer.weight) * (2 / fan_in) ** 0.5
        for name, layer in generator.dec.resblocks.named_modules():
            if isinstance(layer, nn.Conv1d):
                gain = 0.3 if ".convs2." in name else 1.4
                fan_in = layer.weight.shape[1] * layer.weight.shape[2]
                layer.weight = torch.randn_like(layer.weight) * gain / fan_in**0.5


def _optimizer(model: nn.Module, rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=rate, betas=_BETAS, weight_decay=0.01, eps=1e-9, fused=True)


def _load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    for group in state["param_groups"]:
        group["fused"] = True
    optimizer.load_state_dict(state)
