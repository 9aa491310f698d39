"""`menura f0`: curves of a recording, compared, drawn, and taken by a conversion."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from matplotlib.image import imread

from menura.cli.main import cli, run
from menura.errors import AssetMissingError
from menura.f0.contour import read_f0_file
from menura.f0.swift import SwiftEstimator
from menura.pipeline.contours import estimated_contour
from menura.pipeline.recording import ArrayRecording, FileRecording

CLIP = Path(__file__).parents[2] / "src" / "menura" / "assets" / "demo" / "librivox_0870.flac"
CPU = torch.device("cpu")


def test_curves_of_several_methods(place: Path, talk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["f0", talk.name, "--method", "swift", "--method", "crepe-tiny", "--method", "swift"]
    assert run([*command, "--out", "curves/talk.csv", "--plot", "talk.png"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == ["method", "swift", "crepe-tiny"]
    assert rows[1][-1] == "-"
    assert float(rows[2][-2]) < 30  # percent of frames apart from the first's
    first, second = (read_f0_file(Path("curves", f"talk-{name}.csv")) for name in ("swift", "crepe-tiny"))
    assert np.array_equal(first, estimated_contour(FileRecording(talk), SwiftEstimator.load(CPU), CPU))
    both = (first > 0) & (second > 0)
    assert both.mean() > 0.3
    assert np.median(np.abs(12 * np.log2(first[both] / second[both]))) < 0.3
    assert imread("talk.png").shape == (400, 1200, 4)


def test_a_conversion_takes_the_curve(place: Path, talk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["f0", talk.name, "--method", "swift", "-o", "talk.csv"]) == 0
    assert run(["convert", talk.name, "-o", "own.wav", "--f0", "swift", "--transpose", "0"]) == 0
    assert run(["convert", talk.name, "-o", "given.wav", "--f0-file", "talk.csv"]) == 0
    # Beyond the ends given F0 is reflected where the recording is, so the phase is another one; pitch is the same.
    own, given = (
        estimated_contour(FileRecording(Path(name)), SwiftEstimator.load(CPU), CPU) for name in ("own.wav", "given.wav")
    )
    both = (own > 0) & (given > 0)
    assert both.sum() > 0.8 * (own > 0).sum()
    assert np.median(np.abs(12 * np.log2(own[both] / given[both]))) < 0.1
    Path("short.csv").write_text("0,100\n0.01,100\n")
    capsys.readouterr()
    assert run(["convert", talk.name, "-o", "short.wav", "--f0-file", "short.csv"]) == 0
    assert "The F0 file covers 0.02 s, but the recording is" in capsys.readouterr().out


def test_what_is_damaged_is_estimated_as_far_as_it_goes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And the exit code says so, as that of `convert` and `effects apply` does."""
    Path("cut.flac").write_bytes(CLIP.read_bytes()[:60_000])
    assert run(["f0", "cut.flac", "--method", "swift", "-o", "cut.csv"]) == 1
    assert "warning: cut.flac: " in capsys.readouterr().err
    assert len(read_f0_file(Path("cut.csv"))) > 100
    assert run(["convert", "cut.flac", "-o", "cut.wav"]) == 1
    assert run(["effects", "apply", "cut.flac", "-o", "loud.wav", "--effects", "gain"]) == 1


def test_what_is_missing_is_told(place: Path, talk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["f0", talk.name, "--method", "rmvpe"]) == 1
    assert "menura assets import" in capsys.readouterr().err
    assert run(["f0", talk.name, "--method", "harvest"]) == 2
    assert run(["f0", "nothing.wav"]) == 1
    assert run(["f0", talk.name, "--method", "all"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert {"fcpe", "crepe-tiny", "swift"} <= set(names)
    assert "rmvpe" not in names


def test_nothing_is_written_over_the_recording(place: Path, talk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = talk.read_bytes()
    both = ["--method", "swift", "--method", "fcpe"]
    for arguments in (
        ["-o", talk.name],
        ["--plot", talk.name],
        ["-o", "."],
        [*both, "-o", "."],
        [*both, "-o", talk.name],
    ):
        assert run(["f0", talk.name, *arguments]) == 2
        captured = capsys.readouterr()
        assert "is a folder, or the recording itself" in captured.err
        assert not captured.out
    assert talk.read_bytes() == before


def test_what_could_not_be_read_is_told_once(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = 0.1 * np.sin(np.arange(16_000) / 12, dtype=np.float32)
    samples[5000] = np.nan
    soundfile.write("nan.wav", samples, 16_000, subtype="FLOAT")
    assert run(["f0", "nan.wav", "--method", "swift", "--method", "fcpe"]) == 1
    assert capsys.readouterr().err.count("nan.wav: NaN or infinite samples were replaced by silence") == 1


def test_the_repair_is_not_for_pm(place: Path, talk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["f0", talk.name, "--method", "pm", "--f0-repair", "fold"]) == 2
    assert "pm takes noise at half speed for notes" in capsys.readouterr().err


@pytest.mark.parametrize("length", [1, 100, 16_000, 50_001])
def test_a_contour_has_the_recordings_length(length: int) -> None:
    recording = ArrayRecording(np.zeros((length, 1), dtype=np.float32), 16_000)
    f0_hz = estimated_contour(recording, SwiftEstimator.load(CPU), CPU)
    assert len(f0_hz) == -(-length // 160)
    assert not f0_hz.any()


def test_that_nothing_can_be_drawn_is_said_first(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(AssetMissingError, match="plots"):
        cli.main(["f0", "not read.wav", "--plot", "talk.png"], standalone_mode=False)
