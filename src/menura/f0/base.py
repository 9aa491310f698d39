"""What the pipeline asks of an F0 method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class F0Estimator(Protocol):
    """An F0 method, resident on a device."""

    name: str
    core_frames: int
    """Frames (10 ms) of the fixed absolute windows it is run in; a multiple of 8 (SwiftF0's 16 ms grid: 80 ms)."""
    context_frames: int
    """Frames (10 ms) of real context wanted on each side; a multiple of 8."""

    @property
    def resident_bytes(self) -> int:
        """Memory that its weights hold."""
        ...

    def estimate(self, samples: Tensor) -> Tensor:
        """F0 of a batch of equally long windows, independent of each other.

        Args:
            samples: (batch, samples) at 16 kHz, float32.

        Returns:
            (batch, samples // 160 + 1) float32 in Hz, 0 where unvoiced; frame i is centred on sample 160 i.
        """
        ...
