"""What flows between the stages: frozen dataclasses, no behaviour. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, TypeAlias

from menura.errors import ErrorDetails

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

FloatArray: TypeAlias = "npt.NDArray[np.float32]"
Float64Array: TypeAlias = "npt.NDArray[np.float64]"


@dataclass(frozen=True, slots=True)
class Url:
    """A file or folder that fsspec reaches, such as s3://bucket/talks; it ends in no slash."""

    text: str

    def __str__(self) -> str:
        return self.text

    def __truediv__(self, relative: PurePath | str) -> Url:
        return Url(f"{self.text}/{PurePath(relative).as_posix()}")

    @property
    def name(self) -> str:
        return self.text.rpartition("/")[2]

    def resolve(self) -> Url:
        """Itself, as no link or working folder changes what it means."""
        return self

    absolute = resolve


Place: TypeAlias = "Path | Url"
"""Where a recording or an output is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One recording of a batch, from the plan to its result."""

    source: Place
    output: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioInfo:
    """What a recording's header says."""

    sample_rate: int
    channels: int
    length_samples: int | None
    """Of each channel; None where it is only known at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioBlock:
    """A run of samples at an absolute place of an output."""

    start_samples: int
    samples: FloatArray
    """(samples,) float32, full scale 1; (samples, channels) where several were asked for."""
    sample_rate: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Content and F0 of consecutive frames of a recording, at 100 frames a second."""

    start_frames: int
    frames: int
    content: FloatArray
    """(vectors, dim), each of two frames; the first vector is that of the first frame, even where that is odd."""
    plain: FloatArray | None
    """Content before retrieval, where unvoiced frames keep some of it."""
    share: FloatArray | None
    """(frames,), how much of `content` there is beside `plain`."""
    f0_hz: FloatArray | None
    """(frames,), 0 where unvoiced; None for voices without F0."""
    f0_coarse: npt.NDArray[np.int64] | None
    """(frames,), RVC's 1..255 bins."""
    phase_cycles: float
    """Source phase at the first sample, in cycles: the prefix sum of committed F0 (float64)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """The text encoder's distribution: mean and log scale (batch, inter_channels, frames), mask (batch, 1, frames).

    There is no mask where all frames exist.
    """

    mean: Tensor
    log_scale: Tensor
    mask: Tensor | None


class State(str, Enum):
    """How a conversion of one input ended."""

    DONE = "done"
    WARNING = "warning"
    """An output was written, but not all of the input could be used."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """Seconds of wall time by stage."""

    decode_s: float = 0.0
    content_s: float = 0.0
    f0_s: float = 0.0
    retrieval_s: float = 0.0
    synthesis_s: float = 0.0
    assemble_s: float = 0.0
    encode_s: float = 0.0

    def __add__(self, other: StageTimes) -> StageTimes:
        return StageTimes(**{name: getattr(self, name) + getattr(other, name) for name in self.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True)
class FileResult:
    """What became of one input."""

    input: str
    output: Place | None
    state: State
    error: ErrorDetails | None = None
    """What ended it, or what of the input could not be used."""
    notes: tuple[str, ...] = ()
    audio_s: float = 0.0
    output_samples: int = 0
    output_rate: int = 0
    f0_method: str | None = None
    transpose: float | None = None
    """Semitones by which pitch was moved, whether asked for or found; None for a voice without F0."""
    wall_s: float = 0.0
    stages: StageTimes = field(default_factory=StageTimes)
    seams_s: tuple[float, ...] = ()
    resumed: bool = False
    """Whether an earlier run finished it."""
    parts: int = 0
    """That it was converted in; 0 if it wasn't divided."""
    parts_resumed: int = 0
    """Of these, what an earlier run had finished."""

    @property
    def real_time_factor(self) -> float | None:
        """Wall seconds for a second of audio (below 1 is faster than real time)."""
        return self.wall_s / self.audio_s if self.audio_s else None


def failed_result(source: Place | str, error: ErrorDetails) -> FileResult:
    """The result of an input without an output."""
    return FileResult(input=str(source), output=None, state=State.FAILED, error=error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What would be done with one input, and why."""

    input: str
    audio_s: float = 0.0
    strategy: str | None = None
    """stream or whole."""
    reasons: tuple[str, ...] = ()
    segments: int = 0
    widest_frames: int = 0
    """Frames of 10 ms of the widest window that a network sees."""
    refusal: ErrorDetails | None = None
    """Why it can't be done, and what can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run has come."""

    file: str
    files_begun: int
    files_done: int
    """Written, or failed."""
    files: int
    audio_done_s: float
    audio_s: float | None
    """Of all inputs: estimated from sizes until each was read; None while nothing is known."""
    wall_s: float

    @property
    def real_time_factor(self) -> float | None:
        """Wall seconds for a second of audio so far."""
        return self.wall_s / self.audio_done_s if self.audio_done_s else None

    @property
    def left_s(self) -> float | None:
        """Seconds until the end at this speed; None while nothing is known."""
        factor = self.real_time_factor
        return None if factor is None or self.audio_s is None else max(0.0, self.audio_s - self.audio_done_s) * factor


@dataclass(frozen=True, slots=True, kw_only=True)
class ConverterStats:
    """What a Converter has loaded."""

    model_loads: dict[str, int]
    """How often each network, voice and index was read from disk."""
    resident_bytes: int
    """That they hold now."""
    peak_memory_mb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """What a run did: every file, and the process."""

    files: tuple[FileResult, ...]
    wall_s: float = 0.0
    peak_memory_mb: float = 0.0
    model_loads: dict[str, int] = field(default_factory=dict)
    """How often each network, voice and index was read from disk."""

    @property
    def failed(self) -> tuple[FileResult, ...]:
        """Inputs without an output."""
        return tuple(f for f in self.files if f.state is State.FAILED)

    @property
    def exit_code(self) -> int:
        """0 only if every input converted wholly."""
        return 0 if all(f.state is State.DONE for f in self.files) else 1
