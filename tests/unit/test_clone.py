"""A minute of a person becomes an installed voice: with a tiny network, of real speech by the real encoder."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch

from menura import CloneOptions, EngineOptions, MenuraError, OptionError, TrainingError, TrainingSession, clone_voice
from menura.checkpoints.voice import LoadedVoice, load_voice
from menura.cli.main import run
from menura.models.config import small_config
from menura.models.weights import State
from menura.train import clone, sharpness
from menura.train import voice as voice_files
from menura.train.data.report import Preparation, PreparedSlice, save_preparation
from menura.train.events import Noted, Stepped
from menura.train.experiment import defaults
from menura.train.experiment.folder import CHECKPOINT, alone_in
from menura.train.experiment.settings import load_experiment, save_experiment
from menura.voices.library import card_of, find_voice
from support.speech import CLIPS, RATE, speech
from support.training import SCHEDULE, tiny_experiment, tiny_filters, write_features
from support.training import run as run_training
from support.voicefiles import write_voice

RIGHTS = "read for LibriVox, in the public domain"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with a tiny voice to begin with; clones take six steps."""
    tiny = partial(_tiny, small_config)
    monkeypatch.setattr(defaults, "small_config", tiny)
    for name, value in {"_STEPS": 6, "_BATCH": 2, "_SAVE_EVERY_STEPS": 2, "_LEARNING_RATE": 1e-2}.items():
        monkeypatch.setattr(clone, name, value)
    home = tmp_path / "home"
    write_voice(home / "voices" / "base" / "voice.safetensors", tiny(24_000, 1), scale=0.05)
    monkeypatch.setenv("MENURA_HOME", str(home))
    return home


def _tiny(small: Callable[[int, int], Any], rate: int, n_speakers: int) -> Any:
    return dataclasses.replace(small(rate, n_speakers), spec_channels=257, segment_size_frames=12, **tiny_filters())


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return recording(tmp_path / "talk.wav", speech(36))


def recording(path: Path, samples: np.ndarray, rate: int = RATE) -> Path:
    path.parent.mkdir(exist_ok=True)
    sf.write(path, samples, rate)
    return path


def cloned(home: Path, *references: Path, on_event: Any = lambda _: None, **given: Any) -> clone.Cloned:
    engine = EngineOptions(home=home, threads=1)
    further = {name: given.pop(name) for name in ("cancel",) if name in given}
    options = CloneOptions(**({"base": "base"} | given))
    return clone_voice("me", references, rights=RIGHTS, options=options, engine=engine, on_event=on_event, **further)


def cloned_path(made: clone.Cloned) -> Path:
    assert made.voice is not None
    return made.voice.path


def test_a_minute_becomes_an_installed_voice(
    home: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--reference", str(reference), "--rights", RIGHTS, "--base", "base", "--threads", "1"]
    assert run(["clone", "me", *given]) == 0
    out = capsys.readouterr()
    assert "menura convert INPUT --voice me" in out.out
    assert "little" not in out.err
    voice = find_voice("me", home)
    assert voice.index_path is not None
    card = card_of(voice).fields
    assert (card["source"], card["base"], card["rights"]) == ("cloned with Menura", "base", RIGHTS)
    (source,) = card["recordings"]  # type: ignore[misc]
    assert source.startswith("talk-")
    assert voice.f0_median_hz == pytest.approx(93, abs=25)
    assert not (home / "clones" / "me").exists()
    assert run(["convert", str(CLIPS[2]), "-o", str(tmp_path / "out.wav"), "--voice", "me"]) == 0
    assert run(["clone", "me", *given]) == 2  # a name that is taken
    assert "exists already" in capsys.readouterr().err
    assert voice.path.is_file()


def test_the_voice_comes_nearer_to_the_person(home: Path, reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clone, "_STEPS", 60)
    mel: list[float] = []
    cloned(
        home, reference, on_event=lambda event: mel.append(event.losses["mel"]) if isinstance(event, Stepped) else None
    )
    assert np.mean(mel[-10:]) < 0.8 * np.mean(mel[:2])


def test_the_voice_has_deeper_formants(home: Path, reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    means: list[torch.Tensor] = []

    def heard(voice: LoadedVoice, slices: list[Path], amount: float) -> State:
        made = sharpness.sharpened(voice, slices, amount)
        means.extend(sharpness._mean_filters(dataclasses.replace(voice, state=s), slices) for s in (voice.state, made))
        return made

    monkeypatch.setattr(voice_files, "sharpened", heard)
    amount = clone._SHARPNESS
    sharp = load_voice(cloned_path(cloned(home, reference))).state
    monkeypatch.setattr(clone, "_SHARPNESS", 0.0)
    find_voice("me", home).path.parent.rename(home / "voices" / "sharp")
    plain = load_voice(cloned_path(cloned(home, reference))).state
    for name in sorted(plain):
        assert torch.equal(sharp[name], plain[name]) != name.startswith("dec.conv_post"), name
    *excitations, phase = zip(
        sharp["dec.conv_post.weight"].chunk(4), plain["dec.conv_post.weight"].chunk(4), strict=True
    )
    window = np.hanning(41) / np.hanning(41).sum()
    for made, before in excitations:
        around = np.apply_along_axis(np.convolve, 0, before.numpy(), window, mode="valid")
        wanted = before[20:-20] + amount * (before[20:-20] - torch.from_numpy(around))
        torch.testing.assert_close(made[20:-20], wanted.to(made.dtype), atol=5e-3, rtol=0)  # float16
    assert torch.equal(*phase)
    torch.testing.assert_close(*means, atol=1e-4, rtol=0)


@pytest.mark.parametrize("speaker", [None, "anna", "bert"])
def test_formants_are_made_deeper_around_the_mean_of_whom_the_voice_is(tmp_path: Path, speaker: str | None) -> None:
    experiment = tiny_experiment(sharpness=0.5)
    save_experiment(tmp_path, experiment)
    write_features(tmp_path)
    run_training(tmp_path, 2)
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    state["average"]["emb_g.weight"] *= 100  # speakers are far apart
    torch.save(state, tmp_path / CHECKPOINT)
    features = sorted((tmp_path / "features").iterdir())
    slices = [
        PreparedSlice(file="", features=f"features/{path.name}", speaker=path.name.split(".")[1], seconds=1.2,
                      loudness_db=-20.0, f0_hz=(100.0, 150.0, 200.0), voiced=1.0)
        for path in features
    ]  # fmt: skip
    save_preparation(tmp_path, Preparation(settings_key="", recordings=(), slices=tuple(slices)))
    means = []
    own = [path for path in features if speaker is None or speaker in path.name]
    for amount in (0.5, 0.0):
        save_experiment(tmp_path, dataclasses.replace(experiment, sharpness=amount))
        voice_files.export_voice(tmp_path, tmp_path / "out.safetensors", speaker=speaker)
        means.append(sharpness._mean_filters(load_voice(tmp_path / "out.safetensors"), own))
    assert not torch.equal(*means)
    torch.testing.assert_close(*means, atol=1e-2, rtol=0)  # float16


def assert_exported_alike(folder: Path) -> None:
    (path, _), other = voice_files.export_experiment(folder), folder / "other.safetensors"
    voice_files.export_voice(folder, other)
    first, second = load_voice(path).state, load_voice(other).state
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_was_stopped_goes_on_if_it_is_of_the_same_recordings(home: Path, reference: Path) -> None:
    cancel, steps = threading.Event(), []

    def stop_at_two(event: object) -> None:
        if isinstance(event, Stepped):
            steps.append(event.step)
            if event.step == 2:
                cancel.set()

    made = cloned(home, reference, on_event=stop_at_two, cancel=cancel)
    assert (made.voice, made.training.reason) == (None, "cancelled")
    assert_exported_alike(home / "clones" / "me")
    steps.clear()
    with alone_in(home / "clones" / "me"), pytest.raises(TrainingError, match="another run"):
        cloned(home, reference)
    cancel.set()
    other = recording(reference.with_name("other.wav"), speech(32))
    assert cloned(home, other, on_event=stop_at_two, cancel=cancel).voice is None
    assert steps == []  # the data of others: nothing of the first is there
    assert not list((home / "clones" / "me").glob("checkpoint*"))
    made = cloned(home, other, on_event=stop_at_two)
    assert made.voice is not None
    assert steps == [1, 2, 3, 4, 5, 6]


def test_other_options_count_where_it_goes_on(home: Path, reference: Path) -> None:
    shutil.copytree(home / "voices" / "base", home / "voices" / "second")
    cancel, folder = threading.Event(), home / "clones" / "me"
    cancel.set()
    assert cloned(home, reference, cancel=cancel).voice is None
    assert cloned(home, reference, cancel=cancel, base="auto", longest=7.0).voice is None
    kept = load_experiment(folder)
    assert (kept.warm_start.origin, kept.schedule.longest_s) == ("base", 420.0)
    assert cloned(home, reference, cancel=cancel, base="second").voice is None
    assert load_experiment(folder).warm_start.origin == "second"


def test_who_comes_second_takes_nothing_from_the_first(home: Path, reference: Path) -> None:
    folder = home / "clones" / "me"
    copy = folder / "recordings" / "a.wav"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(b"of the first, which is not yet an experiment")
    with alone_in(folder), pytest.raises(TrainingError, match="another run"):
        cloned(home, reference)
    assert copy.is_file()


def test_time_ends_it_with_a_voice(tmp_path: Path) -> None:
    schedule = dataclasses.replace(SCHEDULE, steps=100_000, save_every_steps=50_000, longest_s=1.0)
    save_experiment(tmp_path / "me", tiny_experiment(schedule=schedule))
    write_features(tmp_path / "me")
    finished = TrainingSession(tmp_path / "me").run()
    assert finished.reason == "time"
    assert 0 < finished.step < 100_000
    assert finished.voice is not None


def test_little_is_told_and_too_little_refused(home: Path, tmp_path: Path) -> None:
    heard: list[Noted] = []
    short = recording(tmp_path / "short.wav", speech(15), RATE)
    cloned(home, short, on_event=lambda event: heard.append(event) if isinstance(event, Noted) else None)
    assert "15 s of recordings are little" in [event.note.problem for event in heard]
    too_short = recording(tmp_path / "too short.wav", speech(9))
    quiet = recording(tmp_path / "quiet.wav", np.concatenate([speech(6), np.zeros(20 * RATE)]))
    for path, problem in (
        (too_short, "9.0 s of recordings are too little"),
        (quiet, "of usable speech are too little"),
    ):
        with pytest.raises(TrainingError, match=problem):
            clone_voice("other", [path], rights=RIGHTS, options=CloneOptions(base="base"))
    assert not (home / "voices" / "other").exists()


@pytest.mark.slow
def test_a_starter_voice_is_adapted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_STEPS": 2, "_BATCH": 2}.items():
        monkeypatch.setattr(clone, name, value)
    reference = recording(tmp_path / "talk.wav", speech(32))
    made = clone_voice("me", [reference], rights=RIGHTS, engine=EngineOptions(home=tmp_path / "home", threads=1))
    assert made.training.reason == "steps"
    assert made.voice is not None
    card = card_of(made.voice).fields
    assert (card["base"], card["steps"], card["speakers"]) == ("heron", 2, ["me"])
    assert load_voice(made.voice.path).config == load_voice(find_voice("heron", tmp_path).path).config


def test_noise_is_told(tmp_path: Path, home: Path) -> None:
    noise = 0.03 * np.random.default_rng(1).standard_normal(15 * RATE)
    dataset = recording(tmp_path / "data" / "noisy.wav", speech(15) + noise).parent
    options = CloneOptions(base="base")
    made = clone.create_clone(tmp_path / "me", dataset=dataset, rights=RIGHTS, options=options, home=home)
    assert [note.subject for note in made.notes if "noise" in note.problem] == ["noisy.wav"]


def test_what_is_no_reference_is_refused_at_once(home: Path, tmp_path: Path, reference: Path) -> None:
    long = recording(tmp_path / "long.wav", np.zeros(11 * 60 * 4000), 4000)
    text = tmp_path / "text.wav"
    text.write_text("no sound")
    wrong: list[tuple[list[Path], str, str]] = [
        ([long], RIGHTS, "11 minutes are more than a clone can use"),
        ([tmp_path / "none.wav"], RIGHTS, "no such recording"),
        ([text], RIGHTS, "none of 1 recordings can be read"),
        ([reference], " ", "empty"),
    ]
    for references, rights, problem in wrong:
        with pytest.raises(MenuraError, match=problem):
            clone_voice("me", references, rights=rights, options=CloneOptions(base="base"))
        assert not (home / "clones" / "me").exists()
    with pytest.raises(OptionError, match="can't be a voice's name"):
        clone_voice("../me", [reference], rights=RIGHTS)


@pytest.mark.parametrize(("hz", "voice"), [(95, "heron"), (230, "wren"), (0, "wren")])
def test_the_starter_voice_nearest_in_pitch_is_taken(hz: float, voice: str, tmp_path: Path) -> None:
    assert clone.nearest_voice(np.full(100, hz, dtype=np.float32), tmp_path) == voice


def test_two_speakers_are_told(tmp_path: Path, home: Path) -> None:
    high = np.tile(speech(15)[::3], 2)  # played thrice as fast
    dataset = recording(tmp_path / "data" / "both.wav", np.concatenate([speech(10), high])).parent
    options = CloneOptions(base="base")
    made = clone.create_clone(tmp_path / "me", dataset=dataset, rights=RIGHTS, options=options, home=home)
    assert any("two registers or speakers" in note.problem for note in made.notes)


def test_stereo_at_8_khz_is_heard(home: Path, tmp_path: Path) -> None:
    samples = speech(32)[::2]
    stereo = recording(tmp_path / "telephone.wav", np.stack([samples, 0.2 * samples], axis=1), RATE // 2)
    heard: list[Noted] = []
    cloned(home, stereo, on_event=lambda event: heard.append(event) if isinstance(event, Noted) else None)
    assert any("lower sample rate" in event.note.problem for event in heard)
    prepared = json.loads((home / "voices" / "me" / "card.json").read_text())
    assert prepared["minutes"] > 0.4
