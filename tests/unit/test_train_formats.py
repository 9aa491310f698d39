"""What training reads and writes of others: RVC's training states and voices, indexes, TensorBoard's files."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import soundfile
import torch

from menura.checkpoints.voice import load_voice
from menura.errors import CheckpointError, OptionError, ResourceError, TrainingError, UnsafeCheckpointError
from menura.models.config import rvc_config
from menura.models.discriminators import RvcDiscriminators
from menura.models.weights import classic, without_weights
from menura.options import RunOptions
from menura.retrieval import faiss_index
from menura.retrieval.faiss_index import FaissIndex, build_index, cell_count, cluster_centres, index_name
from menura.train.data.features import load_features, save_features
from menura.train.events import Noted, Stepped, Validated, ignore
from menura.train.experiment.folder import BEST, CHECKPOINT, LOG, checkpoint_paths
from menura.train.experiment.settings import WarmStart, load_experiment, save_experiment
from menura.train.learning.batches import Dataset
from menura.train.learning.checkpoint import check_disk_space, write_state
from menura.train.learning.networks import make_generator, warm_discriminators, warm_generator
from menura.train.learning.objective import RvcMelLoss
from menura.train.run.log import Curves
from menura.train.run.trainer import Trainer, open_trainer
from menura.train.run.validation import Validations, ValidationSet
from menura.train.session import TrainingSession
from menura.train.voice import export_checkpoints, voice_of
from support.recipe import load_manifest
from support.training import CPU, Heard, clip, run, tiny_experiment, tiny_rvc, write_features


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_experiment(tmp_path, tiny_experiment())
    write_features(tmp_path)
    return tmp_path


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """RVC's discriminators, an eighth as wide."""
    narrow = partial(RvcDiscriminators, width=4)
    monkeypatch.setattr("menura.train.learning.networks.RvcDiscriminators", narrow)


# -- RVC's training states


@pytest.mark.parametrize(("version", "count"), [("v1", 7), ("v2", 9)])
def test_discriminators_have_rvcs_layout(version: str, count: int) -> None:
    with without_weights():
        state = classic(RvcDiscriminators(version).state_dict())
    assert len({name.split(".")[1] for name in state}) == count
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert shapes["discriminators.0.convs.0.weight_v"] == (16, 1, 15)
    assert shapes["discriminators.0.convs.3.weight_v"] == (1024, 4, 41)
    assert shapes["discriminators.0.convs.5.weight_v"] == (1024, 1024, 5)
    assert shapes["discriminators.0.conv_post.weight_v"] == (1, 1024, 3)
    assert shapes["discriminators.1.convs.0.weight_v"] == (32, 1, 5, 1)
    assert shapes["discriminators.1.convs.0.weight_g"] == (32, 1, 1, 1)
    assert shapes["discriminators.1.convs.4.weight_v"] == (1024, 1024, 5, 1)
    assert shapes["discriminators.1.conv_post.weight_v"] == (1, 1024, 3, 1)
    assert len(state) == 3 * (7 + 6 * (count - 1))


def test_discriminators_compare_every_layer(narrow) -> None:
    judged = RvcDiscriminators("v2", width=4)(torch.randn(2, 4000))
    assert [len(item.features) for item in judged] == [7] + [6] * 8
    assert judged[0].scores.shape == (2, 1, 4000 // 256 + 1)
    assert torch.equal(judged[3].features[-1], judged[3].scores)


@pytest.mark.parametrize("vocoder", ["HiFi-GAN", "MRF HiFi-GAN", "RefineGAN"])
def test_rvcs_own_training_learns(folder: Path, narrow, vocoder: str) -> None:
    experiment = tiny_rvc()
    config = dataclasses.replace(experiment.synthesizer, vocoder=vocoder, upsample_initial_channel=32)
    schedule = dataclasses.replace(
        experiment.schedule, gan_from_step=0, learning_rate=2e-3, steps=30, max_gradient=1000.0
    )
    experiment = dataclasses.replace(experiment, synthesizer=config, schedule=schedule)
    clips = [load_features(path) for path in sorted((folder / "features").glob("*"))]
    dataset = Dataset(clips, experiment)
    losses = [result.losses for result in Trainer(experiment, dataset, CPU).steps(12)]
    named = {"mel", "kl", "discriminator", "adversarial", "features", "total", "gradient", "discriminator_gradient"}
    assert set(losses[0]) == named
    assert np.mean([row["mel"] for row in losses[-3:]]) < 0.9 * np.mean([row["mel"] for row in losses[:3]])
    assert np.mean([row["kl"] for row in losses[-3:]]) < np.mean([row["kl"] for row in losses[:3]])


def test_training_states_go_out_and_come_back(folder: Path, narrow) -> None:
    experiment = tiny_rvc()
    schedule = dataclasses.replace(experiment.schedule, gan_from_step=0)
    save_experiment(folder, dataclasses.replace(experiment, schedule=schedule))
    trained = run(folder, 2)
    g_path, d_path = export_checkpoints(folder)
    assert (g_path.name, d_path.name) == ("G_2.pth", "D_2.pth")
    content = torch.load(g_path, weights_only=True)
    assert set(content) == {"model", "optimizer", "learning_rate", "iteration"}
    assert "enc_q.enc.in_layers.0.weight_g" in content["model"]
    fresh = make_generator(experiment)
    warm_generator(fresh, g_path)
    assert all(torch.equal(value, trained.generator.state_dict()[name]) for name, value in fresh.state_dict().items())
    judges = RvcDiscriminators("v2", width=4)
    warm_discriminators(judges, d_path)
    assert trained.discriminators is not None
    assert all(torch.equal(v, trained.discriminators.state_dict()[n]) for n, v in judges.state_dict().items())


def test_warm_start_takes_rvcs_109_speakers_and_its_halves(folder: Path, tmp_path: Path) -> None:
    source = tiny_rvc()
    wide = dataclasses.replace(source.synthesizer, n_speakers=109)
    names = tuple(f"s{i}" for i in range(109))
    state = classic(make_generator(dataclasses.replace(source, synthesizer=wide, speakers=names)).state_dict())
    path = tmp_path / "f0G24k.pth"
    torch.save({"model": {name: value.half() for name, value in state.items()}, "iteration": 1}, path)
    network = make_generator(source)
    warm_generator(network, path)
    made = classic(network.state_dict())
    assert all(torch.allclose(made[name], state[name].half().float()) for name in made if name.startswith("enc_"))
    assert torch.equal(network.emb_g.weight, state["emb_g.weight"].half().float()[:2])


def test_warm_start_from_a_voice_and_the_running_average(folder: Path, tmp_path: Path) -> None:
    from menura.checkpoints.voice import save_voice

    donor = tiny_experiment()
    voice = voice_of(donor, make_generator(donor).state_dict(), step=1, speaker="bert")
    save_voice(tmp_path / "donor.pth", voice)
    warm = dataclasses.replace(donor.warm_start, generator=str(tmp_path / "donor.pth"))
    save_experiment(folder, dataclasses.replace(donor, warm_start=warm))
    trainer = open_trainer(folder, CPU)
    name = "enc_p.emb_phone.weight"
    assert torch.equal(trainer.average[name], load_voice(tmp_path / "donor.pth").state[name])
    assert torch.equal(trainer.generator.state_dict()[name], trainer.average[name])


def test_other_files_are_refused_as_warm_starts(tmp_path: Path) -> None:
    network = make_generator(tiny_experiment())
    torch.save({"weights": 1}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="not a training checkpoint"):
        warm_generator(network, tmp_path / "a.pth")
    torch.save({"model": {"dec.conv_pre.weight": torch.zeros(1)}}, tmp_path / "b.pth")
    with pytest.raises(TrainingError, match="weights fit"):
        warm_generator(network, tmp_path / "b.pth")
    torch.save({"model": {"x": torch.zeros(1)}, "optimizer": os.system}, tmp_path / "c.pth")
    with pytest.raises(UnsafeCheckpointError):
        warm_generator(network, tmp_path / "c.pth")


# -- voices


@pytest.mark.parametrize(
    ("manifest", "version", "rate", "vocoder"),
    [
        ("voice_v1_32k_f0", "v1", 32_000, "HiFi-GAN"),
        ("voice_v1_40k_f0", "v1", 40_000, "HiFi-GAN"),
        ("voice_v1_48k_f0", "v1", 48_000, "HiFi-GAN"),
        ("voice_v2_32k_f0", "v2", 32_000, "HiFi-GAN"),
        ("voice_v2_40k_f0", "v2", 40_000, "HiFi-GAN"),
        ("voice_v2_48k_f0", "v2", 48_000, "HiFi-GAN"),
        ("voice_v2_40k_mrf", "v2", 40_000, "MRF HiFi-GAN"),
        ("voice_v2_32k_refinegan", "v2", 32_000, "RefineGAN"),
    ],
)
def test_sizes_are_rvcs(manifest: str, version: str, rate: int, vocoder: str) -> None:
    from menura.checkpoints.voice import expected_shapes, parse_config

    known = load_manifest(manifest)
    state = {t.name: torch.empty(t.shape, device="meta") for t in known.tensors}
    theirs = parse_config(known.extra, state)
    ours = rvc_config(version, rate, 109, content="contentvec", has_f0=True, vocoder=vocoder)
    segment = {"segment_size_frames": theirs.segment_size_frames}  # what Applio states is 32 whatever it trained with
    assert dataclasses.replace(ours, **segment) == theirs
    assert list(expected_shapes(ours)) == [t.name for t in known.tensors]


def test_a_full_size_voice_is_written_as_rvc_writes_it(tmp_path: Path) -> None:
    from menura.checkpoints.voice import save_voice

    config = rvc_config("v2", 40_000, 1, content="contentvec", has_f0=True, vocoder="HiFi-GAN")
    experiment = tiny_rvc(synthesizer=config, speakers=("me",))
    voice = voice_of(experiment, make_generator(experiment).state_dict(), step=5)
    save_voice(tmp_path / "me.pth", voice)
    content = torch.load(tmp_path / "me.pth", weights_only=True)
    known = load_manifest("voice_v2_40k_f0")
    assert list(content["weight"]) == [t.name for t in known.tensors]
    assert {value.dtype for value in content["weight"].values()} == {torch.float16}
    expected = {t.name: t.shape for t in known.tensors} | {"emb_g.weight": (1, 256)}
    assert {name: tuple(value.shape) for name, value in content["weight"].items()} == expected
    assert set(known.extra) <= set(content)
    ours, theirs = content["config"], known.extra["config"]
    assert [v for i, v in enumerate(ours) if i != 15] == [v for i, v in enumerate(theirs) if i != 15]
    assert ours[15] == 1
    assert load_voice(tmp_path / "me.pth").metadata.step == 5


# -- robustness


def test_killed_run_goes_on_as_if_it_had_not_been(folder: Path, tmp_path: Path) -> None:
    """Kill -9 somewhere between two checkpoints; the log of losses ends up the same, line by line."""
    other = tmp_path / "killed"
    save_experiment(other, load_experiment(folder))
    write_features(other)
    run(folder, 8)
    code = (
        # Sums in another order, as other threads make them, would be another curve.
        f"import sys, pathlib, torch; torch.set_num_threads({torch.get_num_threads()});"
        "from menura.train.run.trainer import open_trainer;"
        "trainer = open_trainer(pathlib.Path(sys.argv[1]), torch.device('cpu'));"
        "trainer.run(pathlib.Path(sys.argv[1]), until_step=1000, on_event=lambda e: print(e.step, flush=True))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(other)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 5:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    step = open_trainer(other, CPU).step
    with (other / LOG).open("a") as log:
        log.write('{"step": 99, "los')  # half a line, as a crash leaves it
    run(other, max(8, step))
    if step > 8:
        run(folder, step)
    assert losses_of(other) == losses_of(folder)


def losses_of(folder: Path) -> list[tuple[int, dict[str, float]]]:
    rows = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    return [(row["step"], row["losses"]) for row in rows]


def test_what_training_began_with_is_not_needed_later(folder: Path) -> None:
    """Experiments named files elsewhere before they had copies."""
    run(folder, 2)
    warm = WarmStart(generator="/gone/voice.safetensors")
    save_experiment(folder, dataclasses.replace(load_experiment(folder), warm_start=warm))
    check_disk_space(folder, load_experiment(folder), seconds=1.0)
    assert run(folder, 4).step == 4


def test_fewer_checkpoints_are_kept_when_asked(folder: Path) -> None:
    for keep, left in (
        (4, ["checkpoint.pt", "checkpoint.1.pt", "checkpoint.2.pt", "checkpoint.3.pt"]),
        (1, ["checkpoint.pt"]),
    ):
        experiment = load_experiment(folder)
        schedule = dataclasses.replace(experiment.schedule, keep_last=keep, save_every_steps=1)
        save_experiment(folder, dataclasses.replace(experiment, schedule=schedule))
        run(folder, 5 if keep == 4 else 6)
        assert [path.name for path in checkpoint_paths(folder)] == left


def test_previews_are_of_the_experiments_own_speakers(folder: Path) -> None:
    """Recipes' features may lie beside those of others."""
    for number in range(3):
        save_features(folder / "features" / f"..{number}.safetensors", clip("somebody else", number))
    trainer = run(folder, 2)
    assert trainer.validation is not None
    assert {shown.speaker for shown in trainer.validation.previews(trainer._averaged())} <= {"anna", "bert"}
    assert (folder / "logs" / "previews" / "00000002.0.png").is_file()


def test_the_last_checkpoints_are_kept_and_a_damaged_one_is_passed_over(folder: Path) -> None:
    experiment = load_experiment(folder)
    schedule = dataclasses.replace(experiment.schedule, keep_last=3)
    save_experiment(folder, dataclasses.replace(experiment, schedule=schedule))
    run(folder, 8)
    assert [path.name for path in checkpoint_paths(folder)] == [CHECKPOINT, "checkpoint.1.pt", "checkpoint.2.pt"]
    assert open_trainer(folder, CPU).step == 8
    (folder / CHECKPOINT).write_bytes((folder / CHECKPOINT).read_bytes()[:1000])
    assert open_trainer(folder, CPU).step == 6
    torch.save(torch.load(folder / "checkpoint.1.pt") | {"course": [1]}, folder / CHECKPOINT)
    assert open_trainer(folder, CPU).step == 6
    for path in checkpoint_paths(folder):
        path.write_bytes(b"damaged")
    with pytest.raises(TrainingError, match="damaged"):
        open_trainer(folder, CPU)


def test_a_full_disk_leaves_the_last_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(folder, 2)
    before = (folder / CHECKPOINT).read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ResourceError, match="Free space"):
        write_state(folder / CHECKPOINT, {"step": 3})
    assert (folder / CHECKPOINT).read_bytes() == before
    assert not list(folder.glob(".*part"))


def test_no_number_stops_with_advice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(folder, 2)
    trainer = open_trainer(folder, CPU)
    with torch.no_grad():
        trainer.generator.enc_p.proj.weight.fill_(float("nan"))
    with pytest.raises(TrainingError) as caught:
        trainer.run(folder, until_step=4, on_event=ignore)
    assert caught.value.subject == "step 2"
    assert "{learning_rate}" in str(caught.value.details.advice)
    assert open_trainer(folder, CPU).step == 2


# -- held out


def test_held_out_slices_are_measured_without_a_trace(folder: Path) -> None:
    experiment = load_experiment(folder)
    clips = [load_features(path) for path in sorted((folder / "features").glob("*"))]
    dataset = Dataset(clips, experiment)
    held = ValidationSet(clips[:1], speakers=experiment.speakers, device=CPU)
    schedule = dataclasses.replace(experiment.schedule, evaluate_every_steps=2)
    measured = dataclasses.replace(experiment, schedule=schedule)
    events: list[Any] = []
    Trainer(measured, dataset, CPU, held).run(folder, until_step=4, on_event=events.append)
    plain = [result.losses for result in Trainer(experiment, dataset, CPU).steps(4)]
    assert [event.losses for event in events if isinstance(event, Stepped)] == plain
    validated = [event for event in events if isinstance(event, Validated)]
    assert [event.step for event in validated] == [2, 4]
    best = torch.load(folder / BEST, weights_only=True)
    assert best["held_out"] == min(event.mel for event in validated)
    assert (folder / "logs" / "previews" / "00000004.0.png").read_bytes().startswith(b"\x89PNG")
    made, real = (soundfile.read(folder / "logs" / "previews" / f"{stem}.0.flac") for stem in ("00000004", "recording"))
    assert made[1] == real[1] == 24_000
    assert len(made[0]) == len(real[0]) > 0
    resumed = Trainer(measured, dataset, CPU, held)
    resumed.restore(folder / CHECKPOINT)
    assert resumed.validations.steps == (2, 4)


def test_training_stops_when_held_out_slices_get_worse(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = load_experiment(folder)
    clips = [load_features(path) for path in sorted((folder / "features").glob("*"))]
    dataset = Dataset(clips, experiment)
    schedule = dataclasses.replace(experiment.schedule, evaluate_every_steps=1, patience=4)
    trainer = Trainer(
        dataclasses.replace(experiment, schedule=schedule),
        dataset,
        CPU,
        ValidationSet(clips[:1], speakers=experiment.speakers, device=CPU),
    )
    distances = dict(enumerate([3.0, 2.0, 2.1, 2.2, 2.3, 2.4, 2.5], start=1))
    monkeypatch.setattr(trainer, "measure", fixed_distances(trainer, distances))
    validated = Heard(Validated)
    trainer.run(folder, until_step=20, on_event=validated)
    assert trainer.step == 6
    assert [event.overtraining for event in validated] == [False] * 4 + [True] * 2
    assert torch.load(folder / BEST, weights_only=True)["step"] == 2
    assert open_trainer(folder, CPU).step == 6


@pytest.mark.parametrize("patience", [None, 2])
def test_stops_by_until_leave_no_trace(folder: Path, monkeypatch: pytest.MonkeyPatch, patience: int | None) -> None:
    """At measured steps, between them, before the best and after it."""
    experiment = load_experiment(folder)
    clips = [load_features(path) for path in sorted((folder / "features").glob("*"))]
    dataset = Dataset(clips, experiment)
    held = ValidationSet(clips[:1], speakers=experiment.speakers, device=CPU)
    schedule = dataclasses.replace(experiment.schedule, evaluate_every_steps=2, patience=patience, steps=12)
    experiment = dataclasses.replace(experiment, schedule=schedule)
    worse = {2: 3.0, 4: 2.0, 6: 2.1, 8: 2.2, 10: 2.3, 12: 2.4}
    courses = []
    for name, stops in (("straight", [12]), ("stopped", [1, 2, 3, 4, 7, 8, 11, 12])):
        (place := folder / name).mkdir()
        told = Heard()
        for stop in stops:
            trainer = Trainer(experiment, dataset, CPU, held)
            if checkpoint_paths(place):
                trainer.restore(place / CHECKPOINT)
            if not trainer.is_over:
                monkeypatch.setattr(trainer, "measure", fixed_distances(trainer, worse))
                trainer.run(place, until_step=stop, on_event=told)
        logged = [json.loads(line) | {"seconds": 0} for line in (place / LOG).read_text().splitlines()]
        courses.append((logged, [dataclasses.asdict(event) | {"seconds": 0} for event in told]))
        assert trainer.step == (8 if patience else 12)
        assert trainer.validations.best_step == 4
        shown = {int(path.name.split(".")[0]) for path in (place / "logs" / "previews").glob("*.0.png")}
        assert shown == {step for step in (*stops, 2, 4, 6, 8, 10, 12) if step <= trainer.step}
    assert courses[0] == courses[1]
    for file in (CHECKPOINT, BEST):
        straight, stopped = (torch.load(folder / name / file, weights_only=True) for name in ("straight", "stopped"))
        assert same(straight, stopped)


def fixed_distances(trainer: Trainer, distances: dict[int, float]) -> Callable[[], float]:
    """Measure, but let the distance at a step be this one."""
    real = trainer.measure

    def measure() -> float:
        real()
        return distances[trainer.step]

    return measure


def same(one: Any, other: Any) -> bool:
    """Equal to the last bit, however deep."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def test_course() -> None:
    course = Validations()
    assert (course.best_step, course.since_best, course.overtraining) == (None, 0, False)
    for step, distance in enumerate([3.0, 2.0, 2.5, 2.4, 2.6]):
        course = course.after(step, distance)
    assert (course.best_step, course.since_best, course.overtraining) == (1, 3, False)


# -- losses


def test_rvcs_mel_distance() -> None:
    loss = RvcMelLoss(tiny_experiment().synthesizer)
    sound = torch.randn(2, 12 * 240)
    assert float(loss(sound, sound)) == 0
    assert float(loss(sound * 2, sound)) == pytest.approx(np.log(2), rel=1e-3)


# -- indexes


@pytest.mark.parametrize(("vectors", "cells"), [(30, 1), (784, 20), (10_000, 256), (200_000, 5128)])
def test_indexes_are_sized_as_rvcs(vectors: int, cells: int) -> None:
    assert cell_count(vectors) == cells


def test_an_index_finds_its_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).normal(size=(400, 16)).astype(np.float32)
    made = build_index(vectors)
    path = tmp_path / index_name(made.cells, "my voice", "v2")
    assert path.name == "added_IVF10_Flat_nprobe_1_my voice_v2.index"
    path.write_bytes(made.data)
    loaded = FaissIndex.load(path)
    assert (loaded.size, loaded.dim) == (400, 16)
    assert np.allclose(loaded.retrieve(vectors[:5]), vectors[:5], atol=1e-5)
    assert faiss.read_index(str(path)).nprobe == 1
    monkeypatch.setattr(faiss_index, "CENTRES", 50)
    monkeypatch.setattr(faiss_index, "REDUCE_ABOVE", 300)
    sizes = {method: build_index(vectors, method=method).vectors for method in faiss_index.METHODS}
    assert sizes == {"auto": 50, "kmeans": 50, "faiss": 400}
    with pytest.raises(OptionError, match="index_method"):
        build_index(vectors, method="other")


def test_cluster_centres_lie_in_the_clusters() -> None:
    rng = np.random.default_rng(1)
    middles = np.array([[0, 0], [10, 0], [0, 10]], dtype=np.float32)
    points = np.concatenate([m + rng.normal(0, 0.1, (50, 2)) for m in middles]).astype(np.float32)
    centres = cluster_centres(points, 3, seed=0)
    assert np.allclose(centres[np.lexsort(centres.round().T)], middles[np.lexsort(middles.T)], atol=0.1)


# -- TensorBoard's files


def test_tensorboard_reads_the_curves(tmp_path: Path) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    curves = Curves(tmp_path, begin_step=300)
    curves.scalars({"loss/mel": 0.5}, 301)
    curves.sound("made/me", np.zeros(100, dtype=np.float32), 24_000, 301)
    (path,) = tmp_path.iterdir()
    version, session, scalar, sound = loader.LegacyEventFileLoader(str(path)).Load()
    assert version.file_version == "brain.Event:2"
    assert (session.step, session.session_log.status) == (301, 1)  # what is known of 300 stands
    assert (scalar.step, scalar.summary.value[0].tag, scalar.summary.value[0].simple_value) == (301, "loss/mel", 0.5)
    assert sound.summary.value[0].audio.sample_rate == 24_000


def test_without_tensorboard_training_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("menura.train.run.log.find_spec", lambda _: None)
    notes = Heard(Noted)
    assert TrainingSession(folder, RunOptions(until=2), on_event=notes).run().step == 2
    assert [note.note.advice for note in notes] == ["pip install 'menura[curves]'"]
    assert not list((folder / "logs").glob("*tfevents*"))
