"""Voices for other programs: RVC's files, and ONNX graphs that give what the voice gives."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from menura.checkpoints.voice import LoadedVoice, build_synthesizer, load_voice
from menura.content.registry import STARTER_WEIGHTS
from menura.content.starter import StarterEncoder
from menura.errors import EncodeError, OptionError
from menura.export import onnx
from menura.export.onnx import LATENT_SCALE, example_inputs, export_onnx
from menura.export.voice import export_voice
from menura.f0.contour import coarse_bins
from menura.f0.registry import load_estimator, method_path
from menura.voices.library import ImportRequest, find_voice, import_voices
from support.full_size import make_index
from support.speech import speech
from support.tiny import tiny_config
from support.voicefiles import write_voice

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "onnx_voice.py"
CPU = torch.device("cpu")


def voice_of(kind: str, folder: Path) -> LoadedVoice:
    if kind == "Source-filter":
        return load_voice(find_voice("wren", folder).path)
    config = tiny_config(has_f0=kind != "no F0", rates=(10, 4, 2))
    config = dataclasses.replace(config, vocoder="HiFi-GAN" if kind == "no F0" else kind)
    return load_voice(write_voice(folder / "voice.pth", config, scale=0.3))


@pytest.mark.parametrize("kind", ["HiFi-GAN", "no F0", "MRF HiFi-GAN", "RefineGAN", "Source-filter"])
def test_graphs_give_what_the_voice_gives_at_any_length(kind: str, tmp_path: Path) -> None:
    voice = voice_of(kind, tmp_path)
    network = build_synthesizer(voice)
    encoder, decoder, about = export_onnx(voice, tmp_path, "x")
    assert json.loads(about.read_text())["frame_samples"] == voice.config.frame_samples
    sessions = [onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (encoder, decoder)]
    for frames in (6, 50, 131):
        inputs = example_inputs(voice, frames)
        arrays = [{name: tensor.numpy() for name, tensor in given.items()} for given in inputs]
        found = [session.run(None, given) for session, given in zip(sessions, arrays, strict=True)]
        with torch.inference_mode():
            prior = network.encode(inputs[0]["content"], inputs[0].get("f0_coarse"), None)
            given = inputs[1]
            g = network.condition(given["speaker_id"])
            noise = torch.exp(given["log_scale"]) * given["latent_noise"] * LATENT_SCALE
            z = network.reverse_flow(given["mean"] + noise, None, g)
            source = None
            if voice.config.has_f0:
                source = network.source(given["f0_hz"], given["phase_cycles"], given["source_noise"], 1.0)
            sound = network.decode(z, g, source)
        assert sound.abs().max() > 0.001
        for one, other in zip([*found[0], *found[1]], [prior.mean, prior.log_scale, sound], strict=True):
            assert np.abs(one - other.numpy()).max() < 1e-5 * max(1, float(other.abs().max()))


def test_the_example_needs_neither_torch_nor_menura(tmp_path: Path) -> None:
    source = EXAMPLE.read_text(encoding="utf-8")
    imported = {n.names[0].name for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Import)}
    assert source.count("\n") <= 40
    assert not imported & {"torch", "menura"}
    voice = load_voice(find_voice("wren", tmp_path).path)
    about = export_onnx(voice, tmp_path, "wren")[2]
    samples = torch.from_numpy(speech(2))[None]
    content = StarterEncoder.load(CPU, STARTER_WEIGHTS).encode(samples, None)[0]
    f0_hz = load_estimator("swift", method_path("swift", tmp_path), CPU).estimate(samples)[0]
    frames = min(2 * len(content), len(f0_hz))
    np.savez(tmp_path / "features.npz", content=content.numpy(), f0_hz=f0_hz.numpy())
    files = (about, tmp_path / "features.npz", tmp_path / "out.wav")
    subprocess.run([sys.executable, str(EXAMPLE), *map(str, files)], check=True)
    with wave.open(str(tmp_path / "out.wav")) as file:
        assert file.getframerate() == 24_000
        made = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2") / 32767
    random, network = np.random.default_rng(0), build_synthesizer(voice)
    latent = torch.from_numpy(random.standard_normal((1, voice.config.inter_channels, frames), np.float32))
    excitation = torch.from_numpy(random.standard_normal((1, frames * voice.config.frame_samples), np.float32))
    with torch.inference_mode():
        coarse = torch.from_numpy(coarse_bins(f0_hz[:frames].numpy()))[None]
        prior = network.encode(content.repeat_interleave(2, dim=0)[None, :frames], coarse, None)
        g = network.condition(torch.zeros(1, dtype=torch.int64))
        z = network.reverse_flow(prior.mean + torch.exp(prior.log_scale) * latent * LATENT_SCALE, None, g)
        phase = torch.zeros(1, dtype=torch.float64)
        expected = network.decode(z, g, network.source(f0_hz[None, :frames], phase, excitation, 1.0))[0].numpy()
    assert np.abs(expected).max() > 0.05
    assert np.abs(made - expected.clip(-1, 1)).max() < 1e-3


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """With an installed voice `own`, its index and its card."""
    config = dataclasses.replace(tiny_config(), content_dim=768, content_encoder="contentvec")
    made = write_voice(tmp_path / "own.pth", config, name="own")
    index = make_index(tmp_path, 400, 768)
    (tmp_path / "card.json").write_text('{"name": "own", "rights": "mine", "f0_median_hz": 120}')
    list(import_voices(ImportRequest(source=made, home=tmp_path, index=index)))
    return tmp_path


@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_files_are_rvcs_and_come_back(form: str, home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    entry, folder = find_voice("own", home), tmp_path_factory.mktemp("out") / "new"
    made = export_voice(entry, form, folder)
    names = {f"own.{form}", "added_IVF10_Flat_nprobe_1_own_v2.index", "card.json"}
    assert {path.name for path in made} == {path.name for path in folder.iterdir()} == names
    if form == "pth":
        content = torch.load(folder / "own.pth", weights_only=True)
        assert list(content)[:2] == ["weight", "config"]
        assert (content["sr"], content["f0"], content["version"], len(content["config"])) == (4000, 1, "v2", 18)
        assert {tensor.dtype for tensor in content["weight"].values()} == {torch.float16}
    other = tmp_path_factory.mktemp("other")
    (result,) = import_voices(ImportRequest(source=folder, home=other))
    assert result.voice is not None
    assert result.voice.f0_median_hz == 120
    assert result.voice.index_path is not None
    assert entry.index_path is not None
    assert result.voice.index_path.read_bytes() == entry.index_path.read_bytes()
    one, two = load_voice(result.voice.path).state, load_voice(entry.path).state
    assert all(torch.equal(one[name], weight) for name, weight in two.items())


def test_another_voices_card_stays(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "card.json").write_text('{"name": "another"}')
    assert "card.json" not in {path.name for path in export_voice(find_voice("own", home), "pth", folder)}
    assert (folder / "card.json").read_text() == '{"name": "another"}'


def test_what_other_programs_cannot_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="can't run this voice's vocoder"):
        export_voice(find_voice("wren", tmp_path), "pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_its_packages(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"onnx and onnxruntime.*menura\[onnx\]"):
        export_voice(find_voice("own", home), "onnx", home / "out")


def test_a_graph_that_differs_is_not_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "TOLERANCE", 0.0)
    with pytest.raises(EncodeError, match="differs from the voice by"):
        export_voice(find_voice("own", home), "onnx", home / "out")
    assert list((home / "out").iterdir()) == []
