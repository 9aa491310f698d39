"""Pictures: that they are drawn for whatever there may be, and show what they should."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread

from menura.errors import AssetMissingError
from menura.plots import Sound, SpeakerData, draw_contours, draw_data, draw_sounds

RATE = 16_000


def tone(hz: float, seconds: float) -> Sound:
    t = np.arange(int(seconds * RATE)) / RATE
    samples = (0.3 * np.sin(2 * np.pi * hz * t)).astype(np.float32)
    return Sound(title=f"{hz} Hz", samples=samples, rate=RATE, f0_hz=np.full(int(seconds * 100), hz, dtype=np.float32))


def test_a_spectrogram_shows_where_the_sound_is() -> None:
    tones = (replace(tone(hz, 2.0), f0_hz=None) for hz in (1000, 6000))
    low, high = (imread(io.BytesIO(draw_sounds([sound])))[..., :3].sum(axis=2) for sound in tones)
    assert low.shape == high.shape == (260, 1000)
    inner = slice(200, 800)
    # White surrounds the axes, so only rows where the pictures differ tell of the tone.
    differing = np.flatnonzero(np.abs(low[:, inner] - high[:, inner]).mean(axis=1) > 0.2)
    brighter_below = low[differing, inner].mean(axis=1) > high[differing, inner].mean(axis=1)
    assert brighter_below[differing > 150].all()
    assert not brighter_below[differing < 100].any()


def test_f0_has_an_axis_of_its_own() -> None:
    low, high = (imread(io.BytesIO(draw_sounds([tone(hz, 2.0)]))) for hz in (150, 300))
    assert low.shape == (520, 1000, 4)
    blue = [np.flatnonzero(((p[260:, 200:600, 2] - p[260:, 200:600, 0]) > 0.3).any(axis=1)) for p in (low, high)]
    assert 20 < blue[0].mean() - blue[1].mean() < 150  # an octave lower is well below, of an axis of some 200 rows


@pytest.mark.parametrize("length", [0, 1, 100, 30 * RATE])
def test_any_length_is_drawn(length: int) -> None:
    sounds = [Sound(title="a", samples=np.zeros(length, dtype=np.float32), rate=rate) for rate in (RATE, 48_000)]
    assert imread(io.BytesIO(draw_sounds(sounds, seams_s=[0.5]))).shape[:2] == (520, 1000)


def test_data_are_drawn_by_speaker() -> None:
    one = SpeakerData(name="anna", seconds=[3.0, 4.0], f0_hz=[200.0, 0.0], loudness_db=[-23.0, -30.0])
    none = SpeakerData(name="测试", seconds=[1.0], f0_hz=[0.0], loudness_db=[-120.0])
    assert imread(io.BytesIO(draw_data([one]))).shape[:2] == (240, 1000)
    assert imread(io.BytesIO(draw_data([one, none]))).shape[:2] == (480, 1000)


def test_names_are_no_formulas() -> None:
    name, curve = r"$\frac$", np.full(100, 200.0, dtype=np.float32)
    sound = Sound(title=name, samples=np.zeros(RATE, dtype=np.float32), rate=RATE)
    speaker = SpeakerData(name=name, seconds=[3.0], f0_hz=[200.0], loudness_db=[-23.0])
    for drawn in (draw_contours(name, {"swift": curve}), draw_sounds([sound]), draw_data([speaker])):
        assert imread(io.BytesIO(drawn)).size


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(AssetMissingError, match="plots"):
        draw_sounds([tone(100, 1.0)])


def test_what_draws_is_loaded_without_matplotlib() -> None:
    code = "import sys; sys.modules['matplotlib'] = None; import menura.evaluate, menura.train.session"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
