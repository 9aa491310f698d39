"""What a conversion asks the networks for; the executor batches requests and answers them.

`frames` is a request's size; those of equal `batch_key` may share a pass; a part of a `divisible` one can be computed
at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from menura.units import FRAME_SAMPLES

if TYPE_CHECKING:
    from menura.content.base import ContentEncoder, RecordingStatistics
    from menura.f0.base import F0Estimator
    from menura.models.voice import Voice
    from menura.pipeline.clock import StageClock
    from menura.types import Features, FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentRequest:
    """Content of one window; answered by (content frames, dim) at 50 a second."""

    divisible: ClassVar[bool] = False

    encoder: ContentEncoder
    samples: FloatArray
    statistics: RecordingStatistics | None
    clock: StageClock

    @property
    def frames(self) -> int:
        return len(self.samples) // FRAME_SAMPLES

    @property
    def batch_key(self) -> tuple[object, ...]:
        return ("content", id(self.encoder), len(self.samples), self.statistics is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class F0Request:
    """F0 of one window; answered by (samples // 160 + 1,) Hz, 0 where unvoiced."""

    divisible: ClassVar[bool] = False

    estimator: F0Estimator
    samples: FloatArray
    clock: StageClock

    @property
    def frames(self) -> int:
        return len(self.samples) // FRAME_SAMPLES

    @property
    def batch_key(self) -> tuple[object, ...]:
        return ("f0", id(self.estimator), len(self.samples))


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesisRequest:
    """Sound of frames [core_start, core_end) from features that reach further; answered by samples."""

    divisible: ClassVar[bool] = True

    synthesizer: Voice
    features: Features
    core_start_frames: int
    core_end_frames: int
    speaker_id: int
    seed: int
    noise_scale: float
    sounding: tuple[tuple[int, int], ...]
    """The frames of the core that are wanted, in order; between them is silence."""
    reach_frames: int | None
    """How far the text encoder's attention reaches; None for the whole window."""
    clock: StageClock

    @property
    def frames(self) -> int:
        return self.core_end_frames - self.core_start_frames

    @property
    def batch_key(self) -> tuple[object, ...]:
        offset = self.core_start_frames - self.features.start_frames
        return (
            "synthesis",
            id(self.synthesizer),
            len(self.features.content),
            offset,
            self.frames,
            self.noise_scale,
            tuple((start - self.core_start_frames, end - self.core_start_frames) for start, end in self.sounding),
            self.reach_frames,
        )


NetworkRequest = ContentRequest | F0Request | SynthesisRequest
