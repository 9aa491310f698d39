"""Packed weights on disk: the same as packed anew, believed only where they are whole, within a budget."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from menura.cli.main import cli
from menura.kernels import cache as cache_module
from menura.kernels import layers
from menura.kernels.cache import Packing, PackingCache, PackingError, packing_key
from menura.kernels.library import Algorithm, KernelLibrary, kernel_status
from menura.kernels.packing import pack_convolution
from menura.kernels.voice import NativeVoice
from menura.models.synthesizer import Synthesizer
from menura.system.files import replacing
from support.pages import mapped_bytes
from support.tiny import tiny_config


@pytest.fixture
def library() -> KernelLibrary:
    found = kernel_status().library
    assert found is not None
    return found


@pytest.fixture(autouse=True)
def keep_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "SMALLEST_BYTES", 0)


def network(seed: int) -> Synthesizer:
    torch.manual_seed(seed)
    config = dataclasses.replace(tiny_config(), upsample_initial_channel=64)
    return Synthesizer(config).requires_grad_(False).eval()


def sound(voice: NativeVoice) -> torch.Tensor:
    random = torch.Generator().manual_seed(7)
    config = voice.config
    content, f0_coarse = torch.randn(1, 50, config.content_dim, generator=random), torch.full((1, 50), 7)
    g = torch.randn(1, config.gin_channels, 1, generator=random)
    prior = voice.encode(content, f0_coarse, torch.tensor([50]))
    z = voice.reverse_flow(prior.mean, prior.mask, g)
    return voice.decode_tiled(z, g, torch.randn(1, 1, 50 * config.frame_samples, generator=random), (5, 45))


def test_second_start_packs_nothing(library: KernelLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, cache = network(0), PackingCache(tmp_path / "kernels")
    voice = NativeVoice(net, library, cache)
    first = sound(voice)
    assert torch.equal(sound(NativeVoice(net, library)), first)
    (file,) = (tmp_path / "kernels").iterdir()
    assert voice.resident_bytes >= file.stat().st_size * 0.9
    assert file.suffix == ".packed"
    pages = sum(last - first for first, last in voice._pages._spans)
    assert pages > file.stat().st_size * 0.6  # mapped from the first start on; tiny layers share pages

    packed: list[torch.Tensor] = []

    def counted(weight: torch.Tensor, algorithm: Algorithm, panel_channels: int) -> torch.Tensor:
        packed.append(weight)
        return pack_convolution(weight, algorithm, panel_channels)

    monkeypatch.setattr(layers, "pack_convolution", counted)
    assert torch.equal(sound(NativeVoice(net, library, cache)), first)
    assert len(packed) == 2 * net.config.n_layers  # attention's few vectors for distances, which aren't kept
    NativeVoice(network(1), library, cache)
    assert len(packed) > 6 * net.config.n_layers


def test_a_long_pass_lets_the_pages_go(library: KernelLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    voice = NativeVoice(network(0), library, PackingCache(tmp_path))
    first = sound(voice)
    (file,) = tmp_path.iterdir()
    monkeypatch.setattr("menura.kernels.voice.LONG_PASS_FRAMES", 41)
    before = mapped_bytes(file)
    sound(voice)
    assert mapped_bytes(file) > before / 2 > 0  # 40 frames are no long pass
    monkeypatch.setattr("menura.kernels.voice.LONG_PASS_FRAMES", 40)
    assert torch.equal(sound(voice), first)
    assert mapped_bytes(file) < before / 2
    assert torch.equal(sound(voice), first)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_flipped_bit_is_noticed(library: KernelLibrary, tmp_path: Path, where: float, bit: int) -> None:
    file, whole = stored(library, tmp_path)
    damaged = bytearray(whole)
    damaged[int(where * len(whole))] ^= 1 << bit
    check_mended(library, file, bytes(damaged), whole)


@pytest.mark.parametrize("damage", ["cut", "empty", "header", "zeros", "longer", "old format"])
def test_a_damaged_file_is_made_again(library: KernelLibrary, tmp_path: Path, damage: str) -> None:
    file, whole = stored(library, tmp_path)
    damaged = {
        "cut": whole[:-4],
        "empty": b"",
        "header": whole[:64],
        "zeros": bytes(len(whole)),
        "longer": whole + bytes(4),
        "old format": (3).to_bytes(8, "little") + b"{ }" + whole[64:],
    }[damage]
    check_mended(library, file, damaged, whole)


@pytest.mark.parametrize("change", [-256, -4, 4, 256])
def test_whole_files_of_other_lengths_are_not_read(library: KernelLibrary, tmp_path: Path, change: int) -> None:
    """Shorter or longer than the layers need, with a checksum that fits: nothing is read beyond the end."""
    file, whole = stored(library, tmp_path)
    data = whole[64:][:change] if change < 0 else whole[64:] + bytes(change)
    flat = torch.frombuffer(bytearray(data), dtype=torch.float32)
    with file.open("wb") as stream:
        cache_module._write(stream, [flat])
    assert PackingCache(tmp_path).load(file.stem, library) is not None
    check_mended(library, file, file.read_bytes(), whole)


def test_a_folder_in_place_of_the_file_is_no_error(library: KernelLibrary, tmp_path: Path) -> None:
    file, _ = stored(library, tmp_path)
    file.unlink()
    file.mkdir()
    assert sound(NativeVoice(network(0), library, PackingCache(tmp_path))).isfinite().all()


def test_a_pipe_in_place_of_the_file_is_not_waited_for(library: KernelLibrary, tmp_path: Path) -> None:
    file, _ = stored(library, tmp_path)
    file.unlink()
    os.mkfifo(file)
    assert sound(NativeVoice(network(0), library, PackingCache(tmp_path))).isfinite().all()


def stored(library: KernelLibrary, folder: Path) -> tuple[Path, bytes]:
    """What the cache makes of a voice."""
    NativeVoice(network(0), library, PackingCache(folder))
    (file,) = folder.iterdir()
    return file, file.read_bytes()


def check_mended(library: KernelLibrary, file: Path, damaged: bytes, whole: bytes) -> None:
    expected = sound(NativeVoice(network(0), library))
    file.unlink()  # never through a mapping
    file.write_bytes(damaged)
    assert torch.equal(sound(NativeVoice(network(0), library, PackingCache(file.parent))), expected)
    assert file.read_bytes() == whole


def test_layers_take_what_is_theirs(library: KernelLibrary) -> None:
    weights = torch.arange(10.0)
    source = Packing(library, weights)
    assert torch.equal(source.take(4, weights.clone), weights[:4])
    with pytest.raises(PackingError, match="more"):
        source.finish()
    assert torch.equal(source.take(6, weights.clone), weights[4:])
    source.finish()
    with pytest.raises(PackingError, match="0 packed weights for a layer of 1"):
        source.take(1, weights.clone)


def test_abandoned_files_are_removed_and_others_are_not(library: KernelLibrary, tmp_path: Path) -> None:
    file, _ = stored(library, tmp_path)
    left = [tmp_path / "tmpabcdef.tmp", tmp_path / f".{file.name}.12345678.part"]
    for leftover in left:
        leftover.write_bytes(b"begun")
    with replacing(tmp_path / "other.packed") as partial:
        partial.write_bytes(b"being written")
        NativeVoice(network(0), library, PackingCache(tmp_path))
        assert partial.exists()
    assert sorted(tmp_path.iterdir()) == sorted([file, tmp_path / "other.packed"])


def test_a_folder_that_cannot_be_made_is_no_error(library: KernelLibrary, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    voice = NativeVoice(network(0), library, PackingCache(tmp_path / "file" / "kernels"))
    assert sound(voice).isfinite().all()


def test_keys_tell_networks_apart(library: KernelLibrary) -> None:
    weight = torch.randn(16, 16, 3)
    other = dataclasses.replace(library, path=1 - library.path)
    keys = [
        packing_key(library, "a", {"x": weight}),
        packing_key(library, "b", {"x": weight}),
        packing_key(library, "a", {"y": weight}),
        packing_key(library, "a", {"x": weight + 1}),
        packing_key(library, "a", {"x": weight.reshape(16, 3, 16)}),
        packing_key(other, "a", {"x": weight}),
    ]
    assert len(set(keys)) == len(keys)


def test_budget(library: KernelLibrary, tmp_path: Path) -> None:
    NativeVoice(network(0), library, PackingCache(tmp_path))
    (first,) = tmp_path.iterdir()
    cache = PackingCache(tmp_path, budget_bytes=first.stat().st_size * 5 // 2)
    for seed in (1, 2, 3):
        NativeVoice(network(seed), library, cache)
    assert len(list(tmp_path.iterdir())) == 2
    assert not first.exists()


def test_clean(library: KernelLibrary, tmp_path: Path) -> None:
    NativeVoice(network(0), library, PackingCache(tmp_path / "cache" / "kernels"))
    run = CliRunner().invoke(cli, ["assets", "clean", "--home", str(tmp_path)])
    assert run.exit_code == 0
    assert "MB removed" in run.output
    assert not (tmp_path / "cache" / "kernels").exists()
