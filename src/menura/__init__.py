"""Menura: voice conversion that takes any length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from menura.errors import MenuraError
from menura.options import ConversionOptions, EngineOptions
from menura.types import AudioBlock, FileResult, Progress, RunReport, StageTimes, State

if TYPE_CHECKING:
    from menura.converter import Converter

__version__ = "0.1.0"

__all__ = [
    "AudioBlock",
    "ConversionOptions",
    "Converter",
    "EngineOptions",
    "FileResult",
    "MenuraError",
    "Progress",
    "RunReport",
    "StageTimes",
    "State",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Load the engine, and with it torch, only when it is asked for."""
    if name == "Converter":
        from menura.converter import Converter

        return Converter
    raise AttributeError(f"module 'menura' has no attribute '{name}'")
