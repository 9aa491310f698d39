"""What the pipeline asks of a content encoder: vectors of what is said, 50 a second."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from menura.types import FloatArray


class RecordingStatistics(Protocol):
    """What an encoder must know of the whole recording, so that its result doesn't depend on windows.

    HuBERT: moments for its first layer's group norm. Whisper: the largest log-mel value, for its clamp.
    """

    def scaled(self, gain: float) -> RecordingStatistics:
        """The statistics the recording would have, had its samples been multiplied by `gain`."""
        ...


class StatisticsCollector(Protocol):
    """Collects RecordingStatistics in a first cheap pass over the recording."""

    def push(self, samples: FloatArray) -> None:
        """Take the next 16 kHz samples (any number, contiguous with those before)."""
        ...

    def finish(self) -> RecordingStatistics:
        """The statistics of all that was pushed (must work for silence and for a single sample)."""
        ...


@runtime_checkable
class ContentEncoder(Protocol):
    """A content encoder, resident on a device."""

    name: str
    """As checkpoints name it: 'contentvec', 'menura-starter', ..."""
    dim: int
    core_frames: int
    """Frames (10 ms) of the fixed absolute windows it is run in; a multiple of 2."""
    context_frames: int
    """Frames (10 ms) of real context wanted on each side of a window; a multiple of 2."""
    edge_frames: int
    """Frames (10 ms) of reflection wanted before a recording and after it; even."""
    global_windows: bool
    """True if even strategy='whole' must use these fixed windows (encoders with limited positions)."""

    @property
    def resident_bytes(self) -> int:
        """Memory that its weights hold."""
        ...

    def collector(self) -> StatisticsCollector:
        """A fresh first-pass collector."""
        ...

    def encode(self, samples: Tensor, statistics: Sequence[RecordingStatistics] | None) -> Tensor:
        """Content of a batch of equally long windows.

        Args:
            samples: (batch, samples) at 16 kHz, float32, on the encoder's device.
            statistics: one a row, of the recording it was cut from; None takes the window's own (as RVC does).

        Returns:
            (batch, vectors, dim) float32; vector i describes samples [320 i, 320 i + 320).
        """
        ...
