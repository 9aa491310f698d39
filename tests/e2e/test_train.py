"""From recordings to a voice by the command line: new, run, killed, run again, converted with."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from menura.checkpoints.voice import expected_shapes, load_voice
from menura.cli.main import run
from menura.train.experiment.settings import load_experiment, save_experiment
from support.training import tiny_filters, tiny_network

CLIPS = (
    Path(__file__).parents[2] / "src" / "menura" / "assets" / "demo" / "librivox_0870.flac",
    *sorted((Path(__file__).parents[1] / "data").glob("*.flac")),
)
RIGHTS = "read for LibriVox, in the public domain"


@pytest.fixture
def recordings(place: Path) -> Path:
    folder = place / "recordings"
    folder.mkdir()
    for path in CLIPS:
        shutil.copy(path, folder)
    return folder


def shrink(folder: Path) -> None:
    """Make the network tiny and save often, so that a step takes no time."""
    made = load_experiment(folder)
    small = made.objective == "direct"
    config = dataclasses.replace(made.synthesizer, **(tiny_filters() if small else tiny_network()))
    schedule = dataclasses.replace(
        made.schedule,
        save_every_steps=2,
        evaluate_every_steps=2,
        log_every_steps=1,
        gan_from_step=None if small else 1000,
        row_frames=60,
    )
    data = dataclasses.replace(made.data, perturbed=1, held_out=0.2, slice_s=1.5)
    changed = dataclasses.replace(made, synthesizer=config, schedule=schedule, data=data, precision="fp32")
    save_experiment(folder, changed)


def new(name: str, *options: str) -> int:
    fixed = ("--rights", RIGHTS, "--content", "menura-starter", "--sample-rate", "24k", "--base", "none")
    return run(["train", "new", name, "--dataset", "recordings", *fixed, "--batch-size", "2", *options])


@pytest.mark.slow
def test_from_recordings_to_a_converted_talk(recordings: Path, talk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert new("me", "--steps", "400", "--size", "v2") == 0
    shrink(Path("me"))
    command = [sys.executable, "-m", "menura", "train", "run", "me", "--workers", "1", "--threads", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 5/"):
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    process.stdout.close()
    prepared = {path: path.stat().st_mtime_ns for path in Path("me/features").iterdir()}
    killed_at = int(torch.load("me/checkpoint.pt", weights_only=True)["step"])
    assert 4 <= killed_at < 400
    assert run(["train", "run", "me", "--steps", str(killed_at + 4), "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert f"steps {killed_at + 1} to {killed_at + 4}" in out
    assert {path: path.stat().st_mtime_ns for path in Path("me/features").iterdir()} == prepared
    steps = [json.loads(line)["step"] for line in Path("me/losses.jsonl").read_text().splitlines()]
    assert steps == list(range(1, killed_at + 5))

    Path("me").rename("moved")
    (index,) = Path("moved/voice").glob("added_IVF*_Flat_nprobe_1_me_v2.index")
    card = json.loads(Path("moved/voice/card.json").read_text())
    assert card["rights"] == RIGHTS
    low_hz, high_hz = card["f0_range_hz"]
    assert 60 < low_hz < card["f0_median_hz"] < high_hz < 300
    assert 80 < card["f0_median_hz"] < 130
    for ending in (".pth", ".safetensors"):
        voice = load_voice(Path(f"moved/voice/me{ending}"))
        assert {name: tuple(t.shape) for name, t in voice.state.items()} == expected_shapes(voice.config)
        assert voice.metadata.source == RIGHTS
    arguments = ["--voice", "moved/voice/me.pth", "--index", str(index), "--transpose", "auto"]
    assert run(["convert", str(talk), "-o", "out.wav", *arguments]) == 0
    samples, rate = soundfile.read("out.wav")
    assert (len(samples), rate) == (36_000, 24_000)
    assert np.isfinite(samples).all()


@pytest.mark.slow
def test_an_exported_folder_is_a_voice_that_can_be_installed(
    recordings: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert new("me", "--steps", "2") == 0
    shrink(Path("me"))
    assert run(["train", "prepare", "me", "--workers", "2"]) == 0
    assert "for validation)" in capsys.readouterr().out
    assert run(["train", "run", "me", "--until", "1"]) == 0
    assert not Path("me/voice").exists()
    assert run(["train", "run", "me"]) == 0
    assert run(["train", "index", "me", "--index-method", "faiss"]) == 0
    assert run(["train", "export", "me", "--checkpoints"]) == 0
    assert run(["train", "export", "me", "alone.safetensors", "--speaker", "me"]) == 0
    said = capsys.readouterr().out
    assert "--voice me/voice/me.safetensors\n" in said  # its index is found beside it
    assert "--voice alone.safetensors --index me/voice/added_" in said
    alone = load_voice(Path("alone.safetensors"))
    assert (alone.config.n_speakers, alone.config.vocoder) == (1, "Source-filter")
    assert run(["train", "export", "me", "alone.pth"]) == 1
    assert ".safetensors" in capsys.readouterr().err
    assert not Path("alone.pth").exists()
    assert not Path("me/voice/me.pth").exists()
    assert torch.load("me/voice/G_2.pth", weights_only=True)["iteration"] >= 1
    monkeypatch.setenv("MENURA_HOME", os.path.abspath("home"))
    assert run(["voices", "import", "me/voice"]) == 0
    capsys.readouterr()
    assert run(["voices", "info", "me", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["card"]["rights"] == RIGHTS
    assert facts["index"]

    kept = Path("me/voice/mine.safetensors")
    kept.write_bytes(b"the user's own")
    Path("me").rename("you")
    full = type("Usage", (), {"free": 0})
    # nothing large is left to be written
    monkeypatch.setattr("menura.train.learning.checkpoint.shutil.disk_usage", lambda _: full)
    assert run(["train", "run", "you"]) == 0
    (index,) = Path("you/voice").glob("*.index")
    assert index.name.endswith("_you_v2.index")
    assert {path.name for path in Path("you/voice").glob("*.safetensors")} == {"you.safetensors", "mine.safetensors"}
    assert json.loads(Path("you/voice/card.json").read_text())["name"] == "you"


def test_rights_and_data_are_required(recordings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "new", "me", "--dataset", "recordings"]) == 2
    assert "--rights" in capsys.readouterr().err
    assert new("me", "--sample-rate", "44k") == 2
    assert run(["train", "run", "nothing"]) == 1
    assert "menura train new" in capsys.readouterr().err
