"""Ratings of conversions."""

from menura.evaluate.judges import Judges, SpeakerEncoder
from menura.evaluate.measures import Target

__all__ = ["Judges", "SpeakerEncoder", "Target"]
