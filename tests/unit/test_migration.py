"""An installation of Applio or RVC WebUI is taken over."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from menura.content.contentvec import ContentVec
from menura.errors import OptionError, ResourceError
from menura.voices import assets, library
from menura.voices.assets import asset_status, find_asset, needed_by
from menura.voices.library import list_voices
from menura.voices.migration import take_over
from support.disk import no_file_longer_than
from support.fairseq import write_fairseq_hubert
from support.tiny import tiny_config
from support.tiny_hubert import CONFIG, tiny_weights
from support.voicefiles import write_voice

CPU = torch.device("cpu")
ADDED = "added_IVF9_Flat_nprobe_1_singer_v2.index"


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no package with weights were installed, and any bytes were an index that serves any voice."""
    monkeypatch.setattr(assets, "_packaged", lambda place: None)
    monkeypatch.setattr(library, "_check_index", lambda *_: None)


def put(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)


def put_networks(folder: Path, predictors: str, pretrained: str) -> None:
    put(folder / predictors / "rmvpe.pt", {"a.weight": torch.zeros(2)})
    for name in ("f0G40k.pth", "f0D40k.pth", "G32k.pth"):
        put(folder / pretrained / name, {"model": {"dec.weight": torch.zeros(2)}, "iteration": 1})


@pytest.fixture
def applio(tmp_path: Path) -> Path:
    folder = tmp_path / "Applio"
    embedders, logs = folder / "rvc" / "models" / "embedders", folder / "logs"
    for name in ("contentvec", "spin", "chinese_hubert_base", "embedders_custom/mine"):
        put(embedders / name / "pytorch_model.bin", tiny_weights())
        (embedders / name / "config.json").write_text(json.dumps(dataclasses.asdict(CONFIG)))
    put_networks(folder, "rvc/models/predictors", "rvc/models/pretraineds/hifi-gan")
    put(folder / "rvc/models/predictors/fcpe.pt", {"config_dict": {}, "model": {}})
    put(folder / "rvc/models/pretraineds/custom/G_Own.pth", {"model": {}})
    for name in ("singer/singer_100e_200s.pth", "singer/singer_200e_400s.pth", "singer/G_400.pth"):
        (logs / name).parent.mkdir(parents=True, exist_ok=True)
        write_voice(logs / name)
    (logs / "singer" / ADDED).write_bytes(b"index")
    (logs / "mute").mkdir()
    return folder


@pytest.fixture
def webui(tmp_path: Path) -> Path:
    folder = tmp_path / "RVC"
    (folder / "assets" / "hubert").mkdir(parents=True)
    write_fairseq_hubert(folder / "assets" / "hubert" / "hubert_base.pt", tiny_weights(), heads=4)
    put_networks(folder, "assets/rmvpe", "assets/pretrained_v2")
    for name in ("singer", "bird"):
        (folder / "assets" / "weights").mkdir(exist_ok=True)
        write_voice(folder / "assets" / "weights" / f"{name}.pth")
        (folder / "logs" / name).mkdir(parents=True)
    (folder / "logs" / "singer" / ADDED).write_bytes(b"index")
    put(folder / "logs" / "bird" / "D_2333333.pth", {"model": {}})
    return folder


def outcomes(folder: Path, home: Path) -> dict[str, str]:
    return {item.name: item.outcome for item in take_over(folder, home)}


PRETRAINED = [f"pretrained_v2/{name}" for name in ("G32k.pth", "f0D40k.pth", "f0G40k.pth")]


def test_applio(applio: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    expected = ["chinese-hubert-base", "contentvec", "spin", "mine", "rmvpe", "fcpe", *PRETRAINED, "singer_200e_400s"]
    unknown = {"rvc/models/pretraineds/custom/G_Own.pth": "unknown"}
    assert outcomes(applio, home) == dict.fromkeys(expected, "imported") | unknown
    assert outcomes(applio, home) == dict.fromkeys(expected, "present") | unknown
    for name in ("chinese-hubert-base", "contentvec", "spin", "mine", "rmvpe", "fcpe"):
        assert find_asset(name, home).exists()
    voice = next(voice for voice in list_voices(home) if voice.name == "singer_200e_400s")
    assert voice.index_path is not None
    assert not [path for path in home.rglob("*") if path.name.startswith(".")]


def test_rvc_webui_gives_the_same_content_as_applio(applio: Path, webui: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    outcomes(applio, first)
    expected = ["contentvec", "rmvpe", *PRETRAINED, "bird", "singer"]
    assert outcomes(webui, second) == dict.fromkeys(expected, "imported")
    assert outcomes(webui, second) == dict.fromkeys(expected, "present")
    indexes = {voice.name: voice.index_path is not None for voice in list_voices(second) if not voice.builtin}
    assert indexes == {"bird": False, "singer": True}
    samples = torch.randn(1, 8000, generator=torch.Generator().manual_seed(1))
    contents = [ContentVec.load(find_asset("contentvec", home), CPU).encode(samples, None) for home in (first, second)]
    assert torch.equal(*contents)


def test_an_older_rvc_webui(webui: Path, tmp_path: Path) -> None:
    for old, new in (("assets/hubert/hubert_base.pt", "hubert_base.pt"), ("assets/rmvpe/rmvpe.pt", "rmvpe.pt")):
        (webui / old).rename(webui / new)
    (webui / "assets" / "weights").rename(webui / "weights")
    (webui / "assets" / "pretrained_v2").rename(webui / "pretrained")
    expected = ["contentvec", "rmvpe", *(name.replace("_v2", "") for name in PRETRAINED), "bird", "singer"]
    assert outcomes(webui, tmp_path / "home") == dict.fromkeys(expected, "imported")


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("contentvec", lambda path: path.write_text("version https:" + "//git-lfs.github.com/spec/v1\n"), "LFS"),
        ("contentvec", lambda path: path.write_bytes(path.read_bytes()[:-500]), "cut off"),
        ("contentvec", lambda path: torch.save({"a": torch.zeros(2)}, path), "lack"),
        ("spin", lambda path: path.with_name("config.json").write_text("[" * 100_000), "JSON"),
        ("spin", lambda path: path.with_name("config.json").write_text('{"hidden_size": "x"}'), "size"),
    ],
)
def test_damaged_networks_are_not_taken(
    name: str, damage: Callable[[Path], object], said: str, applio: Path, tmp_path: Path
) -> None:
    damage(applio / "rvc" / "models" / "embedders" / name / "pytorch_model.bin")
    results = {item.name: item for item in take_over(applio, tmp_path / "home")}
    assert results[name].outcome == "failed"
    assert results[name].error is not None
    assert said in results[name].error.problem
    assert not (tmp_path / "home" / "assets" / name).exists()
    assert results["rmvpe"].outcome == "imported"


def test_a_full_disk(applio: Path, tmp_path: Path) -> None:
    with no_file_longer_than(5000), pytest.raises(ResourceError) as caught:
        outcomes(applio, tmp_path / "home")
    assert "File too large" in caught.value.problem
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()]


def test_other_folders(tmp_path: Path) -> None:
    (tmp_path / "music").mkdir()
    with pytest.raises(OptionError, match="holds nothing"):
        outcomes(tmp_path / "music", tmp_path / "home")


def test_what_installed_voices_need(tmp_path: Path) -> None:
    assert needed_by(tmp_path) == {}
    (tmp_path / "voices" / "bad").mkdir(parents=True)
    (tmp_path / "voices" / "bad" / "voice.pth").write_bytes(b"x")
    write_voice(tmp_path / "voices" / "own.pth")
    config = dataclasses.replace(tiny_config(), content_encoder="menura-starter")
    write_voice(tmp_path / "voices" / "starter.pth", config)
    write_voice(tmp_path / "voices" / "odd.pth", dataclasses.replace(config, content_encoder="odd-one"))
    assert needed_by(tmp_path) == {tiny_config().content_encoder: ["own"], "odd-one": ["odd"]}
    assert [status.asset.name for status in asset_status(tmp_path, ["odd-one"])][-1] == "odd-one"
