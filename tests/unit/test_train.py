"""Training: reproducible, resumable, and its voices in RVC's layout."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal

import numpy as np
import pytest
import torch

from menura.checkpoints.voice import build_synthesizer, expected_shapes, load_voice
from menura.errors import TrainingError
from menura.models.discriminators import RvcDiscriminators
from menura.models.source import sample_phases
from menura.pipeline.analysis import analyse_clips
from menura.train.data.features import ClipSource, Extractor, load_features, save_features
from menura.train.experiment.folder import CHECKPOINT, LOG
from menura.train.experiment.settings import Schedule, load_experiment, save_experiment
from menura.train.learning.batches import Dataset
from menura.train.learning.objective import fundamental_phase
from menura.train.learning.stepper import LEFT_OUT, Stepper, fastest_precision
from menura.train.run.trainer import Trainer, learning_rate, open_trainer
from menura.train.voice import export_voice, voice_of
from support.training import CPU, DIM, FakeEncoder, clip, run, tiny_experiment, tiny_rvc, write_features


@pytest.fixture
def folder(tmp_path):
    save_experiment(tmp_path, tiny_experiment())
    write_features(tmp_path)
    return tmp_path


def logged(folder) -> list[dict[str, float]]:
    return [json.loads(line)["losses"] for line in (folder / LOG).read_text().splitlines()]


def test_experiment_survives_its_file(folder):
    assert load_experiment(folder) == tiny_experiment()


def test_features_survive_their_file(tmp_path):
    path, made = tmp_path / "x.safetensors", clip("anna", 7)
    save_features(path, made)
    read = load_features(path)
    assert read.speaker == "anna"
    assert torch.equal(read.audio, made.audio)
    assert torch.equal(read.content["aligned"], made.content["aligned"])
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TrainingError, match="damaged"):
        load_features(path)


@pytest.mark.parametrize(("gan_from", "precision"), [(1, "fp32"), (None, "bf16"), (1, "fp16")])
def test_resuming_gives_the_same_losses(folder, monkeypatch, gan_from, precision):
    narrow = lambda version: RvcDiscriminators(version, width=4)  # noqa: E731
    monkeypatch.setattr("menura.train.learning.networks.RvcDiscriminators", narrow)
    experiment = (tiny_rvc if gan_from else tiny_experiment)(precision=precision)
    schedule = dataclasses.replace(experiment.schedule, gan_from_step=gan_from)
    save_experiment(folder, dataclasses.replace(experiment, schedule=schedule))
    run(folder, 4)
    straight = logged(folder)
    (folder / CHECKPOINT).unlink()
    (folder / LOG).unlink()
    run(folder, 2)
    resumed = run(folder, 4)
    assert resumed.step == 4
    assert logged(folder) == straight


def test_a_step_that_overflows_float16_is_left_out(folder):
    trainer = open_trainer(folder, CPU)
    weight = next(trainer.generator.parameters())
    before = weight.detach().clone()
    stepper = Stepper(trainer.generator, 0.1, device=CPU, precision="fp16")
    # The gradient, 4 everywhere, is times 2**16 at first, and passes through float16, which ends at 65504.
    norms = [float(stepper.step(weight.half().sum().float() * 4, trainer.peers, 5.0)) for _ in range(4)]
    assert norms[:3] == [LEFT_OUT] * 3
    assert norms[3] == pytest.approx(4 * weight.numel() ** 0.5)
    assert float((weight.detach() - before).abs().max()) == pytest.approx(0.1, rel=0.2)  # by the one step of Adam
    hopeless = [float(stepper.step(weight.sum() * torch.inf, trainer.peers, 5.0)) for _ in range(20)]
    assert hopeless[0] == LEFT_OUT
    assert not math.isfinite(hopeless[-1])  # which stops training
    assert torch.isfinite(weight).all()


def test_scaled_losses_train_as_others_do(folder, monkeypatch):
    monkeypatch.setattr("menura.train.learning.stepper._FIRST_SCALE", 2.0**6)
    told = {}
    for precision in ("fp32", "fp16"):
        save_experiment(folder, tiny_experiment(precision=precision))
        run(folder, 6)
        told[precision] = logged(folder)
        (folder / CHECKPOINT).unlink()
        (folder / LOG).unlink()
    assert told["fp16"] != told["fp32"]
    for half, single in zip(told["fp16"], told["fp32"], strict=True):
        assert half == pytest.approx(single, rel=0.02)


@pytest.mark.parametrize(
    ("capability", "chosen"), [((6, 1), "fp32"), ((7, 5), "fp16"), ((8, 6), "bf16"), ((12, 0), "bf16")]
)
def test_older_gpus_train_in_float16(monkeypatch, capability, chosen):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert fastest_precision(torch.device("cuda")) == chosen


def test_killed_between_checkpoints_continues_from_the_last(folder):
    trainer = open_trainer(folder, CPU)
    for _ in trainer.steps(3):
        if trainer.step == 2:
            trainer.save(folder / CHECKPOINT)
    assert open_trainer(folder, CPU).step == 2


def test_ctrl_c_keeps_the_step_it_came_in(folder, monkeypatch):
    run(folder, 4)
    straight = logged(folder)
    (folder / CHECKPOINT).unlink()
    (folder / LOG).unlink()
    monkeypatch.setattr("menura.train.run.trainer.Trainer._update_average", interrupted_at(3, Trainer._update_average))
    with pytest.raises(KeyboardInterrupt):
        run(folder, 4)
    monkeypatch.undo()
    assert open_trainer(folder, CPU).step == 3
    assert 3 in previewed(folder)
    run(folder, 4)
    assert logged(folder) == straight


def interrupted_at(step, work):
    """The trainer's function with a Ctrl-C amid it, in its `step`th call."""
    calls = []

    def interrupted(trainer):
        calls.append(None)
        if len(calls) == step:
            os.kill(os.getpid(), signal.SIGINT)
        work(trainer)

    return interrupted


@pytest.mark.parametrize(("every_s", "kept"), [(0.0, [1, 2, 3]), (1e9, [3])])
def test_slow_steps_are_kept_by_the_clock(folder, monkeypatch, every_s, kept):
    schedule = dataclasses.replace(tiny_experiment().schedule, save_every_steps=1000)
    save_experiment(folder, dataclasses.replace(tiny_experiment(), schedule=schedule))
    saved, save = [], Trainer.save
    monkeypatch.setattr("menura.train.run.trainer._SAVE_EVERY_S", every_s)
    monkeypatch.setattr(Trainer, "save", lambda trainer, path: (saved.append(trainer.step), save(trainer, path)))
    run(folder, 3)
    assert saved == kept
    assert previewed(folder) == kept


def previewed(folder):
    """Steps that left pictures: every checkpoint does, even where there is nothing to hold out."""
    paths = sorted((folder / "logs" / "previews").glob("*.png"))
    assert {path.name.split(".")[1] for path in paths} == {"0", "1"}
    return sorted({int(path.name.split(".")[0]) for path in paths})


def test_training_lowers_the_loss(folder):
    experiment = tiny_experiment()
    schedule = dataclasses.replace(experiment.schedule, steps=16, learning_rate=4e-3)
    save_experiment(folder, dataclasses.replace(experiment, schedule=schedule))
    run(folder, 16)
    totals = [losses["total"] for losses in logged(folder)]
    assert np.mean(totals[-5:]) < 0.97 * np.mean(totals[:5])


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_exported_voice_has_rvcs_layout(folder, ending):
    save_experiment(folder, tiny_rvc())
    run(folder, 2)
    path = folder / f"voice{ending}"
    export_voice(folder, path)
    voice = load_voice(path)
    assert {name: tuple(t.shape) for name, t in voice.state.items()} == expected_shapes(voice.config)
    assert "dec.ups.0.weight_g" in voice.state
    assert not any(name.startswith("enc_q") for name in voice.state)
    assert voice.config == tiny_rvc().synthesizer
    assert voice.metadata.speaker_names == ("anna", "bert")
    assert build_synthesizer(voice).emb_g.weight.shape == (2, 8)


def test_one_speakers_voice_sounds_like_the_joint_one(folder):
    trainer = run(folder, 2)
    joint = build_synthesizer(voice_of(trainer.experiment, trainer.average, step=2))
    alone = build_synthesizer(voice_of(trainer.experiment, trainer.average, step=2, speaker="bert"))
    z, one, zero = torch.randn(1, 8, 20), torch.tensor([1]), torch.tensor([0])
    source = torch.zeros(1, 3, 20 * 240)
    assert torch.equal(joint.decode(z, joint.condition(one), source), alone.decode(z, alone.condition(zero), source))
    with pytest.raises(TrainingError, match="no speaker 'carl'"):
        voice_of(trainer.experiment, trainer.average, step=2, speaker="carl")


def test_nothing_to_export_yet(folder):
    with pytest.raises(TrainingError) as caught:
        export_voice(folder, folder / "voice.safetensors")
    assert caught.value.subject == str(folder)
    assert caught.value.advice


def test_a_speaker_without_recordings_is_refused(folder):
    for path in (folder / "features").glob("*.anna.*"):
        path.unlink()
    with pytest.raises(TrainingError) as caught:
        open_trainer(folder, CPU)
    assert caught.value.subject == "anna"


def test_batches_depend_on_seed_and_step_only(folder):
    experiment = tiny_experiment()
    draw = {"batch_size": 3, "row_frames": 40}
    first, second = (
        Dataset.load(sorted((folder / "features").glob("*")), experiment, memory_bytes=2**30) for _ in range(2)
    )
    first.draw(seed=1, step=4, **draw)
    assert torch.equal(first.draw(seed=1, step=5, **draw).audio, second.draw(seed=1, step=5, **draw).audio)
    assert not torch.equal(first.draw(seed=1, step=5, **draw).audio, first.draw(seed=1, step=6, **draw).audio)


def test_learning_rate_rises_and_falls():
    schedule = Schedule(steps=100, warmup_steps=10, learning_rate=1.0, final_learning_rate=0.1)
    rates = [learning_rate(schedule, step) for step in range(120)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[100] == rates[119] == pytest.approx(0.1)


def test_source_phase_is_that_of_the_sound():
    f0_hz = torch.full((2, 30), 120.0)
    f0_hz[:, 12:15] = 0
    cycles = sample_phases(torch.zeros(2), f0_hz, 240, 24_000).float()
    true = torch.tensor([[0.1], [0.7]]).expand(2, 30 * 240).clone()
    true[:, 15 * 240 :] += 0.35
    sound = torch.sin(2 * torch.pi * (cycles + true)) * (f0_hz > 0).repeat_interleave(240, dim=1)
    found = fundamental_phase(sound, cycles, f0_hz, 240)
    wrong = (found - true + 0.5).remainder(1.0) - 0.5
    assert wrong[:, : 12 * 240].abs().max() < 0.02
    assert wrong[:, 15 * 240 :].abs().max() < 0.02


class FakeEstimator:
    name, core_frames, context_frames = "fake", 800, 24

    def estimate(self, samples):
        return samples.unfold(1, 1, 160)[:, :, 0]


@pytest.mark.parametrize("seconds", [0.5, 3.0, 7.99, 21.3])
def test_windows_join_exactly(seconds):
    samples = np.arange(int(seconds * 16_000), dtype=np.float32)
    (made,) = analyse_clips([samples], FakeEncoder(), None, CPU)
    content = made.content[: len(samples) // 320, 0]
    expected = samples[: len(samples) // 320 * 320].reshape(-1, 320).mean(axis=1)
    assert np.allclose(content, expected)


def test_extracted_features_fit_each_other():
    rng = np.random.default_rng(0)
    samples = rng.normal(0, 0.1, 44_100 * 2).astype(np.float32)
    extractor = Extractor(encoder=FakeEncoder(), estimator=FakeEstimator(), sample_rate=24_000)
    source = ClipSource(speaker="anna", samples=samples, rate=44_100, aligned=(samples,), seed=5)
    (made,) = extractor.extract_all([source])
    assert made.frames == 200
    assert made.audio.shape == (200 * 240,)
    assert {kind: len(rows) for kind, rows in made.content.items()} == {"own": 1, "aligned": 1, "perturbed": 3}
    assert all(rows.shape[1:] == (100, DIM) for rows in made.content.values())
    (again,) = extractor.extract_all([source])
    assert torch.equal(made.content["perturbed"], again.content["perturbed"])
    with pytest.raises(TrainingError, match="half a second"):
        extractor.extract_all([dataclasses.replace(source, samples=samples[:8_000])])
