"""From recordings to slices: what is cut, what is dropped, what is cached, what is told."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from menura.checkpoints.voice import expected_shapes, load_voice, save_voice
from menura.cli.main import run
from menura.errors import AssetMissingError, CheckpointError, OptionError, ResourceError, TrainingError
from menura.options import RunOptions, TrainingOptions
from menura.train.create import create_experiment
from menura.train.data import features
from menura.train.data.features import ClipSource, Extractor
from menura.train.data.prepare import is_prepared, prepare
from menura.train.data.recordings import speakers_of
from menura.train.data.report import load_preparation, report_text
from menura.train.data.slicing import (
    clipped_share,
    cut_points,
    fault_of,
    high_passed,
    loudness_db,
    normalised,
    spans_by_silence,
    spans_of_chunks,
)
from menura.train.events import Preparing, ignore
from menura.train.experiment.defaults import changed, network
from menura.train.experiment.folder import checkpoint_paths
from menura.train.experiment.settings import Experiment, WarmStart, load_experiment, save_experiment
from menura.train.learning import checkpoint as room
from menura.train.learning.networks import initial_weights
from menura.train.run.trainer import open_trainer
from menura.train.session import TrainingSession
from menura.train.voice import export_voice
from menura.voices.library import find_voice
from support.training import CPU, RVC_CONFIG, FakeEncoder

RATE = 16_000


def noise(seconds: float, level: float = 0.1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, level, int(seconds * RATE)).astype(np.float32)


def test_high_pass_equals_scipys_and_moves_nothing() -> None:
    from scipy.signal import butter, sosfiltfilt

    samples = noise(65.0) + np.float32(0.2)
    expected = sosfiltfilt(butter(5, 48, "highpass", fs=RATE, output="sos"), samples.astype(np.float64))
    inside = slice(RATE, -RATE)  # scipy's ends are extended otherwise
    assert np.abs(high_passed(samples, RATE)[inside] - expected[inside]).max() < 2e-4
    assert len(high_passed(samples[:100], RATE)) == 100


def test_loudness_leaves_pauses_out() -> None:
    speech = noise(4.0)
    with_pause = np.concatenate([speech, np.zeros(RATE * 10, dtype=np.float32)])
    assert loudness_db(with_pause, RATE) == pytest.approx(loudness_db(speech, RATE), abs=0.2)
    assert loudness_db(normalised(with_pause, RATE), RATE) == pytest.approx(-23, abs=0.3)
    peaky = speech.copy()
    peaky[100] = 1.0
    assert np.abs(normalised(peaky / 100, RATE)).max() <= 0.971


def test_pauses_are_cut_out_and_long_stretches_cut_in_quiet_places() -> None:
    pause = np.zeros(RATE, dtype=np.float32)
    samples = np.concatenate([pause, noise(2.0), pause, pause, noise(11.0, seed=1), pause])
    dip = 5 * RATE + 6 * RATE
    samples[dip : dip + RATE // 5] *= 0.01
    spans = spans_by_silence(samples, RATE, 8.0)
    assert spans[0].stop - spans[0].start == pytest.approx(2.5 * RATE, abs=0.05 * RATE)
    assert len(spans) == 3
    assert abs(spans[1].stop - dip - RATE // 10) < RATE // 10
    assert spans[1].stop == spans[2].start
    kept = sum(span.stop - span.start for span in spans) / RATE
    assert kept == pytest.approx(13 + 4 * 0.25, abs=0.1)
    assert spans_by_silence(np.zeros(RATE * 3, dtype=np.float32), RATE, 8.0) == []


def test_unbroken_sound_is_one_stretch() -> None:
    (span,) = spans_by_silence(noise(3.0), RATE, 8.0)
    assert (span.start, span.stop) == (0, 3 * RATE)


def test_cuts_fall_into_pauses() -> None:
    samples = noise(20.0)
    samples[6 * RATE : 6 * RATE + 5_000] = 0
    samples[13 * RATE : 13 * RATE + 5_000] = 0
    points = cut_points(samples, RATE, 8.0)
    assert (points[0], points[-1], len(points)) == (0, len(samples), 4)
    assert 0 <= points[1] - 6 * RATE <= 5_000
    assert 0 <= points[2] - 13 * RATE <= 5_000


def test_chunks_overlap_and_cover_everything() -> None:
    spans = spans_of_chunks(10 * RATE, RATE, 3.0, 0.5)
    assert [span.start / RATE for span in spans] == [0, 2.5, 5, 7.5]
    assert spans[-1].stop == 10 * RATE


def test_faults_are_named() -> None:
    assert fault_of(noise(2.0), RATE) is None
    assert fault_of(noise(0.3), RATE) == "too short"
    assert fault_of(noise(2.0, 1e-4), RATE) == "near silent"
    assert fault_of(np.clip(noise(2.0, 0.8), -1, 1), RATE) == "clipped"
    one_peak = noise(2.0)
    one_peak[500] = 1.0
    assert clipped_share(one_peak) == 0.0


class FakeEstimator:
    name, core_frames, context_frames = "fake", 800, 24

    def estimate(self, samples):
        return samples.unfold(1, 1, 160)[:, :, 0].abs() * 1000 + 60


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[ClipSource]:
    """The starter encoder and SwiftF0 replaced by arithmetic; what they were asked for."""
    extracted: list[ClipSource] = []

    class Counting(Extractor):
        def extract_all(self, clips):
            extracted.extend(clips)
            return super().extract_all(clips)

    def load(experiment: Experiment, home: Path, device: torch.device) -> Extractor:
        return Counting(
            encoder=FakeEncoder(384),
            estimator=FakeEstimator(),
            sample_rate=experiment.synthesizer.sample_rate,
            perturbed_variants=experiment.data.perturbed,
        )

    monkeypatch.setattr(features, "load_networks", load)
    return extracted


OPTIONS = TrainingOptions(content="menura-starter", sample_rate="24k", f0="swift", base="none", slice_length=2.0)


def write_dataset(folder: Path, files: dict[str, np.ndarray]) -> Path:
    for name, samples in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, samples, RATE)
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    silent = np.concatenate([noise(5.0, seed=5), np.clip(noise(4.0, 0.9, seed=6), -1, 1)])
    return write_dataset(tmp_path / "data", {"a.wav": noise(18.0, seed=4), "deep/b.flac": silent})


def create_in(tmp_path: Path, dataset: Path, options: TrainingOptions = OPTIONS):
    return create_experiment(tmp_path / "exp", dataset=dataset, rights="me", options=options, home=tmp_path)


def run_prepare(tmp_path: Path):
    folder = tmp_path / "exp"
    told: list[Preparing] = []
    made = prepare(folder, load_experiment(folder), home=tmp_path, workers=1, on_event=told.append, device=CPU)
    return made, told


def test_preparing_cuts_reports_and_holds_out(tmp_path: Path, dataset: Path, counted) -> None:
    create_in(tmp_path, dataset)
    (dataset / "broken.wav").write_bytes(b"RIFF" + bytes(40))
    made, told = run_prepare(tmp_path)
    assert (told[-1].stage, told[-1].done) == ("features", told[-1].total)
    assert 22 < made.seconds() <= 23  # of which a rest too short for a slice is left out
    lengths = [len(clip.samples) for clip in counted]
    assert lengths == sorted(lengths)  # such of about equal length share passes
    assert [item.file for item in made.slices] == [file for sliced in made.recordings for file in sliced.files]
    assert sum(item.held_out for item in made.slices) == 1
    dropped = [item for recording in made.recordings for item in recording.dropped]
    assert {item.fault for item in dropped} == {"clipped"}
    assert all(item.end_s > 5 for item in dropped)
    assert sum(item.fault is not None for item in made.recordings) == 1
    text = (tmp_path / "exp" / "report.txt").read_text()
    assert text == report_text(made, name="exp")
    assert (tmp_path / "exp" / "report.png").read_bytes().startswith(b"\x89PNG")
    assert f"left out, clipped: {len(dropped)}" in text
    assert "unreadable: 1" in text
    assert load_preparation(tmp_path / "exp") == made
    assert is_prepared(tmp_path / "exp", load_experiment(tmp_path / "exp"))


@pytest.mark.parametrize(
    ("change", "seconds", "loudness"),
    [
        ({"slicing": "chunks", "overlap": 0.5}, 30, -20),
        ({"slicing": "none"}, 18, -20),
        ({"loudness": "before"}, 23, -23),
        ({"denoise": 0.5}, 23, -20),
        ({"high_pass": False}, 23, -20),
    ],
)
def test_every_way_of_cutting(
    tmp_path: Path, dataset: Path, counted, change: dict[str, object], seconds: float, loudness: float
) -> None:
    create_in(tmp_path, dataset, dataclasses.replace(OPTIONS, **change))
    made, _ = run_prepare(tmp_path)
    assert made.seconds() == pytest.approx(seconds, abs=1.5)
    steady = next(recording for recording in made.recordings if recording.source == "a.wav")
    told = [item.loudness_db for item in made.slices if item.file in steady.files]
    # Noise alone: half of what is there all the time is half of it.
    assert told == pytest.approx([loudness - 6 * ("denoise" in change)] * len(told), abs=1.5)


def test_features_are_cached_by_content(tmp_path: Path, dataset: Path, counted) -> None:
    create_in(tmp_path, dataset)
    first, _ = run_prepare(tmp_path)
    done = len(counted)
    assert done == len(first.slices)
    again, _ = run_prepare(tmp_path)
    assert (again, len(counted)) == (first, done)
    lost = tmp_path / "exp" / first.slices[2].features
    lost.write_bytes(lost.read_bytes()[:50])  # as an interrupted copy leaves it
    assert run_prepare(tmp_path)[0] == first
    assert len(counted) == done + 1
    experiment = load_experiment(tmp_path / "exp")
    other = dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, loudness="after"))
    save_experiment(tmp_path / "exp", other)
    assert not is_prepared(tmp_path / "exp", other)
    louder, _ = run_prepare(tmp_path)
    assert len(counted) == 2 * done + 1
    assert all(item.loudness_db == pytest.approx(-23, abs=0.5) for item in louder.slices)


def test_held_out_slices_are_not_learnt_from(tmp_path: Path, dataset: Path, counted) -> None:
    create_in(tmp_path, dataset)
    made, _ = run_prepare(tmp_path)
    trainer = open_trainer(tmp_path / "exp", torch.device("cpu"))
    assert len(trainer.dataset) == len(made.slices) - 1
    assert trainer.validation is not None
    assert len(trainer.validation) == 1


def test_a_moved_experiment_needs_its_data_set_no_more(tmp_path: Path, dataset: Path, counted) -> None:
    create_in(tmp_path, dataset)
    run_prepare(tmp_path)
    (tmp_path / "exp").rename(tmp_path / "moved")
    dataset.rename(tmp_path / "gone")
    experiment = load_experiment(tmp_path / "moved")
    assert is_prepared(tmp_path / "moved", experiment)
    assert open_trainer(tmp_path / "moved", torch.device("cpu")).dataset.seconds > 15


def test_an_experiment_can_be_moved_before_anything_is_done(tmp_path: Path, dataset: Path, counted) -> None:
    """Its folder holds the weights that it begins with; only the recordings are elsewhere, and may move too."""
    voice = tmp_path / "base" / "a voice.safetensors"
    voice.parent.mkdir()
    save_voice(voice, load_voice(find_voice("wren", tmp_path).path))
    made = create_in(tmp_path, dataset, dataclasses.replace(OPTIONS, base=str(voice))).experiment
    expected = load_voice(voice).state["enc_p.emb_phone.weight"].float()
    assert made.warm_start == WarmStart(generator="begin/generator.safetensors", origin="a voice")
    moved = (tmp_path / "exp").rename(tmp_path / "moved")
    dataset.rename(tmp_path / "recordings")
    shutil.rmtree(voice.parent)
    assert run(["train", "prepare", str(moved), "--workers", "1"]) == 1
    assert run(["train", "prepare", str(moved), "--dataset", str(tmp_path / "typo")]) == 1
    assert load_experiment(moved).data.dataset == str(dataset)  # what can't be right is not kept
    arguments = ["--dataset", str(tmp_path / "recordings"), "--workers", "1"]
    assert run(["train", "prepare", str(moved), *arguments]) == 0
    trainer = open_trainer(moved, torch.device("cpu"))
    assert torch.equal(trainer.average["enc_p.emb_phone.weight"], expected)


@pytest.mark.parametrize("kept", [0, 20, 2_000])
def test_a_damaged_slice_is_named(tmp_path: Path, dataset: Path, counted, kept: int) -> None:
    create_in(tmp_path, dataset)
    run_prepare(tmp_path)
    shutil.rmtree(tmp_path / "exp" / "features")
    path = min((tmp_path / "exp" / "slices").rglob("*.flac"))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(TrainingError) as caught:
        run_prepare(tmp_path)
    assert caught.value.subject == str(path)
    path.unlink()
    run_prepare(tmp_path)


def test_an_experiment_is_no_recording(tmp_path: Path, counted) -> None:
    """Not even one that lies in the data set's folder, or is it."""
    for name, folder in (("beside", tmp_path / "beside" / "exp"), ("same", tmp_path / "same")):
        data = write_dataset(tmp_path / name, {"a.wav": noise(18.0, seed=4)})
        create_experiment(folder, dataset=data, rights="me", options=OPTIONS, home=tmp_path)
        counts = []
        for _ in range(2):
            made = prepare(folder, load_experiment(folder), home=tmp_path, workers=1, on_event=ignore, device=CPU)
            counts.append(len(made.slices))
        assert counts[0] == counts[1] > 5


@pytest.mark.parametrize(
    ("part", "name", "value", "message"),
    [
        (None, "speakers", ["../../escaped"], "plain folder name"),
        (None, "speakers", [""], "plain folder name"),
        (None, "speakers", [5], "speakers"),
        (None, "speakers", "anna", "speakers"),
        (None, "speakers", ["\ud800"], "plain folder name"),
        (None, "synthesizer", [], "not a valid experiment"),
        (None, "synthesizer", None, "not a valid experiment"),
        (None, "seed", "1", "seed"),
        (None, "seed", -1, "seed"),
        (None, "gradient_checkpointing", 1, "gradient_checkpointing"),
        (None, "unknown", 1, "unknown"),
        (None, "schedule", 5, "not a valid experiment"),
        ("schedule", "keep_last", "2", "keep_last"),
        ("schedule", "patience", 1.5, "patience"),
        ("schedule", "batch_size", 0, "batch_size"),
        ("schedule", "log_every_steps", 0, "log_every_steps"),
        ("schedule", "learning_rate", float("nan"), "learning_rate"),
        ("schedule", "steps", 10**400, "steps"),
        ("mix", "own", 0, "own"),
        ("data", "slice_s", 0, "slice_s"),
        ("data", "slicing", "odd", "slicing"),
        ("data", "f0", "odd", "f0"),
        ("warm_start", "generator", 5, "generator"),
        ("synthesizer", "upsample_rates", 5, "upsample_rates"),
        ("synthesizer", "upsample_rates", ["2"], "upsample_rates"),
        ("synthesizer", "resblock_dilation_sizes", [1, 2], "resblock_dilation_sizes"),
        ("synthesizer", "n_heads", True, "n_heads"),
    ],
)
def test_settings_that_can_not_be_are_refused(
    tmp_path: Path, dataset: Path, part: str | None, name: str, value: object, message: str
) -> None:
    """They may be edited, and may come from others."""
    create_in(tmp_path, dataset)
    path = tmp_path / "exp" / "experiment.json"
    values = json.loads(path.read_text())
    (values if part is None else values[part])[name] = value
    path.write_text(json.dumps(values))
    with pytest.raises(TrainingError, match=message) as caught:
        load_experiment(tmp_path / "exp")
    assert caught.value.subject == str(path)


@pytest.mark.parametrize("kind", ["pipe", "device", "huge", "deep", "text"])
def test_what_is_no_experiment_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "experiment.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_text({"huge": " " * (5 << 20), "deep": "[" * 100_000, "text": "no"}[kind])
    with pytest.raises(TrainingError) as caught:
        load_experiment(tmp_path)
    assert caught.value.subject == str(path)


def test_experiments_of_the_last_version_are_read(tmp_path: Path, dataset: Path) -> None:
    made = create_in(tmp_path, dataset).experiment
    path = tmp_path / "exp" / "experiment.json"
    values = json.loads(path.read_text()) | {"discriminators": "small"}
    values["weights"] |= {"periodicity": 0.0, "reconstruction_with_gan": 1.5}
    values["schedule"] |= {"discriminators_alone_steps": 0, "discriminator_every": 2}
    values["schedule"] |= {"even_upsampling_from_step": None, "even_upsampling_over_steps": 0}
    path.write_text(json.dumps(values))
    assert load_experiment(tmp_path / "exp") == made
    values["synthesizer"]["vocoder"] = "HiFi-GAN"
    path.write_text(json.dumps(values))
    with pytest.raises(TrainingError, match="trains Source-filter only"):
        load_experiment(tmp_path / "exp")


def test_weights_to_begin_with_are_the_experiments_own(tmp_path: Path, dataset: Path) -> None:
    create_in(tmp_path, dataset)
    folder = tmp_path / "exp"
    (tmp_path / "outside.pth").write_bytes(b"")
    for name, message in (("../outside.pth", "must be in the experiment's folder"), ("begin/x.pth", "are missing")):
        with pytest.raises(TrainingError, match=message):
            initial_weights(folder, name)
    assert initial_weights(folder, str(tmp_path / "outside.pth")).is_file()  # as experiments had it before


def test_missing_weights_are_told_before_anything_long(tmp_path: Path, dataset: Path, capsys) -> None:
    create_in(tmp_path, dataset, dataclasses.replace(OPTIONS, base="auto"))
    folder = tmp_path / "exp"
    shutil.rmtree(folder / "begin")
    assert run(["train", "run", str(folder)]) == 1
    assert "the initial weights are missing" in capsys.readouterr().err
    assert not list(folder.rglob("*.flac"))


def test_a_network_that_can_not_be_is_refused_before_training(tmp_path: Path, dataset: Path) -> None:
    made = create_in(tmp_path, dataset).experiment
    config = dataclasses.replace(made.synthesizer, n_heads=0)
    save_experiment(tmp_path / "exp", dataclasses.replace(made, synthesizer=config))
    with pytest.raises(CheckpointError, match=r"experiment\.json: its config has"):
        open_trainer(tmp_path / "exp", torch.device("cpu"))


def test_sub_folders_are_speakers(tmp_path: Path, counted) -> None:
    data = write_dataset(tmp_path / "data", {"anna/1.wav": noise(11.0), "bert/x/1.wav": noise(12.0, seed=1)})
    created = create_in(tmp_path, data)
    assert created.experiment.speakers == ("anna", "bert")
    assert created.experiment.synthesizer.n_speakers == 2
    made, _ = run_prepare(tmp_path)
    assert {item.speaker for item in made.slices} == {"anna", "bert"}
    assert speakers_of(write_dataset(data, {"top.wav": noise(1.0)}), "me") == ("me",)


def test_what_would_stop_training_is_told_at_once(tmp_path: Path, dataset: Path, monkeypatch) -> None:
    with pytest.raises(TrainingError, match="no such folder"):
        create_in(tmp_path, tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match="contains no recordings"):
        create_in(tmp_path, tmp_path / "empty")
    with pytest.raises(TrainingError, match=r"4\.0 s of recordings are too little"):
        create_in(tmp_path, write_dataset(tmp_path / "short", {"a.wav": noise(4.0)}))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.wav").write_bytes(b"no audio")
    with pytest.raises(TrainingError, match="none of 1 recordings"):
        create_in(tmp_path, tmp_path / "bad")
    with pytest.raises(AssetMissingError, match=r"contentvec.*content=menura-starter"):
        create_in(tmp_path, dataset, TrainingOptions())
    with pytest.raises(AssetMissingError, match="rmvpe"):
        create_in(tmp_path, dataset, dataclasses.replace(OPTIONS, f0="rmvpe"))
    with pytest.raises(OptionError, match="rights"):
        create_experiment(tmp_path / "exp", dataset=dataset, rights=" ", options=OPTIONS, home=tmp_path)
    torch.save({"model": {"dec.conv_pre.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(TrainingError, match="weights fit"):
        create_in(tmp_path, dataset, dataclasses.replace(OPTIONS, pretrained_g=tmp_path / "other.pth"))
    usage = type("Usage", (), {"free": 10_000_000})
    with monkeypatch.context() as patch:
        patch.setattr(room.shutil, "disk_usage", lambda _: usage)
        with pytest.raises(ResourceError, match=r"needs about [67]\d\d MB .*, 10 MB are free"):
            create_in(tmp_path, dataset)
    assert not (tmp_path / "exp").exists()
    create_in(tmp_path, dataset)
    with pytest.raises(TrainingError, match="exists"):
        create_in(tmp_path, dataset)


@pytest.mark.parametrize(
    ("options", "config"),
    [
        ({}, ("v2", 40_000, 768, 512)),
        ({"size": "v1", "sample_rate": "32k"}, ("v1", 32_000, 256, 512)),
        ({"size": "small", "sample_rate": "48k"}, ("v2", 48_000, 768, 256)),
        ({"content": "menura-starter", "sample_rate": "24k"}, ("v2", 24_000, 384, 256)),
        ({"content": "menura-starter", "size": "v2"}, ("v2", 40_000, 384, 512)),
        ({"vocoder": "RefineGAN", "sample_rate": "32k"}, ("v2", 32_000, 768, 512)),
    ],
)
def test_sizes(options: dict[str, str], config: tuple[str, int, int, int]) -> None:
    made = network(TrainingOptions(**options), 1)
    assert (made.version, made.sample_rate, made.content_dim, made.upsample_initial_channel) == config
    assert made.frame_samples * 100 == made.sample_rate


@pytest.mark.parametrize(("rate", "advised"), [("24k", False), ("40k", True)])
def test_a_lower_rate_is_advised_where_there_is_one(tmp_path: Path, dataset: Path, *, rate: str, advised: bool) -> None:
    soundfile.write(dataset / "narrow.wav", noise(2.0)[::3], 8_000)
    notes = create_in(tmp_path, dataset, dataclasses.replace(OPTIONS, sample_rate=rate)).notes
    (told,) = (note for note in notes if "lower sample rate than the voice's" in note.problem)
    assert (told.advice is not None) == advised


@pytest.mark.parametrize(("steps", "expected"), [(None, (3_000, None, 5e-5, 300)), (100, (100, None, 5e-5, 10))])
def test_small_schedules(tmp_path: Path, dataset: Path, steps: int | None, expected: tuple) -> None:
    """As the starter voices were made: no discriminators."""
    plan = create_in(tmp_path, dataset, dataclasses.replace(OPTIONS, steps=steps)).experiment.schedule
    assert (plan.steps, plan.gan_from_step, plan.final_learning_rate, plan.warmup_steps) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "v1", "sample_rate": "24k"}, "RVC v1 has no 24k"),
        ({"size": "v1", "content": "menura-starter"}, "v1 needs 256"),
        ({"size": "small", "vocoder": "RefineGAN"}, "Source-filter only, not with RefineGAN"),
        ({"size": "small", "vocoder": "HiFi-GAN"}, "Source-filter only, not with HiFi-GAN"),
        ({"size": "small", "pitch": False}, "the small network needs pitch"),
        ({"vocoder": "Source-filter"}, "vocoder of the small network"),
        ({"pitch": False, "vocoder": "MRF HiFi-GAN"}, "needs pitch"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        network(TrainingOptions(**options), 1)


def test_room_is_checked_again_before_every_long_part(tmp_path: Path, dataset: Path, counted, monkeypatch) -> None:
    create_in(tmp_path, dataset)
    folder = tmp_path / "exp"
    with monkeypatch.context() as patch:
        patch.setattr(room.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10_000_000}))
        with pytest.raises(ResourceError, match="training needs about"):
            TrainingSession(folder).prepare()
    assert not list(folder.rglob("*.flac"))
    run_prepare(tmp_path)
    needed = []
    for name in ("checkpoint.pt", "checkpoint.1.pt", "best.pt", "checkpoint.2.pt"):
        needed.append(room._checkpoint_bytes(folder, load_experiment(folder)))
        (folder / name).write_bytes(b"")
    assert needed == [4 * needed[3], 3 * needed[3], 2 * needed[3], needed[3]]  # one is always being written
    assert 100_000_000 < needed[3] < 400_000_000
    room.check_disk_space(folder, load_experiment(folder))


def test_a_network_of_any_size_trains_and_is_exported(tmp_path: Path, dataset: Path, counted) -> None:
    """By a config file as RVC's training has it; its other sections are options here."""
    (tmp_path / "40k.json").write_text(json.dumps(RVC_CONFIG))
    options = dataclasses.replace(
        OPTIONS, sample_rate="40k", size="v2", base="auto", config=tmp_path / "40k.json", keep=3, steps=3, batch_size=2
    )
    made = create_in(tmp_path, dataset, options)
    config = made.experiment.synthesizer
    assert any("random weights" in note.problem for note in made.notes)
    assert (config.spec_channels, config.segment_size_frames, config.n_speakers) == (513, 32, 1)
    assert (config.content_dim, config.upsample_rates, config.resblock) == (384, (10, 8, 5), "2")
    assert config.resblock_dilation_sizes == ((1, 2), (2, 6))
    experiment = load_experiment(tmp_path / "exp")
    assert experiment.synthesizer == config
    schedule = dataclasses.replace(experiment.schedule, save_every_steps=1, gan_from_step=None)
    save_experiment(tmp_path / "exp", dataclasses.replace(experiment, schedule=schedule))
    run_prepare(tmp_path)
    trainer = open_trainer(tmp_path / "exp", torch.device("cpu"))
    trainer.run(tmp_path / "exp", until_step=3, on_event=ignore)
    assert [path.name for path in checkpoint_paths(tmp_path / "exp")] == [
        "checkpoint.pt", "checkpoint.1.pt", "checkpoint.2.pt"
    ]  # fmt: skip
    export_voice(tmp_path / "exp", tmp_path / "odd.pth")
    voice = load_voice(tmp_path / "odd.pth")
    assert dataclasses.replace(voice.config, n_speakers=1) == config
    assert {name: tuple(t.shape) for name, t in voice.state.items()} == expected_shapes(voice.config)


def test_a_run_s_options_change_the_experiment(tmp_path: Path, dataset: Path) -> None:
    experiment = create_in(tmp_path, dataset).experiment
    assert changed(experiment, RunOptions()) == experiment
    made = changed(experiment, RunOptions(steps=7, learning_rate=1e-5, patience=3, precision="fp32"))
    assert (made.schedule.steps, made.schedule.patience, made.precision) == (7, 3, "fp32")
    assert made.schedule.final_learning_rate == pytest.approx(1e-5 / 10)
    assert changed(made, RunOptions(patience=0)).schedule.patience is None


@pytest.mark.parametrize(
    "change",
    [
        {"slices": [5]},
        {"slices": None},
        {"slices": [{"file": 5}]},
        {"recordings": [{"source": 1}]},
        {"settings_key": []},
    ],
)
def test_what_was_prepared_is_not_believed(tmp_path: Path, dataset: Path, counted, change: dict[str, object]) -> None:
    create_in(tmp_path, dataset)
    run_prepare(tmp_path)
    path = tmp_path / "exp" / "prepared.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(TrainingError) as caught:
        load_preparation(tmp_path / "exp")
    assert caught.value.subject == str(path)
