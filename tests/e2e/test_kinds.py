"""Voices of every vocoder and content encoder of Applio convert from the command line: files of its layout, tiny."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from menura.cli.main import run
from menura.models.hubert import HubertConfig
from support.tiny import tiny_config
from support.tiny_hubert import CONFIG, tiny_weights
from support.voicefiles import write_voice

VOCODERS = ("HiFi-GAN", "MRF HiFi-GAN", "RefineGAN")
ENCODERS = {
    "contentvec": CONFIG,
    "spin": CONFIG,
    "spin-v2": CONFIG,
    "chinese_hubert_base": CONFIG,
    "japanese_hubert_base": CONFIG,
    "korean_hubert_base": dataclasses.replace(CONFIG, num_attention_heads=2),  # which has fewer, wider ones than base
}


def write_encoder(folder: Path, config: HubertConfig, seed: int) -> None:
    weights = tiny_weights(seed)
    if "hubert" in folder.name:  # v2 voices need no projection
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("final_proj")}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
    torch.save(weights, folder / "pytorch_model.bin")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is taken over from a folder of Applio's, encoders and voices for each."""
    applio, home = tmp_path_factory.mktemp("applio"), tmp_path_factory.mktemp("home")
    for seed, (name, config) in enumerate(ENCODERS.items()):
        write_encoder(applio / "rvc" / "models" / "embedders" / name, config, seed)
        write(applio / "logs" / name, encoder=name.replace("_", "-"))
    for vocoder in VOCODERS:
        write(applio / "logs" / vocoder, vocoder=vocoder)
    write(applio / "logs" / "narrow", content_dim=16)
    assert run(["assets", "import", str(applio), "--home", str(home)]) == 0
    return home


def write(folder: Path, *, vocoder: str = "HiFi-GAN", encoder: str = "contentvec", content_dim: int = 0) -> None:
    folder.mkdir(parents=True)
    config = dataclasses.replace(
        tiny_config(rates=(10, 4, 2)),
        vocoder=vocoder,
        content_encoder=encoder,
        content_dim=content_dim or CONFIG.hidden_size,
    )
    write_voice(folder / f"{folder.name}.pth", config, scale=0.3)


def converted(home: Path, talk: Path, voice: str, *more: str) -> np.ndarray:
    arguments = ["convert", str(talk), "-o", "o.wav", "--voice", voice, "--home", str(home), "--f0", "swift", *more]
    assert run([*arguments, "--threads", "1"]) == 0
    sound, rate = soundfile.read("o.wav", dtype="float32")
    assert (rate, len(sound)) == (8000, 12_000)
    assert np.abs(sound).max() > 0.001
    return np.asarray(sound)


@pytest.mark.parametrize("vocoder", VOCODERS)
def test_vocoders(vocoder: str, home: Path, talk: Path) -> None:
    converted(home, talk, vocoder)


def test_encoders_are_the_voices_own(home: Path, talk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sounds = {name: converted(home, talk, name) for name in ENCODERS}
    assert len({sound.tobytes() for sound in sounds.values()}) == len(ENCODERS)
    # All of these voices have the same weights.
    for name, sound in sounds.items():
        capsys.readouterr()
        encoder = name.replace("_", "-")
        assert np.array_equal(converted(home, talk, "contentvec", "--content", encoder), sound)
        assert f"Content comes from {encoder} in place" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("voice", "content", "said"),
    [
        ("narrow", "spin", "narrow: takes content of 16 dimensions, and spin gives 24. Leave out --content."),
        ("contentvec", "menura-starter", "menura-starter gives 384"),
        ("contentvec", "nowhere", "nowhere"),
        ("contentvec", "../secret", "can't be a folder's name"),
    ],
)
def test_encoders_that_do_not_fit(
    voice: str, content: str, said: str, home: Path, talk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    arguments = ["convert", str(talk), "-o", "x.wav", "--voice", voice, "--home", str(home), "--content", content]
    assert run(arguments) != 0
    assert said in capsys.readouterr().err
    assert not Path("x.wav").exists()
