"""What is converted: the bundled recording of a human reader, looped and varied to any length, kept in the cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from menura.system.files import replacing

CLIP = Path(__file__).resolve().parent.parent / "assets" / "demo" / "librivox_0870.flac"
_SINGLE_SEED = 99


@dataclass(frozen=True, slots=True, kw_only=True)
class Recordings:
    """Files of equal length, alone in their folder."""

    folder: Path
    paths: tuple[Path, ...]
    seconds: float
    """Of each."""


def recordings(count: int, seconds: float, cache: Path) -> Recordings:
    """That many recordings of that length, all different: 16 kHz, 16 bits; made once.

    Raises:
        ResourceError: they can't be written.
    """
    folder = cache / "inputs" / f"{count}x{seconds:g}s"
    seeds = range(count) if count > 1 else (_SINGLE_SEED,)
    paths = tuple(folder / f"{number:02}.wav" for number in range(count))
    for path, seed in zip(paths, seeds, strict=True):
        if not path.exists():
            with replacing(path) as partial:
                _loop(partial, seconds, seed)
    return Recordings(folder=folder, paths=paths, seconds=seconds)


def _loop(path: Path, seconds: float, seed: int) -> None:
    """Write the clip again and again, from changing places, at changing speed and level."""
    clip, rate = soundfile.read(CLIP, dtype="float32")
    rng, missing = np.random.default_rng(seed), int(seconds * rate)
    with soundfile.SoundFile(path, "w", rate, 1, format="WAV") as file:
        while missing > 0:
            speed, level, start = rng.uniform(0.9, 1.1), rng.uniform(0.5, 1.0), int(rng.integers(0, len(clip) // 2))
            piece = clip[start:]
            at = np.arange(0, len(piece) - 1, speed)
            varied = np.interp(at, np.arange(len(piece)), piece)[:missing] * level
            file.write(varied.astype(np.float32))
            missing -= len(varied)
