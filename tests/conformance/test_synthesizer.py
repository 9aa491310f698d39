"""The synthesizer, stage by stage, against Applio 3.6.4's own numbers with seeded weights of real layout and size.

Content is what its HuBERT gave for 2.4 s of a LibriVox reading (public domain) with 1 s of reflection on each side.
Latents are kept for every 24th channel, sound from 0.5 s into the recording or as whole-path outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from menura.checkpoints.voice import build_synthesizer, load_voice
from menura.models.synthesizer import Synthesizer
from support.full_size import make_voice

DATA = Path(__file__).parent / "data"
TOLERANCE = 1e-4
"""Of full scale; measured 1e-6 to 5e-6."""
FRAMES = 438
LATENT_SCALE = 0.66666
PATH_START_FRAMES, PATH_FRAMES = 190, 50
"""Outputs in paths.npz: 0.9 s to 1.4 s of the recording, which begins at frame 100."""


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / f"{name}.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("voices")


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return load("synthesizer")


@dataclass(frozen=True, kw_only=True)
class Stages:
    """What was computed on the way to a latent."""

    mean: Tensor
    log_scale: Tensor
    g: Tensor
    z: Tensor
    source: Tensor | None


def run(voice: Synthesizer, content: np.ndarray, *, noise: dict[str, np.ndarray] | None = None) -> Stages:
    """All stages but the decoder, over the whole padded recording as Applio does."""
    contour = load("contour")
    f0_hz = torch.from_numpy(contour["padded_hz"][:FRAMES].astype(np.float32))[None]
    f0_coarse = torch.from_numpy(contour["coarse"][:FRAMES].astype(np.int64))[None]
    phone = torch.from_numpy(content).repeat_interleave(2, dim=0)[None]
    with torch.inference_mode():
        g = voice.condition(torch.tensor([0]))
        prior = voice.encode(phone, f0_coarse if voice.config.has_f0 else None, torch.tensor([FRAMES]))
        z_p = prior.mean
        if noise:
            z_p = z_p + torch.exp(prior.log_scale) * torch.from_numpy(noise["latent_noise"]) * LATENT_SCALE
        z = voice.reverse_flow(z_p, prior.mask, g)
        source = None
        if voice.config.has_f0:
            source_noise = torch.from_numpy(noise["source_noise"])[None] if noise else None
            source = voice.source(f0_hz, torch.zeros(1, dtype=torch.float64), source_noise, 1.0)
    return Stages(mean=prior.mean, log_scale=prior.log_scale, g=g, z=z, source=source)


def largest_difference(ours: Tensor, theirs: np.ndarray) -> float:
    assert ours.shape == theirs.shape
    return float((ours - torch.from_numpy(theirs)).abs().max())


@pytest.fixture(scope="module")
def voice(home: Path) -> Synthesizer:
    return build_synthesizer(load_voice(make_voice(home, "voice_v2_40k_f0")))


@pytest.fixture(scope="module")
def stages(voice: Synthesizer, expected: dict[str, np.ndarray]) -> Stages:
    return run(voice, expected["content"])


def test_speaker(stages: Stages, expected: dict[str, np.ndarray]) -> None:
    assert largest_difference(stages.g[0, :, 0], expected["g"]) == 0


def test_prior(stages: Stages, expected: dict[str, np.ndarray]) -> None:
    channels = expected["channels"].astype(int)
    assert largest_difference(stages.mean[0, channels], expected["m_p"]) < TOLERANCE
    assert largest_difference(stages.log_scale[0, channels], expected["logs_p"]) < TOLERANCE


def test_flow(stages: Stages, expected: dict[str, np.ndarray]) -> None:
    assert largest_difference(stages.z[0, expected["channels"].astype(int)], expected["z"]) < TOLERANCE


def test_source(stages: Stages, expected: dict[str, np.ndarray]) -> None:
    assert stages.source is not None
    first = int(expected["first_samples"])
    ours = stages.source[0, 0, first : first + len(expected["har_source"])]
    assert largest_difference(ours, expected["har_source"]) < TOLERANCE


def test_decoder(voice: Synthesizer, stages: Stages, expected: dict[str, np.ndarray]) -> None:
    hop = voice.config.frame_samples
    first, count = int(expected["first_samples"]) // hop, len(expected["dec_out"]) // hop
    sound = voice.decode_tiled(stages.z, stages.g, stages.source, (first, first + count))
    assert largest_difference(sound[0], expected["dec_out"]) < TOLERANCE


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ("06", "voice_v2_48k_f0"),
        ("07", "voice_v2_32k_f0"),
        ("08", "voice_v1_40k_f0"),
        ("10", "voice_v2_40k_nof0"),
        ("12", "voice_v2_40k_f0"),
        ("17", "voice_v2_40k_mrf"),
        ("18", "voice_v2_32k_refinegan"),
    ],
)
def test_kinds_of_voices(case: str, name: str, home: Path, expected: dict[str, np.ndarray]) -> None:
    """Rates, versions, no F0, with the noise that Applio drew (12), other vocoders (17, 18)."""
    paths = {**load("paths"), **expected}
    voice = build_synthesizer(load_voice(make_voice(home, name)))
    content = expected["content_v1" if voice.config.version == "v1" else "content"]
    stages = run(voice, content, noise=paths if case == "12" else None)
    core = (PATH_START_FRAMES, PATH_START_FRAMES + PATH_FRAMES)
    sound = voice.decode_tiled(stages.z, stages.g, stages.source, core)
    assert largest_difference(sound[0], paths[f"output_{case}"]) < TOLERANCE
