"""Menura: voice conversion for recordings of any length.

    from menura import ConversionOptions, Converter

    with Converter() as converter:
        converter.convert("speech.wav", "converted.wav", ConversionOptions(transpose=4))

Importing this package loads no torch; the names below are fetched when they are first used. What is loaded and
converted is logged under the name `menura`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from menura.converter import Converter
    from menura.errors import (
        AssetMissingError,
        AudioError,
        CancelledError,
        CheckpointError,
        DecodeError,
        EncodeError,
        EncoderMismatchError,
        ErrorDetails,
        IndexFileError,
        MenuraError,
        OptionError,
        ResourceError,
        TrainingError,
        UnsafeCheckpointError,
        VoiceExistsError,
        VoiceNotFoundError,
    )
    from menura.jobs.batch import convert_folder
    from menura.loading.request import Request
    from menura.options import BatchOptions, ConversionOptions, EngineOptions, RunOptions, TrainingOptions
    from menura.train.session import TrainingSession, train_voice
    from menura.types import (
        AudioBlock,
        ConverterStats,
        Explanation,
        FileResult,
        Progress,
        RunReport,
        StageTimes,
        State,
    )

__version__ = "0.1.0"

__all__ = [
    "AssetMissingError",
    "AudioBlock",
    "AudioError",
    "BatchOptions",
    "CancelledError",
    "CheckpointError",
    "ConversionOptions",
    "Converter",
    "ConverterStats",
    "DecodeError",
    "EncodeError",
    "EncoderMismatchError",
    "EngineOptions",
    "ErrorDetails",
    "Explanation",
    "FileResult",
    "IndexFileError",
    "MenuraError",
    "OptionError",
    "Progress",
    "Request",
    "ResourceError",
    "RunOptions",
    "RunReport",
    "StageTimes",
    "State",
    "TrainingError",
    "TrainingOptions",
    "TrainingSession",
    "UnsafeCheckpointError",
    "VoiceExistsError",
    "VoiceNotFoundError",
    "__version__",
    "convert_folder",
    "train_voice",
]

_HOMES = {
    "menura.converter": ("Converter",),
    "menura.jobs.batch": ("convert_folder",),
    "menura.loading.request": ("Request",),
    "menura.options": ("BatchOptions", "ConversionOptions", "EngineOptions", "RunOptions", "TrainingOptions"),
    "menura.train.session": ("TrainingSession", "train_voice"),
    "menura.types": (
        "AudioBlock",
        "ConverterStats",
        "Explanation",
        "FileResult",
        "Progress",
        "RunReport",
        "StageTimes",
        "State",
    ),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Fetch a public name from the module it lives in (PEP 562)."""
    if name.startswith("_") or name not in __all__:
        raise AttributeError(f"module 'menura' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULE_OF.get(name, "menura.errors")), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
