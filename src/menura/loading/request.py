"""What a request came to: its voice's networks, resident."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from menura.content.base import ContentEncoder
    from menura.f0.base import F0Estimator
    from menura.models.synthesizer import Synthesizer
    from menura.retrieval.base import FeatureIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceModels:
    """The resident networks that one request uses."""

    synthesizer: Synthesizer
    encoder: ContentEncoder
    f0: F0Estimator | None
    """None for a voice without F0, or where F0 is given."""
    index: FeatureIndex | None
    f0_median_hz: float | None = None
    """The voice's own pitch, where it is known."""
