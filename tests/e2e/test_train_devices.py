"""Training in several processes, here on the processor: what they learn together."""

from __future__ import annotations

import atexit
import dataclasses
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from menura.errors import AssetMissingError, OptionError, ResourceError, TrainingError
from menura.train.events import ignore
from menura.train.experiment.folder import CHECKPOINT
from menura.train.experiment.settings import save_experiment
from menura.train.learning.stepper import Peers
from menura.train.run.devices import check_devices, train_together
from menura.train.run.trainer import open_trainer
from support.training import CPU, tiny_experiment, tiny_rvc, write_features


def train(peers: Peers, device: torch.device, given: Any) -> None:
    """What each process does; keeps what it ends with."""
    torch.set_num_threads(1)
    folder: Path = given
    atexit.register(note_group, folder / f"group.{peers.rank}.txt")
    trainer = open_trainer(folder, device, peers)
    # Gradients of this process alone differ from the others'; those that are applied don't.
    trainer.run(folder, until_step=3, on_event=ignore)
    assert trainer.discriminators is not None
    torch.save(trainer.generator.state_dict(), folder / f"end.{peers.rank}.pt")
    torch.save(trainer.discriminators.state_dict(), folder / f"judges.{peers.rank}.pt")
    one = peers.average(torch.tensor([float(peers.rank)])) if peers.average else None
    assert one is not None
    assert float(one) == 0.5


def note_group(path: Path) -> None:
    """At a process's end: whether its group is still there."""
    path.write_text("left" if distributed.is_initialized() else "gone")


def fail_alone(peers: Peers, device: torch.device, given: Any) -> None:
    """The second process fails; the first waits for its numbers."""
    folder, failure = given
    atexit.register(note_group, folder / f"group.{peers.rank}.txt")
    assert peers.average
    peers.average(torch.zeros(1))
    if peers.rank == 1:
        raise failure
    peers.average(torch.zeros(1))


def die_alone(peers: Peers, device: torch.device, given: Any) -> None:
    """The second process is killed."""
    if peers.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def interrupt_parent(peers: Peers, device: torch.device, given: Any) -> None:
    """Nobody but the process that started these is interrupted."""
    folder: Path = given
    atexit.register(note_group, folder / f"group.{peers.rank}.txt")
    assert peers.average
    peers.average(torch.zeros(1))
    if peers.rank == 0:
        os.kill(os.getppid(), signal.SIGINT)
    time.sleep(600)


@pytest.mark.slow
def test_two_processes_learn_one_network(tmp_path: Path) -> None:
    write_features(tmp_path)
    experiment = tiny_rvc()
    schedule = dataclasses.replace(experiment.schedule, batch_size=4, save_every_steps=3, gan_from_step=1)
    save_experiment(tmp_path, dataclasses.replace(experiment, schedule=schedule))
    train_together(2, CPU, train, tmp_path)
    assert [(tmp_path / f"group.{rank}.txt").read_text() for rank in range(2)] == ["gone", "gone"]
    for network in ("end", "judges"):
        ends = [torch.load(tmp_path / f"{network}.{rank}.pt", weights_only=True) for rank in range(2)]
        assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert len((tmp_path / "losses.jsonl").read_text().splitlines()) == 3
    # One process goes on from where two stopped.
    trainer = open_trainer(tmp_path, CPU)
    assert trainer.step == 3
    assert trainer.discriminators is not None
    assert all(torch.equal(value, ends[0][name]) for name, value in trainer.discriminators.state_dict().items())
    assert (tmp_path / CHECKPOINT).is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failure", "kind", "told"),
    [
        (TrainingError("step 3", "not a number any more"), TrainingError, r"^step 3"),
        (ValueError("odd"), RuntimeError, r"^ValueError: odd$"),
    ],
)
def test_one_that_fails_ends_all_with_its_own_error(
    tmp_path: Path, failure: Exception, kind: type[Exception], told: str
) -> None:
    with pytest.raises(kind, match=told):
        train_together(2, CPU, fail_alone, (tmp_path, failure))
    assert (tmp_path / "group.1.txt").read_text() == "gone"


@pytest.mark.slow
def test_one_that_is_killed_ends_all(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="SIGKILL"):
        train_together(2, CPU, die_alone, None)


@pytest.mark.slow
def test_an_interruption_of_the_parent_ends_all(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_together(2, CPU, interrupt_parent, tmp_path)
    assert not multiprocessing.active_children()
    assert [(tmp_path / f"group.{rank}.txt").read_text() for rank in range(2)] == ["gone", "gone"]


def test_rows_are_shared_out_without_rest(tmp_path: Path) -> None:
    write_features(tmp_path)
    save_experiment(tmp_path, tiny_experiment())
    example = open_trainer(tmp_path, CPU).dataset.draw(seed=0, step=0, batch_size=6, row_frames=40)
    parts = [Peers(rank=rank, world=3).share(example) for rank in range(3)]
    assert all(len(part.audio) == 2 for part in parts)
    joined = torch.stack([part.audio for part in parts], dim=1).flatten(0, 1)
    assert torch.equal(joined, example.audio)
    speakers = torch.stack([part.batch.speaker_id for part in parts], dim=1).flatten()
    assert torch.equal(speakers, example.batch.speaker_id)


@pytest.mark.parametrize(
    ("devices", "device", "batch_size"),
    [(3, CPU, 8), (2, torch.device("mps"), 8), (2, torch.device("cuda"), 8)],
)
def test_what_can_not_be_shared_is_refused(devices: int, device: torch.device, batch_size: int) -> None:
    with pytest.raises(OptionError) as caught:
        check_devices(devices, device, batch_size)
    assert caught.value.option == "devices"


def test_without_fabric_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lightning_fabric", None)
    with pytest.raises(AssetMissingError, match="multi-gpu"):
        check_devices(2, CPU, 8)
