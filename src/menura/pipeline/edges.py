"""Reflection at a recording's two ends, streaming; the only samples that are not real."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from menura.pipeline.windows import LONGEST_EDGE_SAMPLES

if TYPE_CHECKING:
    from menura.types import FloatArray


def reflect(samples: FloatArray, left: int, right: int) -> FloatArray:
    """`numpy.pad(mode="reflect")` for any length from one sample."""
    return np.pad(samples, (left, right), mode="reflect" if len(samples) > 1 else "edge")


def reflect_edges(blocks: Iterable[FloatArray], left: int, right: Callable[[int], int]) -> Iterator[FloatArray]:
    """The blocks of a recording with reflected samples before and after them.

    Args:
        blocks: contiguous blocks, at least one sample together.
        left: reflected samples before the first one, at most LONGEST_EDGE_SAMPLES.
        right: from the recording's length, the reflected samples after its last one, with the same limit.

    Yields:
        Blocks of the extended signal, equal to `reflect` of the whole.
    """
    held: FloatArray = np.zeros(0, dtype=np.float32)
    length, begun = 0, False
    for block in blocks:
        length += len(block)
        held = np.concatenate([held, block])
        if len(held) <= LONGEST_EDGE_SAMPLES:
            continue
        if not begun:
            begun = True
            yield held[1 : left + 1][::-1].copy()
        keep = len(held) - LONGEST_EDGE_SAMPLES - 1  # what a reflection at the end may still need stays here
        yield held[:keep].copy()
        held = held[keep:]
    if length and begun:
        yield np.pad(held, (0, right(length)), mode="reflect")
    elif length:
        yield reflect(held, left, right(length))
