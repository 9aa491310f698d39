"""Normal noise as a function of absolute position alone, so that no segment, order or resume changes a sample.

Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") is counter-based: value i of a key
is read without computing those before it. Normals come by the inverse distribution function, one draw a value.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.random import Philox  # now: NumPy would load it amid the first segment, and Ctrl-C get lost in that

from menura.types import FloatArray

LATENT: Final = 1
"""Purpose of the synthesizer's latent noise; position = frame x channels + channel."""

SOURCE: Final = 2
"""Purpose of the source's noise; position = output sample."""

_DRAWS_A_BLOCK: Final = 4
_ORIGIN_BLOCKS: Final = 1 << 48  # positions before the recording's start (reflected context) are negative


def normals(seed: int, purpose: int, start: int, count: int) -> FloatArray:
    """Standard normal values at positions [start, start + count).

    Seeds are 0 to 2^63 - 1, positions above -2^49; each purpose, LATENT or SOURCE, has a stream of its own.
    """
    block, skip = divmod(start, _DRAWS_A_BLOCK)
    key = np.array([seed, purpose], dtype=np.uint64)
    counter = np.array([block + _ORIGIN_BLOCKS, 0, 0, 0], dtype=np.uint64)
    bits = Philox(key=key, counter=counter).random_raw(skip + count)[skip:]
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return np.asarray(torch.special.ndtri(torch.from_numpy(uniform)), dtype=np.float32)


def latent_noise(seed: int, start_frames: int, frames: int, channels: int) -> FloatArray:
    """Latent noise of consecutive frames, (channels, frames) float32."""
    values = normals(seed, LATENT, start_frames * channels, frames * channels)
    return np.ascontiguousarray(values.reshape(frames, channels).T)


def source_noise(seed: int, start_samples: int, samples: int) -> FloatArray:
    """Noise of the harmonic source, (samples,) float32, at absolute output samples."""
    return normals(seed, SOURCE, start_samples, samples)
