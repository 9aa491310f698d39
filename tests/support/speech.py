"""Real speech for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile as sf

ROOT = Path(__file__).resolve().parents[2]
CLIPS = (
    ROOT / "src" / "menura" / "assets" / "demo" / "librivox_0870.flac",
    ROOT / "tests" / "data" / "librivox_0890.flac",
    ROOT / "tests" / "data" / "librivox_0930.flac",
)
RATE = 16_000


def speech(seconds: float) -> npt.NDArray[np.float32]:
    """That much real speech at 16 kHz: three clips, 15.7 s, in turn."""
    clips = [sf.read(path, dtype="float32")[0] for path in CLIPS]
    once = np.concatenate(clips)
    count = round(seconds * RATE)
    return np.asarray(np.tile(once, -(-count // len(once)))[:count], dtype=np.float32)
