"""One pitch shift for all recordings of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from menura.errors import DecodeError
from menura.f0.base import F0Estimator
from menura.f0.contour import median_voiced_hz, semitones_between
from menura.f0.registry import load_estimator
from menura.loading import Request
from menura.options import EngineOptions
from menura.pipeline.recording import BLOCK_S, AnalysisFeed, FileRecording
from menura.system.device import resolve_device
from menura.types import FloatArray, Place
from menura.units import ANALYSIS_RATE_HZ

_MOST_RECORDINGS = 20
_SECONDS = 30


def with_common_shift(request: Request, sources: Sequence[Place], engine: EngineOptions) -> Request:
    """A request that asks for `auto-batch`, with the number of semitones that this came to.

    The recordings' common pitch is the median over the first half minute of up to twenty of them, spread evenly over
    the batch. What can't be read doesn't count, nor what is at a URL.
    """
    if request.options.transpose != "auto-batch" or request.f0_path is None or request.target_hz is None:
        return request
    assert request.f0_method is not None
    device = resolve_device(engine.device)
    estimator = load_estimator(request.f0_method, request.f0_path, device)
    local = [source for source in sources if isinstance(source, Path)]
    count = min(len(local), _MOST_RECORDINGS)
    f0_hz = [_beginning_f0(local[number * len(local) // count], estimator, device) for number in range(count)]
    median_hz = median_voiced_hz(np.concatenate(f0_hz)) if f0_hz else None
    semitones = 0.0 if median_hz is None else semitones_between(median_hz, request.target_hz)
    return replace(request, options=replace(request.options, transpose=semitones))


def _beginning_f0(source: Path, estimator: F0Estimator, device: torch.device) -> FloatArray:
    """(frames,) F0 of a recording's first half minute, in blocks of which each stands for itself."""
    blocks: list[FloatArray] = []
    with suppress(DecodeError):
        blocks.extend(islice(AnalysisFeed(FileRecording(source).open()).blocks(), _SECONDS // BLOCK_S))
    if not blocks:
        return np.zeros(0, dtype=np.float32)
    samples = np.concatenate(blocks)
    padded = np.pad(samples, (0, max(0, ANALYSIS_RATE_HZ - len(samples))))  # estimators want some
    with torch.inference_mode():
        return estimator.estimate(torch.from_numpy(padded).to(device)[None])[0].cpu().numpy()
