"""Speech as bad microphones, rooms, lines and company make it; nothing here moves a sound in time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from menura.train.data.perturb import with_formants
from menura.units import ANALYSIS_RATE_HZ

Samples = npt.NDArray[np.float32]


def worsened(samples: Samples, rng: np.random.Generator, company: Samples) -> Samples:
    """(samples,) at 16 kHz through another throat, a room, company or noise, a line: each by chance.

    `company` is somebody else's speech, of any length, that may be heard behind.
    """
    made = with_formants(samples, float(np.exp(rng.uniform(-0.15, 0.15)))) if rng.random() < 0.5 else samples
    if rng.random() < 0.4:
        made = in_a_room(made, rng)
    if rng.random() < 0.3:
        made = made + _at(np.resize(company, len(made)), made, -rng.uniform(10, 25))
    elif rng.random() < 0.7:
        made = made + _at(_noise(len(made), rng), made, -rng.uniform(8, 35))
    if rng.random() < 0.3:
        made = on_the_line(made, rng)
    return np.asarray(made, dtype=np.float32)


def in_a_room(samples: Samples, rng: np.random.Generator) -> Samples:
    """With echoes that die away by 60 dB within 0.2 to 0.8 s, as loud as the direct sound or up to 12 dB softer."""
    length = int(rng.uniform(0.2, 0.8) * ANALYSIS_RATE_HZ)
    echoes = rng.normal(0, 1, length) * 10 ** (-3 * np.arange(length) / length)
    echoes[: int(rng.uniform(0.002, 0.02) * ANALYSIS_RATE_HZ)] = 0
    echoes *= 10 ** (-rng.uniform(0, 12) / 20) / np.sqrt(np.sum(echoes**2))
    echoes[0] = 1
    points = 1 << (len(samples) + length).bit_length()
    wet = np.fft.irfft(np.fft.rfft(samples, points) * np.fft.rfft(echoes, points), points)
    return np.asarray(wet[: len(samples)], dtype=np.float32)


def on_the_line(samples: Samples, rng: np.random.Generator) -> Samples:
    """A telephone's band, in eight bits of mu-law."""
    spectrum = np.fft.rfft(samples)
    hz = np.fft.rfftfreq(len(samples), 1 / ANALYSIS_RATE_HZ)
    low, high = rng.uniform(150, 350), rng.uniform(3200, 3900)
    spectrum *= np.clip((hz - low) / 100 + 1, 0, 1) * np.clip((high - hz) / 200 + 1, 0, 1)
    band = np.fft.irfft(spectrum, len(samples))
    peak = max(1e-6, float(np.abs(band).max()))
    folded = np.sign(band) * np.log1p(255 * np.abs(band) / peak) / np.log(256)
    steps = np.round(folded * 127) / 127
    return np.asarray(np.sign(steps) * np.expm1(np.abs(steps) * np.log(256)) / 255 * peak, dtype=np.float32)


def _noise(size: int, rng: np.random.Generator) -> Samples:
    """White to pink to brown, as loud as it comes."""
    spectrum = np.fft.rfft(rng.normal(0, 1, size))
    spectrum *= np.maximum(np.arange(len(spectrum)), 1.0) ** -rng.uniform(0, 1)
    return np.asarray(np.fft.irfft(spectrum, size), dtype=np.float32)


def _at(other: Samples, speech: Samples, level_db: float) -> Samples:
    """`other` at a level relative to the speech."""
    power = max(1e-12, float(np.mean(np.square(other))))
    return np.asarray(other * np.sqrt(np.mean(np.square(speech)) / power * 10 ** (level_db / 10)), dtype=np.float32)
