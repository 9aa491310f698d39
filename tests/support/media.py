"""Recordings in containers that only PyAV writes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

CODECS = {".webm": "libopus", ".ac3": "ac3", ".wma": "wmav2", ".mka": "flac"}


def encode_media(
    path: Path, samples: npt.NDArray[np.float32], rate_hz: int, options: dict[str, str] | None = None
) -> None:
    """Write mono `samples` in the container that the name asks for, with that container's usual codec."""
    if path.suffix in (".m4a", ".mp4", ".mov"):
        options = {"movie_timescale": str(rate_hz), **(options or {})}
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(CODECS.get(path.suffix, "aac"), rate=rate_hz, layout="mono", bit_rate=96_000)
        stream.codec_context.open()
        frame = av.AudioFrame.from_ndarray(samples[None, :], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate_hz, 0, Fraction(1, rate_hz)
        resampler = av.AudioResampler(
            format=stream.format.name, layout="mono", rate=rate_hz, frame_size=stream.frame_size or None
        )
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
