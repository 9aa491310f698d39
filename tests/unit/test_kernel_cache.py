"""Packed weights on disk: the same as packed anew, whole or not there, within a budget."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from menura.cli.main import cli
from menura.kernels import cache as cache_module
from menura.kernels import packing
from menura.kernels.cache import PackingCache, packing_key
from menura.kernels.library import KernelLibrary, kernels
from menura.models.synthesizer import Synthesizer
from support.pages import mapped_bytes
from support.tiny import tiny_config


@pytest.fixture
def library() -> KernelLibrary:
    found = kernels()
    assert found is not None
    return found


@pytest.fixture(autouse=True)
def keep_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "SMALLEST_BYTES", 0)


def voice(seed: int) -> Synthesizer:
    torch.manual_seed(seed)
    return Synthesizer(dataclasses.replace(tiny_config(), upsample_initial_channel=64)).requires_grad_(False).eval()


def sound(net: Synthesizer) -> torch.Tensor:
    random = torch.Generator().manual_seed(7)
    config = net.config
    content, f0_coarse = torch.randn(1, 50, config.content_dim, generator=random), torch.full((1, 50), 7)
    g = torch.randn(1, config.gin_channels, 1, generator=random)
    prior = net.encode(content, f0_coarse, torch.tensor([50]))
    z = net.reverse_flow(prior.mean, prior.mask, g)
    return net.decode_tiled(z, g, torch.randn(1, 1, 50 * config.frame_samples, generator=random), (5, 45))


def test_second_start_packs_nothing(library: KernelLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, cache = voice(0), PackingCache(tmp_path / "kernels")
    assert net.kernel_bytes == 0
    net.use_kernels(library, cache)
    first = sound(net)
    (file,) = (tmp_path / "kernels").iterdir()
    assert net.kernel_bytes >= file.stat().st_size * 0.9
    assert file.suffix == ".packed"
    assert net._pages.size_bytes > file.stat().st_size * 0.6  # mapped from the first start on; tiny layers share pages

    def refuse(*_: object) -> None:
        raise AssertionError("packed again")

    monkeypatch.setattr(packing, "_panels", refuse)
    net.use_kernels(library, cache)
    assert torch.equal(sound(net), first)
    with pytest.raises(AssertionError, match="packed again"):
        voice(1).use_kernels(library, cache)


def test_a_long_pass_lets_the_pages_go(library: KernelLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = voice(0)
    net.use_kernels(library, PackingCache(tmp_path))
    first = sound(net)
    (file,) = tmp_path.iterdir()
    monkeypatch.setattr("menura.models.synthesizer._LONG_PASS_FRAMES", 41)
    before = mapped_bytes(file)
    sound(net)
    assert mapped_bytes(file) > before / 2 > 0  # 40 frames are no long pass
    monkeypatch.setattr("menura.models.synthesizer._LONG_PASS_FRAMES", 40)
    assert torch.equal(sound(net), first)
    assert mapped_bytes(file) < before / 2
    assert torch.equal(sound(net), first)


@pytest.mark.parametrize("damage", ["cut", "empty", "header", "nonsense", "list"])
def test_a_damaged_file_is_made_again(library: KernelLibrary, tmp_path: Path, damage: str) -> None:
    net, cache = voice(0), PackingCache(tmp_path)
    net.use_kernels(library, cache)
    first = sound(net)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(
        {
            "cut": whole[:-4],
            "empty": b"",
            "header": (1 << 60).to_bytes(8, "little") + whole[8:],
            "nonsense": bytes(len(whole)),
            "list": (3).to_bytes(8, "little") + b"[1]",
        }[damage]
    )
    net.use_kernels(library, cache)
    assert torch.equal(sound(net), first)
    assert file.read_bytes() == whole


def test_a_folder_that_cannot_be_made_is_no_error(library: KernelLibrary, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    net = voice(0)
    net.use_kernels(library, PackingCache(tmp_path / "file" / "kernels"))
    assert sound(net).isfinite().all()


def test_keys_tell_layers_apart(library: KernelLibrary) -> None:
    weight = torch.randn(16, 16, 3)
    other = dataclasses.replace(library, path=1 - library.path)
    keys = [
        packing_key(library, [(weight, 1)]),
        packing_key(library, [(weight, 2)]),
        packing_key(library, [(weight + 1, 1)]),
        packing_key(library, [(weight.reshape(16, 3, 16), 1)]),
        packing_key(other, [(weight, 1)]),
    ]
    assert len(set(keys)) == len(keys)


def test_budget(library: KernelLibrary, tmp_path: Path) -> None:
    voice(0).use_kernels(library, PackingCache(tmp_path))
    (first,) = tmp_path.iterdir()
    cache = PackingCache(tmp_path, budget_bytes=first.stat().st_size * 5 // 2)
    for seed in (1, 2, 3):
        voice(seed).use_kernels(library, cache)
    assert len(list(tmp_path.iterdir())) == 2
    assert not first.exists()


def test_clean(library: KernelLibrary, tmp_path: Path) -> None:
    voice(0).use_kernels(library, PackingCache(tmp_path / "cache" / "kernels"))
    run = CliRunner().invoke(cli, ["assets", "clean", "--home", str(tmp_path)])
    assert run.exit_code == 0
    assert "MB removed" in run.output
    assert not list((tmp_path / "cache" / "kernels").iterdir())
