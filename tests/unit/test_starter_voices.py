"""Starter voices are trained together: their files hold what differs, and one holds the rest."""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from menura.checkpoints.voice import LoadedVoice, load_voice, read_config, save_voice
from menura.cli.main import run
from menura.errors import CheckpointError
from menura.models.config import small_config
from menura.options import DEFAULT_VOICE, TrainingOptions
from menura.train import create, sharpness
from menura.voices.library import find_voice, list_voices
from support.training import DIM, clip, save_features, tiny_filters
from support.voicefiles import write_voice

BUILTIN = [voice.path for voice in list_voices(Path("nowhere")) if voice.builtin]
SHARED = BUILTIN[0].parents[2] / "shared.safetensors"


@pytest.mark.parametrize("path", BUILTIN, ids=lambda path: path.parent.name)
def test_a_starter_voice_is_its_own_weights_and_the_shared_ones(path: Path) -> None:
    own, shared, voice = load_file(path), load_file(SHARED), load_voice(path)
    assert own.keys().isdisjoint(shared)
    assert "emb_g.weight" in own
    assert {**own, **shared}.keys() == voice.state.keys()
    for name, weight in {**own, **shared}.items():
        assert torch.equal(voice.state[name], weight.float()), name
    assert read_config(path) == voice.config
    assert path.stat().st_size < 10_000


def test_they_are_several() -> None:
    tables = [load_voice(path).state["emb_g.weight"] for path in BUILTIN]
    assert len(tables) >= 2
    assert not torch.equal(tables[0], tables[1])


def test_a_file_whose_shared_weights_are_gone_is_refused(tmp_path: Path) -> None:
    alone = tmp_path / "starter" / "voices" / "wren" / "voice.safetensors"
    alone.parent.mkdir(parents=True)
    shutil.copy(find_voice("wren", tmp_path).path, alone)
    with pytest.raises(CheckpointError, match="that starter voices share are missing") as caught:
        load_voice(alone)
    assert "shared.safetensors" in str(caught.value)
    shutil.copy(SHARED, tmp_path / "starter")
    assert load_voice(alone).config.n_speakers == 1


@pytest.mark.parametrize("place", ["voice.safetensors", "../wren/voice.safetensors", "link.safetensors"])
def test_shared_weights_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    builtin = find_voice("wren", tmp_path).path
    if place.startswith("link"):
        (tmp_path / place).symlink_to(builtin)
    monkeypatch.chdir(tmp_path if place.startswith("link") else builtin.parent)
    assert load_voice(Path(place)).state.keys() == load_voice(builtin).state.keys()


@pytest.mark.parametrize("form", ["starter", "safetensors", "pth"])
def test_room_is_wanted_for_what_training_begins_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    wanted: list[int] = []
    monkeypatch.setattr(create, "check_disk_space", lambda *_, copied_bytes, **__: wanted.append(copied_bytes))
    monkeypatch.setattr(create, "check_warm_start", lambda *_: None)
    (tmp_path / "data").mkdir()
    soundfile.write(tmp_path / "data" / "a.wav", np.random.default_rng(1).normal(0, 0.1, 160_000), 16_000)
    options = TrainingOptions(content="menura-starter", sample_rate="24k", f0="swift")
    if form != "starter":
        options = dataclasses.replace(options, pretrained_g=write_voice(tmp_path / f"g.{form}"))
    create.create_experiment(tmp_path / "me", dataset=tmp_path / "data", rights="me", options=options, home=tmp_path)
    (copy,) = (tmp_path / "me" / "begin").iterdir()
    assert wanted == [pytest.approx(copy.stat().st_size, rel=0.5 if form == "safetensors" else 0.01)]  # small headers


def test_an_exported_one_is_whole(tmp_path: Path) -> None:
    assert run(["voices", "export", DEFAULT_VOICE, "--format", "safetensors", "--output", str(tmp_path / "out")]) == 0
    (made,) = (tmp_path / "out").rglob("*.safetensors")
    builtin, exported = load_voice(find_voice(DEFAULT_VOICE, tmp_path).path), load_voice(made)
    assert load_file(made).keys() == builtin.state.keys()
    assert all(torch.equal(exported.state[name], weight) for name, weight in builtin.state.items())


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "recipes" / "starter")
    yield importlib.import_module("publish")
    for name in ("publish", "cast"):
        del sys.modules[name]


def tiny_voices(folder: Path, *names: str) -> dict[Path, LoadedVoice]:
    """Of one network, for a speaker each."""
    config = dataclasses.replace(small_config(24_000, 1), content_dim=DIM, spec_channels=257, **tiny_filters())
    voices = {}
    for number, name in enumerate(names):
        path = write_voice(folder / "starter" / "voices" / name / "voice.safetensors", config, name)
        voice = load_voice(path)
        voice.state["emb_g.weight"] += number
        save_voice(path, voice)
        voices[path] = load_voice(path)
    return voices


def test_what_the_recipe_shares_is_what_voices_have_in_common(publish: ModuleType, tmp_path: Path) -> None:
    voices = tiny_voices(tmp_path, "low", "high")
    publish.share(list(voices))
    assert "emb_g.weight" not in load_file(tmp_path / "starter" / "shared.safetensors")
    for path, before in voices.items():
        assert load_file(path).keys() == {"emb_g.weight"}
        with safe_open(path, framework="pt") as file:
            assert json.loads(file.metadata()["rvc"])["shared"] is True
        shared = load_voice(path)
        assert (shared.config, shared.metadata) == (before.config, before.metadata)
        assert all(torch.equal(weight, before.state[name]) for name, weight in shared.state.items())


def test_formants_of_a_whisperer_are_numbers(tmp_path: Path) -> None:
    (voice,) = tiny_voices(tmp_path, "low").values()
    whispered = dataclasses.replace(clip("low", 0), f0_hz=torch.zeros(120))
    save_features(tmp_path / "0.low.safetensors", whispered)
    made = sharpness.sharpened(voice, [tmp_path / "0.low.safetensors"], 0.3)
    assert all(bool(weight.isfinite().all()) for weight in made.values())


def test_what_the_recipe_sharpens_is_the_last_layer(publish: ModuleType, tmp_path: Path) -> None:
    ((path, before),) = tiny_voices(tmp_path, "low").items()
    save_features(tmp_path / "0.low.safetensors", clip("low", 0))
    slices = [tmp_path / "0.low.safetensors"]
    publish.sharpen(path, slices)
    made = load_voice(path)
    changed = {name for name, weight in made.state.items() if not torch.equal(weight, before.state[name])}
    assert changed == {"dec.conv_post.weight", "dec.conv_post.bias"}
    means = [sharpness._mean_filters(voice, slices) for voice in (made, before)]
    torch.testing.assert_close(*means, atol=1e-2, rtol=0)  # float16
