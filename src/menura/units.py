"""The fixed rates of the pipeline. Positions count samples at a rate, or frames of 10 ms, from a recording's start."""

from __future__ import annotations

ANALYSIS_RATE_HZ = 16_000
"""Rate at which content and F0 are read (RVC's)."""
FRAME_RATE_HZ = 100
"""Frames a second of F0, retrieval-blended content and the synthesizer (RVC's)."""
FRAME_SAMPLES = ANALYSIS_RATE_HZ // FRAME_RATE_HZ
CONTENT_TAIL_SAMPLES = 80
"""HuBERT's convolutions need 400 samples for a frame of 320: 80 more at the end of a window."""


def rescaled_length(length_samples: int, rate_in_hz: int, rate_out_hz: int) -> int:
    """Length at another rate, rounded half up, in exact integers: 3 at 2 Hz are 2 at 1 Hz."""
    return (2 * length_samples * rate_out_hz + rate_in_hz) // (2 * rate_in_hz)


def ceil_div(a: int, b: int) -> int:
    """Smallest integer not below a / b."""
    return -(-a // b)
