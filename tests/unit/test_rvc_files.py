"""Voice files: what RVC WebUI, Applio and others write, and what is no voice."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from menura.checkpoints.voice import (
    LoadedVoice,
    VoiceMetadata,
    build_synthesizer,
    expected_shapes,
    load_voice,
    read_config,
    save_voice,
)
from menura.errors import CheckpointError, EncodeError
from menura.models.synthesizer import Synthesizer
from menura.models.weights import folded, parametrized
from support.disk import no_file_longer_than
from support.tiny import tiny_config
from support.voicefiles import write_voice

METADATA = VoiceMetadata(
    name="ünïcode", author="me", info="20epoch", epoch=20, step=400, speaker_names=("a", "b", "c"), licence="CC0-1.0"
)


@pytest.fixture
def voice(tmp_path: Path) -> LoadedVoice:
    return dataclasses.replace(load_voice(write_voice(tmp_path / "made.pth")), metadata=METADATA)


@pytest.fixture
def content(tmp_path: Path, voice: LoadedVoice) -> dict[str, Any]:
    """A voice file's content, to be damaged."""
    save_voice(tmp_path / "whole.pth", voice)
    loaded: dict[str, Any] = torch.load(tmp_path / "whole.pth", weights_only=True)
    return loaded


def reload(tmp_path: Path, content: object) -> LoadedVoice:
    torch.save(content, tmp_path / "changed.pth")
    return load_voice(tmp_path / "changed.pth")


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_round_trip(ending: str, dtype: str, voice: LoadedVoice, tmp_path: Path) -> None:
    path = tmp_path / f"out{ending}"
    save_voice(path, voice, dtype=dtype)
    again = load_voice(path)
    assert again.config == voice.config
    assert again.metadata == METADATA
    assert list(again.state) == list(voice.state)
    assert all(torch.equal(again.state[k], t) and again.state[k].dtype == torch.float32 for k, t in voice.state.items())


def test_file_is_what_rvc_expects(content: dict[str, Any]) -> None:
    assert all(t.dtype == torch.float16 and t.is_contiguous() for t in content["weight"].values())
    assert not any(name.startswith("enc_q") or "parametrizations" in name for name in content["weight"])
    assert len(content["config"]) == 18
    assert (content["sr"], content["f0"], content["version"], content["vocoder"]) == (4000, 1, "v2", "HiFi-GAN")
    assert content["config"][-1] == 4000
    assert content["config"][9] == "1"


@pytest.mark.parametrize("form", [folded, parametrized])
def test_any_form_of_weight_norm(
    form: Callable[..., Any], voice: LoadedVoice, content: dict[str, Any], tmp_path: Path
) -> None:
    again = reload(tmp_path, {**content, "weight": form({k: t.float() for k, t in content["weight"].items()})})
    one, other = build_synthesizer(again).state_dict(), build_synthesizer(voice).state_dict()
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in other)


def test_training_network_is_exported_and_its_sound_kept(tmp_path: Path, voice: LoadedVoice) -> None:
    trained = Synthesizer(voice.config, training=True)
    save_voice(tmp_path / "t.pth", dataclasses.replace(voice, state=trained.state_dict()), dtype="float32")
    exported = build_synthesizer(load_voice(tmp_path / "t.pth"))
    z, g = torch.randn(1, 4, 9), torch.randn(1, 4, 1)
    source = torch.randn(1, 1, 9 * 40)
    with torch.no_grad():
        torch.testing.assert_close(exported.decode(z, g, source), trained.decode(z, g, source), atol=1e-6, rtol=1e-5)
    assert not any(p.requires_grad for p in exported.parameters())


def test_posterior_encoder_in_a_voice_is_dropped(content: dict[str, Any], voice: LoadedVoice, tmp_path: Path) -> None:
    weight = {**content["weight"], "enc_q.pre.bias": torch.zeros(8)}
    assert list(reload(tmp_path, {**content, "weight": weight}).state) == list(voice.state)


def test_fields_that_older_files_lack(content: dict[str, Any], tmp_path: Path) -> None:
    config = reload(tmp_path, {"weight": content["weight"], "config": content["config"]}).config
    assert (config.content_encoder, config.vocoder, config.has_f0) == ("contentvec", "HiFi-GAN", True)
    assert config.sample_rate == 4000


def test_rvc_webui_style(tmp_path: Path) -> None:
    """Rates as '40k', f0 as a number, no more speakers than the embedding has."""
    config = dataclasses.replace(tiny_config(rates=(10, 10, 2, 2)), n_speakers=4)
    write_voice(tmp_path / "v.pth", config)
    content = torch.load(tmp_path / "v.pth", weights_only=True)
    listed = [*content["config"][:-3], 109, content["config"][-2], "40k"]
    kept = {key: content[key] for key in ("weight", "f0", "version")}
    voice = reload(tmp_path, {**kept, "config": listed, "sr": "40k", "info": "100epoch"})
    assert (voice.config.sample_rate, voice.config.n_speakers, voice.metadata.info) == (40_000, 4, "100epoch")


def test_without_f0(tmp_path: Path) -> None:
    voice = load_voice(write_voice(tmp_path / "v.pth", tiny_config(has_f0=False)))
    assert not voice.config.has_f0
    assert build_synthesizer(voice).decode(torch.randn(1, 4, 3), torch.zeros(1, 4, 1), None).shape == (1, 120)


@pytest.mark.parametrize(("dim", "version"), [(256, "v1"), (768, "v2")])
def test_version_follows_the_weights(dim: int, version: str, tmp_path: Path) -> None:
    write_voice(tmp_path / "v.pth", dataclasses.replace(tiny_config(), content_dim=dim))
    content = torch.load(tmp_path / "v.pth", weights_only=True)
    del content["version"]
    assert reload(tmp_path, content).config.version == version


@pytest.mark.parametrize("vocoder", ["MRF HiFi-GAN", "RefineGAN"])
def test_other_vocoders(vocoder: str, tmp_path: Path) -> None:
    """Also without the field that names them."""
    config = dataclasses.replace(tiny_config(rates=(10, 4, 2)), vocoder=vocoder)
    write_voice(tmp_path / "v.pth", config)
    content = torch.load(tmp_path / "v.pth", weights_only=True)
    del content["vocoder"]
    assert reload(tmp_path, content).config.vocoder == vocoder
    with pytest.raises(CheckpointError, match="no F0, which its vocoder needs"):
        write_voice(tmp_path / "v.pth", dataclasses.replace(config, has_f0=False))


def test_unknown_vocoders_are_named(content: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="unsupported vocoder 'BigVGAN'"):
        reload(tmp_path, {**content, "vocoder": "BigVGAN"})


@pytest.mark.parametrize(
    "state", [{"dec.conv_pre.bias": torch.zeros(2)}, {"discriminators.0.convs.0.bias": torch.zeros(2)}]
)
def test_training_state(state: dict[str, Any], tmp_path: Path) -> None:
    kind = "generator" if "dec.conv_pre.bias" in state else "discriminator"
    with pytest.raises(CheckpointError, match=rf"training checkpoint \({kind}\).*menura train export"):
        reload(tmp_path, {"model": state, "optimizer": {}, "learning_rate": 1e-4, "iteration": 3})


@pytest.mark.parametrize(
    "other",
    [[1, 2], {"weight": 3}, {"weight": {}}, {"state_dict": {}}, torch.zeros(2), {"weight": {1: 2}, "config": []}],
)
def test_no_voice(other: object, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"changed\.pth"):
        reload(tmp_path, other)


def with_config(position: int, value: object) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["config"] = list(content["config"])
        content["config"][position] = value

    return change


def with_weight(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        if value is None:
            del content["weight"][name]
        else:
            content["weight"][name] = value

    return change


def with_flat_weight_norm(content: dict[str, Any]) -> None:
    """A folded weight without the dimensions that its norm is taken over."""
    gain = next(name for name in content["weight"] if name.endswith(".weight_g"))
    del content["weight"][gain], content["weight"][gain[:-2] + "_v"]
    content["weight"][gain[:-2]] = torch.zeros(4)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (with_config(2, 2**40), "widths out of range"),
        (with_config(6, 10**9), "no layers, or too many"),
        (with_config(6, 3), "lacks enc_p.encoder.attn_layers.2"),
        (with_config(3, "many"), "can't be read"),
        (with_config(9, "7"), "unknown kind of residual block"),
        (with_config(10, [3, 4]), "even residual kernels"),
        (with_config(12, [5, 2, 2, 4]), "frames a second"),
        (with_config(12, [0, 2, 2, 2]), "rates or kernels"),
        (with_config(14, [11, 4, 4]), "as many upsampling kernels"),
        (with_config(17, 44_100), "frames a second"),
        (with_config(17, float("inf")), "can't be read"),
        (with_config(17, 10**9), "sample rate out of range"),
        (with_config(8, float("nan")), "dropout"),
        (with_config(12, [2**60] * 10**5), "can't be read"),
        (with_config(11, [[1]] * 10**5), "can't be read"),
        (with_config(9, [[]]), "unknown kind of residual block"),
        (with_config(10, torch.ones(2)), "inconsistent"),
        (with_weight("dec.conv_post.weight", None), "lacks dec.conv_post.weight"),
        (with_weight("dec.conv_post.weight", torch.zeros(1, 2, 7)), "inconsistent"),
        (with_weight("dec.conv_post.weight", torch.zeros(1).expand(1, 1, 2**40)), "larger than the file"),
        (with_weight("dec.conv_pre.bias", torch.full((16,), float("nan"))), "contains NaN"),
        (with_weight("dec.extra", torch.zeros(1)), "unknown weights dec.extra"),
        (with_flat_weight_norm, "unsupported RVC voice: it lacks"),
        (with_weight("emb_g.weight", "none"), "isn't a weight"),
        (with_weight("emb_g.weight", torch.tensor(1.0)), "can't be read"),
    ],
)
def test_damaged_voice(
    damage: Callable[[dict[str, Any]], None], message: str, content: dict[str, Any], tmp_path: Path
) -> None:
    damage(content)
    with pytest.raises(CheckpointError, match=message):
        reload(tmp_path, content)


def test_safetensors_of_other_kinds(voice: LoadedVoice, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="not an RVC voice"):
        load_voice(path)
    save_file({"a": torch.zeros(2)}, path, metadata={"rvc": "[["})
    with pytest.raises(CheckpointError, match="damaged"):
        load_voice(path)
    save_voice(path, voice)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cut off"):
        load_voice(path)


def test_writing_is_whole_or_not_at_all(voice: LoadedVoice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.pth"
    path.write_bytes(b"before")

    def full(content: object, target: Any) -> None:
        target.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(EncodeError, match="No space left"):
        save_voice(path, voice)
    assert path.read_bytes() == b"before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["made.pth", "out.pth"]


@pytest.mark.parametrize("name", ["out.pth", "out.safetensors"])
def test_a_full_disk_leaves_what_was_there(voice: LoadedVoice, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"before")
    with no_file_longer_than(5000), pytest.raises(EncodeError, match=rf"{name}: .*File too large.*Free space"):
        save_voice(path, voice)
    assert path.read_bytes() == b"before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["made.pth", name]


def test_voice_that_does_not_fit_its_config_is_not_written(voice: LoadedVoice, tmp_path: Path) -> None:
    state = {name: t for name, t in voice.state.items() if name != "emb_g.weight"}
    with pytest.raises(CheckpointError, match="lacks emb_g"):
        save_voice(tmp_path / "out.pth", dataclasses.replace(voice, state=state))
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_names_of_wrapped_networks(prefix: str, content: dict[str, Any], voice: LoadedVoice, tmp_path: Path) -> None:
    """As DataParallel and torch.compile leave them."""
    weight = {f"{prefix}{name}": tensor for name, tensor in content["weight"].items()}
    assert list(reload(tmp_path, {**content, "weight": weight}).state) == list(voice.state)
    part = {name.replace("dec.", "dec._orig_mod."): tensor for name, tensor in content["weight"].items()}
    assert list(reload(tmp_path, {**content, "weight": part}).state) == list(voice.state)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_config_without_weights(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_voice(tmp_path / f"v{ending}")
    expected = load_voice(path).config
    monkeypatch.setattr("menura.checkpoints.voice.Synthesizer", None)  # no network is built
    assert read_config(path) == expected
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="cut off"):
        read_config(path)


@pytest.mark.parametrize("change", [with_config(17, 10**9), with_config(10, torch.ones(2)), with_config(2, 2**40)])
def test_config_that_is_no_voice_s(
    change: Callable[[dict[str, Any]], None], content: dict[str, Any], tmp_path: Path
) -> None:
    change(content)
    torch.save(content, tmp_path / "changed.pth")
    with pytest.raises(CheckpointError):
        read_config(tmp_path / "changed.pth")


def test_texts_of_a_voice_are_one_line_and_bounded(content: dict[str, Any], tmp_path: Path) -> None:
    odd = {"model_name": "a\n\x1b[31mb", "author": "x" * 10_000, "info": {"deep": []}, "epoch": [], "speaker_info": {}}
    metadata = reload(tmp_path, {**content, **odd}).metadata
    assert metadata.name == "a \N{REPLACEMENT CHARACTER}[31mb"
    assert len(metadata.author) == 1000
    assert (metadata.info, metadata.epoch, metadata.speaker_names) == ("", None, ())


def test_weights_that_claim_more_than_the_file_holds(tmp_path: Path, content: dict[str, Any]) -> None:
    """With strides of zero: consistent with the config, small on disk, any size in memory."""
    config = dataclasses.replace(tiny_config(), hidden_channels=4096, filter_channels=16_384)
    shapes = expected_shapes(config)
    weight = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}
    listed = list(content["config"])
    listed[3:5] = [4096, 16_384]
    torch.save({**content, "config": listed, "weight": weight}, tmp_path / "large.pth")
    assert (tmp_path / "large.pth").stat().st_size < 10**6
    with pytest.raises(CheckpointError, match="larger than the file"):
        load_voice(tmp_path / "large.pth")
