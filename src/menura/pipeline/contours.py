"""F0 of a recording by itself, in the windows in which a conversion estimates it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from menura.errors import DecodeError
from menura.f0.registry import F0Estimator
from menura.pipeline.analysis import Track, core_of, window_samples
from menura.pipeline.execute import Executor, WindowRequest
from menura.pipeline.progress import StageClock
from menura.pipeline.recording import AnalysisFeed, Recording, first_pass, reflect_edges
from menura.pipeline.windows import Windowing, streaming_extent
from menura.types import FloatArray


def estimated_contour(
    recording: Recording,
    estimator: F0Estimator,
    device: torch.device,
    check: Callable[[], None] = lambda: None,
    tell: Callable[[str], None] = lambda _: None,
) -> FloatArray:
    """(frames,) F0 of a recording in Hz, 0 where unvoiced, untransposed; frame i is at i / 100 s.

    Memory holds a window and the result. `check` is called from time to time, `tell` with what couldn't be
    read. Raises DecodeError or ResourceError.
    """
    facts = first_pass(recording, None, streaming_extent, check=check)
    if facts.warning is not None:
        tell(facts.warning)
    extent = streaming_extent(facts.analysis_samples)
    feed = AnalysisFeed(recording.open(), facts.gain, facts.limit, check)
    blocks = reflect_edges(feed.blocks(), extent.left_samples, lambda _: extent.right_samples)
    samples, executor, cores = Track(-extent.left_samples), Executor(device), []
    for window in Windowing().windows(extent, estimator.core_frames, estimator.context_frames):
        start, end = window_samples(window, extent)
        while samples.end < end:
            if (block := next(blocks, None)) is None:
                raise DecodeError(recording.name, "the file changed while it was being read", "Try again")
            samples.append(block)
        samples.forget(start)
        seen = np.ascontiguousarray(samples.read(start, end))
        (found,) = executor.execute([WindowRequest(stage="f0", network=estimator, samples=seen, clock=StageClock())])
        cores.append(core_of(window, found))
    return np.concatenate(cores)[extent.left_frames :][: extent.own_frames]
