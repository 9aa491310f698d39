"""Menura's exceptions. Every message says what to do next.

MenuraError
├── OptionError              a value out of range or an unknown name (exit code 2)
├── AudioError
│   ├── DecodeError          the input can't be read as audio
│   └── EncodeError          the output can't be written
├── CheckpointError          the file is no model that Menura knows
│   ├── UnsafeCheckpointError    it carries code
│   └── EncoderMismatchError     the voice was trained on another content encoder
├── IndexFileError           the .index file can't be used
├── AssetMissingError        a network's weights are not installed
├── VoiceNotFoundError       no voice of that name
├── ResourceError            not enough memory or disk for what was asked
└── TrainingError            a data set or an experiment can't be trained
"""

from __future__ import annotations


class MenuraError(Exception):
    """Base of all errors that Menura raises on purpose."""

    exit_code = 1


class OptionError(MenuraError):
    """A value out of its range, or a name that doesn't exist."""

    exit_code = 2


class AudioError(MenuraError):
    """Something is wrong with an audio file."""


class DecodeError(AudioError):
    """The input can't be read as audio."""


class EncodeError(AudioError):
    """The output can't be written."""


class CheckpointError(MenuraError):
    """The file is no model that Menura knows."""


class UnsafeCheckpointError(CheckpointError):
    """The file carries code, which is never run."""


class EncoderMismatchError(CheckpointError):
    """The voice was trained on another content encoder than the one given."""


class IndexFileError(MenuraError):
    """The retrieval index can't be used."""


class AssetMissingError(MenuraError):
    """A network's weights are not installed."""


class VoiceNotFoundError(MenuraError):
    """No voice of that name."""


class ResourceError(MenuraError):
    """Not enough memory or disk for what was asked."""


class TrainingError(MenuraError):
    """A data set or an experiment can't be trained."""
