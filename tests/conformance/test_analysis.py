"""Content, F0 and pitch classes against Applio's own numbers (3.6.4, noise off) with seeded weights of real layout.

The arrays in data/ are its intermediate results for 2.4 s of a LibriVox reading (public domain), reflected by 1 s at
both ends; frames were thinned out to keep the files small.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from menura.content.contentvec import ContentVec
from menura.f0.contour import coarse_bins, read_f0_file, transpose
from menura.f0.networks import FcpeEstimator, RmvpeEstimator
from menura.models.hubert import Hubert, HubertConfig
from menura.models.rmvpe import Rmvpe, log_mel, mel_filters
from menura.voices.assets import find_asset
from support.recipe import load_manifest

DATA = Path(__file__).parent / "data"
CPU = torch.device("cpu")
EDGE_SAMPLES = 16_000
TOLERANCE = 1e-4


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / f"{name}.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def window() -> torch.Tensor:
    """(1, 70400): the high-passed clip with its reflections."""
    return torch.from_numpy(np.pad(load("clip")["samples"], EDGE_SAMPLES, mode="reflect"))[None]


@pytest.fixture(scope="module")
def hubert() -> Hubert:
    manifest = load_manifest("contentvec")
    return Hubert.from_tensors(manifest.weights(), HubertConfig.from_json(manifest.extra))


@pytest.fixture(scope="module")
def rmvpe() -> Rmvpe:
    return Rmvpe.from_tensors(load_manifest("rmvpe").weights())


@pytest.fixture(scope="module")
def salience(rmvpe: Rmvpe, window: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return rmvpe(log_mel(window, mel_filters()))


def largest_difference(ours: torch.Tensor, theirs: np.ndarray) -> float:
    assert ours.shape == theirs.shape
    return float((ours - torch.from_numpy(theirs)).abs().max())


def test_feature_extractor(hubert: Hubert, window: torch.Tensor) -> None:
    expected = load("hubert")
    with torch.inference_mode():
        features = hubert.features(window)
    assert features.shape == (1, 219, 512)
    assert largest_difference(features[0, expected["frames"]], expected["feature_extractor"]) < TOLERANCE


@pytest.mark.parametrize(
    ("projection", "expected_name"),
    [("none", "hubert_last"), ("last", "final_proj_last"), ("layer9", "final_proj_h9")],
)
def test_content(hubert: Hubert, window: torch.Tensor, projection: str, expected_name: str) -> None:
    expected = load("hubert")
    encoder = ContentVec(hubert, device=CPU, projection=projection)
    content = encoder.encode(window, None)
    assert content.shape == (1, encoder._model.config.frame_count(window.shape[1]), encoder.dim)
    assert largest_difference(content[0, expected["frames"]], expected[expected_name]) < TOLERANCE


def test_ninth_layer(hubert: Hubert, window: torch.Tensor) -> None:
    expected = load("hubert")
    with torch.inference_mode():
        (hidden,) = hubert(window, layers=[9])
    assert largest_difference(hidden[0, expected["frames"]], expected["hubert_h9"]) < TOLERANCE


def test_content_with_surveyed_statistics(hubert: Hubert, window: torch.Tensor) -> None:
    """Statistics collected over the same samples change nothing."""
    encoder = ContentVec(hubert, device=CPU)
    collector = encoder.collector()
    collector.push(window[0].numpy())
    content = encoder.encode(window, [collector.finish()])
    expected = load("hubert")
    assert largest_difference(content[0, expected["frames"]], expected["hubert_last"]) < TOLERANCE


def test_rmvpe_mel(window: torch.Tensor) -> None:
    expected = load("rmvpe")
    mel = log_mel(window, mel_filters())
    assert mel.shape == (1, 128, 441)
    ours = mel[0].T[expected["frames"]]
    # A logarithm blows up the rounding of near-silent bands: compare those as magnitudes.
    assert largest_difference(ours.exp(), np.exp(expected["mel"])) < 1e-5
    loud = expected["mel"] > np.log(1e-3)
    assert loud.mean() > 0.5
    assert float((ours - torch.from_numpy(expected["mel"])).abs()[torch.from_numpy(loud)].max()) < TOLERANCE


def test_rmvpe_salience(salience: torch.Tensor) -> None:
    expected = load("rmvpe")
    assert salience.shape == (1, 441, 360)
    assert largest_difference(salience[0, expected["frames"]], expected["hidden"]) < TOLERANCE


def test_rmvpe_f0(rmvpe: Rmvpe, window: torch.Tensor, salience: torch.Tensor) -> None:
    """Where the strongest class is no near tie, which rounding decides."""
    expected = load("rmvpe")
    f0_hz = RmvpeEstimator(rmvpe, device=CPU).estimate(window)[0]
    two_best = salience[0].topk(2).values
    clear = (two_best[:, 0] - two_best[:, 1] > TOLERANCE).numpy()
    assert clear.mean() > 0.9
    np.testing.assert_allclose(f0_hz.numpy()[clear], expected["f0_hz"][clear], rtol=1e-5)
    assert np.array_equal(coarse_bins(f0_hz.numpy())[clear], expected["coarse"][clear])


def test_fcpe_f0(window: torch.Tensor) -> None:
    """With FCPE's real weights, which the development package torchfcpe carries (see pyproject's group `weights`)."""
    expected = load("fcpe")
    f0_hz = FcpeEstimator.load(find_asset("fcpe"), CPU).estimate(window)[0].numpy()
    assert f0_hz.shape == (441,)
    np.testing.assert_allclose(f0_hz, expected["f0_hz"], rtol=1e-5)
    assert np.array_equal(coarse_bins(f0_hz), expected["coarse"])


def test_pitch_classes_and_transposition() -> None:
    expected = load("contour")
    given = expected["padded_hz"].astype(np.float32)
    assert np.array_equal(coarse_bins(given), expected["coarse"])
    raised = transpose(given, 3)
    np.testing.assert_allclose(raised, expected["raised_hz"], rtol=1e-6)
    assert np.array_equal(coarse_bins(raised), expected["raised_coarse"])


def test_f0_file_is_exact_at_10_ms(tmp_path: Path) -> None:
    """240 lines for the recording; reflected by 1 s (and a frame more at the end) they are what Applio was given."""
    expected = load("contour")
    path = tmp_path / "f0.csv"
    path.write_text("".join(f"{i / 100},{float(hz)!r}\n" for i, hz in enumerate(expected["given_hz"])))
    f0_hz = read_f0_file(path)
    assert np.array_equal(f0_hz, expected["given_hz"].astype(np.float32))
    padded = np.pad(f0_hz, (100, 101), mode="reflect")
    assert np.array_equal(coarse_bins(padded), expected["coarse"])
