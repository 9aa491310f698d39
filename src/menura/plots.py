"""Pictures for people, as PNG bytes. AssetMissingError without the extra `plots` (matplotlib)."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from menura.errors import AssetMissingError
from menura.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WINDOW_S, _HOP_S = 0.032, 0.008
_FLOOR_DB = -80.0
_LONGEST_S = 20.0
_DPI = 100
_MARKS_HZ = (50, 70, 100, 150, 200, 300, 400, 600, 800, 1200, 1600, 2000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """A recording to be drawn."""

    title: str
    samples: FloatArray
    """(samples,)"""
    rate: int
    f0_hz: FloatArray | None = None
    """(frames,) at 100 Hz, 0 where unvoiced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakerData:
    """What a speaker's slices are, one value each."""

    name: str
    seconds: Sequence[float]
    f0_hz: Sequence[float]
    """Medians; 0 where nothing is voiced."""
    loudness_db: Sequence[float]


def draw_sounds(sounds: Sequence[Sound], *, seams_s: Sequence[float] = ()) -> bytes:
    """Spectrograms of the first 20 s above each other on one time axis, the seams in the last; below them F0."""
    curves = {sound.title: sound.f0_hz[: int(100 * _LONGEST_S)] for sound in sounds if sound.f0_hz is not None}
    figure = _figure(10, 2.6 * (len(sounds) + bool(curves)))
    top_hz = max(sound.rate for sound in sounds) / 2
    longest_s = min(_LONGEST_S, max(len(sound.samples) / sound.rate for sound in sounds))
    rows = figure.subplots(len(sounds) + bool(curves), 1, sharex=True, squeeze=False)[:, 0]
    for axes, sound in zip(rows, sounds, strict=False):
        _draw_spectrogram(axes, sound)
        axes.set(ylim=(0, top_hz / 1000), xlim=(0, max(longest_s, _WINDOW_S)), ylabel="kHz", facecolor="black")
        axes.set_title(sound.title, fontsize=10, loc="left", parse_math=False)
    for seam_s in seams_s:
        rows[len(sounds) - 1].axvline(seam_s, color="white", linewidth=0.8, linestyle=":")
    if curves:
        _draw_contours(rows[-1], curves)
    figure.align_ylabels()
    rows[-1].set_xlabel("seconds")
    return _png(figure)


def draw_contours(title: str, curves: Mapping[str, FloatArray]) -> bytes:
    """F0 curves (frames,) at 100 Hz, 0 where unvoiced, over each other by their names; pitch in octaves."""
    figure = _figure(12, 4)
    axes = figure.subplots()
    _draw_contours(axes, curves)
    axes.set_xlabel("seconds")
    axes.set_title(title, fontsize=10, loc="left", parse_math=False)
    return _png(figure)


def _draw_contours(axes: Axes, curves: Mapping[str, FloatArray]) -> None:
    for name, curve in curves.items():
        times_s = np.arange(len(curve)) / 100
        axes.plot(times_s, np.where(curve > 0, curve, np.nan), linewidth=1.0, marker=".", markersize=1.5, label=name)
    shown = np.concatenate([[100.0, 400.0], *(curve[curve > 0] for curve in curves.values())])
    low, high = 0.9 * shown.min(), 1.1 * shown.max()
    axes.set(yscale="log", ylim=(low, high), ylabel="F0, Hz")
    marks = [hz for hz in _MARKS_HZ if low <= hz <= high]
    axes.set_yticks(marks, [str(hz) for hz in marks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    for text in axes.legend(loc="upper right", fontsize=9).get_texts():
        text.set_parse_math(False)


def draw_data(speakers: Sequence[SpeakerData]) -> bytes:
    """Histograms of F0, loudness and length, a row for each speaker."""
    figure = _figure(10, 2.4 * len(speakers))
    rows = figure.subplots(len(speakers), 3, squeeze=False)
    for (pitch, loudness, length), speaker in zip(rows, speakers, strict=True):
        title = f"{speaker.name}: {sum(speaker.seconds) / 60:.1f} minutes, {len(speaker.seconds)} slices"
        pitch.set_title(title, fontsize=10, loc="left", parse_math=False)
        pitch.hist([hz for hz in speaker.f0_hz if hz > 0], bins=np.geomspace(50, 800, 49), color="#3b6ea5")
        pitch.set(xscale="log", xlabel="median F0 of a slice, Hz")
        pitch.set_xticks([50, 100, 200, 400, 800], ["50", "100", "200", "400", "800"])
        pitch.minorticks_off()
        loudness.hist(speaker.loudness_db, bins=np.arange(-60, 1, 1.5), color="#5a9367")
        loudness.set_xlabel("loudness, dB")
        length.hist(speaker.seconds, bins=24, color="#a5683b")
        length.set_xlabel("length, s")
    return _png(figure)


def need_matplotlib() -> None:
    """Raise AssetMissingError where it isn't installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        problem = "pictures need matplotlib, which is not installed"
        raise AssetMissingError(None, problem, "Install it: pip install 'menura[plots]'") from error


def _figure(width: float, height: float) -> Figure:
    need_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Names in a script that matplotlib's font lacks are drawn as boxes; the numbers are what matters.
        warnings.filterwarnings("ignore", message=".*missing from font")
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw_spectrogram(axes: Axes, sound: Sound) -> None:
    size, hop = 2 * int(_WINDOW_S * sound.rate / 2), max(1, int(_HOP_S * sound.rate))
    samples = np.pad(sound.samples[: int(_LONGEST_S * sound.rate)], size // 2)
    frames = np.lib.stride_tricks.sliding_window_view(samples, size)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(size)))
    level = 20 * np.log10(np.maximum(power / max(float(power.max(initial=0.0)), 1e-9), 10 ** (_FLOOR_DB / 20)))
    extent = (0.0, len(frames) * hop / sound.rate, 0.0, sound.rate / 2000)
    shades = axes.imshow(level.T, "magma", extent=extent, origin="lower", aspect="auto", interpolation="nearest")
    shades.set_clim(_FLOOR_DB, 0.0)
