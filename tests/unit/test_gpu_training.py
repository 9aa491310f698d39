"""Training on a GPU, pretended on the CPU: what it learns is the CPU's, and it is hardly waited for."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from menura.errors import TrainingError
from menura.models.discriminators import RvcDiscriminators
from menura.train.experiment.folder import CHECKPOINT
from menura.train.experiment.settings import Experiment
from menura.train.learning.batches import Dataset
from menura.train.run.trainer import Trainer
from support.pretended_gpu import CUDA, PretendedGpu
from support.training import CPU, Heard, clip, tiny_experiment, tiny_rvc

STEPS = 6
READ_EVERY = 3


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    made = lambda version: RvcDiscriminators(version, width=4)  # noqa: E731
    monkeypatch.setattr("menura.train.learning.networks.RvcDiscriminators", made)


def experiment_of(kind: str) -> Experiment:
    experiment = tiny_experiment() if kind == "direct" else tiny_rvc(precision=kind)
    gan_from = None if kind == "direct" else 1
    changes: dict[str, Any] = {"log_every_steps": READ_EVERY, "gan_from_step": gan_from, "save_every_steps": 100}
    return dataclasses.replace(experiment, schedule=dataclasses.replace(experiment.schedule, **changes))


def trainer_of(experiment: Experiment, device: torch.device) -> Trainer:
    clips = [clip("anna", 0), clip("bert", 1), clip("bert", 2, frames=30)]
    return Trainer(experiment, Dataset(clips, experiment), device)


@pytest.mark.parametrize("kind", ["direct", "fp32", "bf16", "fp16"])
def test_it_learns_the_same_and_waits_for_logged_losses_only(kind: str, gpu: PretendedGpu) -> None:
    experiment = experiment_of(kind)
    expected = [stepped.losses for stepped in trainer_of(experiment, CPU).steps(STEPS)]
    steps = trainer_of(experiment, CUDA).steps(STEPS)
    told = [next(steps), next(steps)]  # discriminators and optimizers begin
    gpu.reset()
    told += steps
    for number, stepped in enumerate(told, start=1):
        # Left-out steps (float16 overflows in all of these) have no gradient to tell of.
        assert stepped.losses == (expected[number - 1] if number % READ_EVERY == 0 else {})
    assert [sync.place.split(" ")[1] for sync in gpu.syncs] == ["_read_losses"] * (STEPS // READ_EVERY)


def test_a_loss_that_is_no_number_is_found_before_anything_is_kept(tmp_path: Path, gpu: PretendedGpu) -> None:
    trainer, heard = trainer_of(experiment_of("direct"), CUDA), Heard()
    with torch.no_grad():
        trainer.generator.enc_p.proj.weight.fill_(torch.nan)
    with pytest.raises(TrainingError) as caught:
        trainer.run(tmp_path, until_step=2, on_event=heard)
    assert caught.value.subject == "step 0"
    assert [stepped.step for stepped in heard] == [1, 2]  # it wasn't waited for
    assert not (tmp_path / CHECKPOINT).exists()


@pytest.mark.usefixtures("gpu")
def test_the_next_batch_is_drawn_while_one_is_learnt_from(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(experiment_of("direct"), CUDA)
    begun = [threading.Event() for _ in range(3)]
    draw, learn, ahead = trainer.dataset.draw, trainer._train_step, []

    def drawn(**given: Any) -> Any:
        begun[given["step"]].set()
        if given["step"] == 2:
            raise TrainingError("clip", "damaged features")
        return draw(**given)

    def learnt(example: Any) -> Any:
        ahead.append(begun[trainer.step + 1].wait(10))
        return learn(example)

    monkeypatch.setattr(trainer.dataset, "draw", drawn)
    monkeypatch.setattr(trainer, "_train_step", learnt)
    steps = trainer.steps(5)
    assert [next(steps).step, next(steps).step] == [1, 2]  # what can't be drawn fails the step that needs it
    with pytest.raises(TrainingError, match="damaged"):
        next(steps)
    assert ahead == [True, True]


def test_on_a_cpu_no_second_thread_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, threads = trainer_of(experiment_of("direct"), CPU), []
    draw = trainer.dataset.draw
    monkeypatch.setattr(
        trainer.dataset, "draw", lambda **given: (threads.append(threading.get_ident()), draw(**given))[1]
    )
    assert len([*trainer.steps(2)]) == 2
    assert threads == [threading.get_ident()] * 2


@pytest.mark.usefixtures("gpu")
def test_no_batch_is_drawn_in_vain_and_no_thread_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, drawn = trainer_of(experiment_of("direct"), CUDA), []
    draw = trainer.dataset.draw
    monkeypatch.setattr(trainer.dataset, "draw", lambda **given: (drawn.append(given["step"]), draw(**given))[1])
    for stepped in trainer.steps(4):
        assert stepped.step == trainer.step
    assert drawn == [0, 1, 2, 3]
    trainer.step = 0
    steps = trainer.steps(4)
    next(steps)
    del steps
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("training batches")]
