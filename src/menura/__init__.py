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
        DeviceError,
        DownloadError,
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
    from menura.options import BatchOptions, CloneOptions, ConversionOptions, EngineOptions, RunOptions, TrainingOptions
    from menura.spans import read_spans
    from menura.train.clone import Cloned, clone_voice
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

__version__ = "0.3.0"

__all__ = ["AssetMissingError", "AudioBlock", "AudioError", "BatchOptions", "CancelledError", "CheckpointError"]
__all__ += ["CloneOptions", "Cloned", "ConversionOptions", "Converter", "ConverterStats", "DecodeError"]
__all__ += ["DeviceError", "DownloadError", "EncodeError", "EncoderMismatchError", "EngineOptions", "ErrorDetails"]
__all__ += ["Explanation", "FileResult", "IndexFileError", "MenuraError", "OptionError", "Progress", "Request"]
__all__ += ["ResourceError", "RunOptions", "RunReport", "StageTimes", "State", "TrainingError", "TrainingOptions"]
__all__ += ["TrainingSession", "UnsafeCheckpointError", "VoiceExistsError", "VoiceNotFoundError", "__version__"]
__all__ += ["clone_voice", "convert_folder", "read_spans", "train_voice"]

_TRAINING = ("train.session", "train.clone")
_MODULES = ("errors", "types", "options", "spans", "loading.request", "jobs.batch", "converter", *_TRAINING)
"""Where public names are defined; what loads no torch is first."""


def __getattr__(name: str) -> object:
    """Fetch a public name from the module that defines it (PEP 562)."""
    if name in __all__:
        for module in map(importlib.import_module, (f"menura.{module}" for module in _MODULES)):
            if name in vars(module):
                return vars(module)[name]
    raise AttributeError(f"module 'menura' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
