"""What the pipeline asks of a retrieval index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from menura.types import FloatArray


class FeatureIndex(Protocol):
    """Content vectors of the voice's training data, searchable."""

    dim: int
    size: int

    @property
    def resident_bytes(self) -> int:
        """Memory that the vectors hold."""
        ...

    def retrieve(self, content: FloatArray) -> FloatArray:
        """Weighted mean of the 8 nearest stored vectors for each row of (frames, dim) float32; weights as RVC's."""
        ...
