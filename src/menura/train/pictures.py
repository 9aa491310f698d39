"""Mel pictures as PNG files, without a plotting library."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import torch

from menura.models.mel import magnitude_spectrogram, mel_filterbank, reflect_pad

if TYPE_CHECKING:
    import numpy.typing as npt

    from menura.types import FloatArray

    Pixels = npt.NDArray[np.uint8]

_FFT, _MELS = 1024, 100
_LOW_DB, _HIGH_DB = -80.0, 0.0
_GAP_ROWS = 4
_STOPS = np.array([[0, 0, 4], [59, 15, 112], [140, 41, 129], [222, 73, 104], [254, 159, 109], [252, 253, 191]])
"""Dark to light, evenly spaced in brightness."""


def mel_picture(sounds: list[FloatArray], rate: int) -> Pixels:
    """Mel spectrograms of equally long sounds, one above the other, low notes below, 10 ms a column.

    Args:
        sounds: each (samples,).
        rate: Hz.

    Returns:
        (rows, columns, 3).
    """
    bands = [_coloured(_mel_db(sound, rate)) for sound in sounds]
    columns = max(band.shape[1] for band in bands)
    gap = np.full((_GAP_ROWS, columns, 3), 255, dtype=np.uint8)
    rows: list[Pixels] = []
    for band in bands:
        rows.extend([np.pad(band, ((0, 0), (0, columns - band.shape[1]), (0, 0))), gap])
    return np.concatenate(rows[:-1])


def _mel_db(sound: FloatArray, rate: int) -> FloatArray:
    padded = reflect_pad(torch.from_numpy(sound)[None].float(), _FFT // 2, _FFT // 2)
    magnitudes = magnitude_spectrogram(padded, n_fft=_FFT, hop_length=rate // 100)
    bank = mel_filterbank(sample_rate=rate, n_fft=_FFT, n_mels=_MELS, low_hz=0.0, high_hz=rate / 2)
    powers = (bank @ magnitudes[0]).numpy()
    level: FloatArray = 20 * np.log10(powers / max(float(powers.max()), 1e-5) + 1e-6)
    return level[::-1]


def _coloured(level_db: FloatArray) -> Pixels:
    place = np.clip((level_db - _LOW_DB) / (_HIGH_DB - _LOW_DB), 0, 1) * (len(_STOPS) - 1)
    low = np.minimum(place.astype(np.int64), len(_STOPS) - 2)
    part = (place - low)[:, :, None]
    colours: Pixels = np.rint(_STOPS[low] * (1 - part) + _STOPS[low + 1] * part).astype(np.uint8)
    return colours


def png(pixels: Pixels) -> bytes:
    """A PNG file (RFC 2083) of (rows, columns, 3)."""
    rows, columns, _ = pixels.shape
    lines = np.concatenate([np.zeros((rows, 1), dtype=np.uint8), pixels.reshape(rows, -1)], axis=1)
    header = struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)
    body = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(lines.tobytes(), 6)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
