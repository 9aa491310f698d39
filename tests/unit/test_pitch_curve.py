"""F0 for pictures: right, and bounded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from menura.server import pitch

RATE = 22_050


def write_tone(path: Path, *hz: float, seconds: float) -> None:
    """A buzz that changes its pitch at equal times."""
    each = round(seconds * RATE / len(hz))
    phase = np.cumsum(np.repeat(hz, each)) / RATE
    harmonics = sum(np.sin(2 * np.pi * n * phase) / n for n in range(1, 8))
    soundfile.write(path, (0.2 * np.asarray(harmonics)).astype(np.float32), RATE)


def near(hz: list[float], wanted: float) -> bool:
    return float(np.median(hz)) == pytest.approx(wanted, rel=0.01)


def test_a_curve_follows_the_pitch(tmp_path: Path) -> None:
    write_tone(tmp_path / "tone.wav", 110, 220, seconds=9)
    curve = pitch.pitch_curve(tmp_path / "tone.wav")
    assert curve.step_s == 0.01
    assert len(curve.hz) == 900
    assert near(curve.hz[20:430], 110)
    assert near(curve.hz[470:880], 220)
    assert min(curve.hz[780:820]) > 100  # where two windows meet, at 8 s


def test_long_recordings_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pitch, "_MOST_WINDOWS", 2)
    monkeypatch.setattr(pitch, "_MOST_POINTS", 100)
    write_tone(tmp_path / "tone.wav", 150, 300, seconds=48)
    curve = pitch.pitch_curve(tmp_path / "tone.wav")
    assert (curve.step_s, len(curve.hz)) == (0.48, 100)
    measured = [number for number, hz in enumerate(curve.hz) if hz]
    assert measured == [*range(17), *range(50, 67)]  # 0 to 8 s, and 24 to 32 s
    assert near(curve.hz[:16], 150)
    assert near(curve.hz[51:66], 300)


def test_what_is_shorter_than_a_window_has_a_curve(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "click.wav", np.full(5, 0.1, np.float32), RATE)
    assert pitch.pitch_curve(tmp_path / "click.wav").hz == [0.0]
