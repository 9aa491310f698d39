"""Training in less memory: batches of clips of equal length, data sets on disk, recomputed blocks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from menura.errors import TrainingError
from menura.train.data.features import SUFFIX, StoredClip, save_features
from menura.train.experiment.settings import Experiment
from menura.train.learning.batches import Dataset, Example
from menura.train.run.trainer import Trainer
from support.training import CPU, clip, tiny_experiment, tiny_rvc, write_features


def dataset_of(folder: Path, experiment: Experiment, *, memory_bytes: int = 2**30) -> Dataset:
    return Dataset.load(sorted((folder / "features").glob(f"*{SUFFIX}")), experiment, memory_bytes=memory_bytes)


def same(one: Example, other: Example) -> bool:
    fields = ("content", "f0_hz", "lengths", "speaker_id", "spectrogram")
    return torch.equal(one.audio, other.audio) and all(
        torch.equal(getattr(one.batch, name), getattr(other.batch, name)) for name in fields
    )


def test_a_data_set_on_disk_gives_the_same_batches(tmp_path: Path) -> None:
    write_features(tmp_path)
    experiment = tiny_experiment()
    held, stored = dataset_of(tmp_path, experiment), dataset_of(tmp_path, experiment, memory_bytes=1000)
    assert held.seconds == stored.seconds == 3.6
    for step in range(5):
        drawn = [d.draw(seed=1, step=step, batch_size=3, row_frames=40) for d in (held, stored)]
        assert same(*drawn)


def test_a_stored_clip_that_is_damaged_is_named(tmp_path: Path) -> None:
    write_features(tmp_path)
    path = next(iter((tmp_path / "features").glob("0.*")))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(TrainingError, match=path.name):
        StoredClip.of(path)


def test_short_clips_come_together_without_padding(tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    experiment = tiny_experiment()
    for number, frames in enumerate((60, 70, 400, 420, 500)):
        for speaker in experiment.speakers:
            save_features(
                tmp_path / "features" / f"{number}.{speaker}{SUFFIX}", clip(speaker, seed=number, frames=frames)
            )
    dataset = dataset_of(tmp_path, experiment)
    widths, speakers = [], []
    for step in range(120):
        batch = dataset.draw(seed=0, step=step, batch_size=4, row_frames=200).batch
        width = batch.content.shape[1]
        assert width - int(batch.lengths.min()) < 50
        widths.append(width)
        speakers.extend(batch.speaker_id.tolist())
    assert set(widths) == {100, 200}
    # By sound, not by file: 130 of 1450 frames are in short clips.
    assert 0.02 < widths.count(100) / len(widths) < 0.2
    assert 0.4 < sum(speakers) / len(speakers) < 0.6


@pytest.mark.parametrize(
    ("vocoder", "precision"), [("HiFi-GAN", "bf16"), ("MRF HiFi-GAN", "fp32"), ("RefineGAN", "fp32")]
)
def test_recomputing_keeps_less_and_changes_nothing(tmp_path: Path, vocoder: str, precision: str) -> None:
    write_features(tmp_path)
    plain = tiny_rvc(precision=precision)
    config = dataclasses.replace(plain.synthesizer, vocoder=vocoder, upsample_initial_channel=32)
    plain = dataclasses.replace(plain, synthesizer=config)
    kept, losses = [], []
    for experiment in (plain, dataclasses.replace(plain, gradient_checkpointing=True)):
        sizes: list[int] = []

        def count(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        trainer = Trainer(experiment, dataset_of(tmp_path, experiment), CPU)
        example = trainer.dataset.draw(seed=0, step=0, batch_size=2, row_frames=40)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            trainer._generate(example)
        kept.append(sum(sizes))
        losses.append([result.losses for result in trainer.steps(3)])
    assert kept[1] < 0.75 * kept[0]
    assert losses[0] == losses[1]
