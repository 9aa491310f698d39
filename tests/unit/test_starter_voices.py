"""Starter voices are trained together: their files hold what differs, and one holds the rest."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from menura.checkpoints.voice import load_voice, read_config
from menura.cli.main import run
from menura.errors import CheckpointError
from menura.options import DEFAULT_VOICE
from menura.voices.library import find_voice, list_voices

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


def test_an_exported_one_is_whole(tmp_path: Path) -> None:
    assert run(["voices", "export", DEFAULT_VOICE, "--format", "safetensors", "--output", str(tmp_path / "out")]) == 0
    (made,) = (tmp_path / "out").rglob("*.safetensors")
    builtin, exported = load_voice(find_voice(DEFAULT_VOICE, tmp_path).path), load_voice(made)
    assert load_file(made).keys() == builtin.state.keys()
    assert all(torch.equal(exported.state[name], weight) for name, weight in builtin.state.items())
