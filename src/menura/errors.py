"""Menura's exceptions: what went wrong, with what, and what to do, as fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

_OPTION = re.compile(r"\{([a-z][a-z0-9_]*)(?:=([^{}]*))?\}")


def _by_field(name: str, value: str | None) -> str:
    """An option as Python and JSON name it: `strategy`, `strategy=stream`."""
    return name if value is None else f"{name}={value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorDetails:
    """An error as data: for results, journals and documents."""

    kind: str
    """The exception's name in snake case without `_error`: decode, option, unsafe_checkpoint, ..."""
    subject: str | None = None
    """The file, voice or experiment it is about; None for the request itself."""
    problem: str
    """What is wrong, without the subject and without advice."""
    advice: str | None = None
    """What to do. Options stand in it by field: {strategy}, or with a value, {strategy=stream}."""
    option: str | None = None
    """The field of the option at fault."""

    def text(self, naming: Callable[[str, str | None], str] = _by_field) -> str:
        """One line: 'subject: problem. Advice.'; `naming` makes text of an option's (field, value or None)."""
        about = self.subject or (naming(self.option, None) if self.option else None)
        parts = [self.problem if about is None else f"{about}: {self.problem}"]
        if advice := self.advised(naming):
            parts.append(advice)
        return " ".join(part if part.endswith((".", "?", "!", ":")) else f"{part}." for part in parts)

    __str__ = text

    def advised(self, naming: Callable[[str, str | None], str] = _by_field) -> str | None:
        """The advice, options written as `naming` does."""
        return None if self.advice is None else _OPTION.sub(lambda m: naming(m[1], m[2]), self.advice)

    def about(self, names: Mapping[str, str]) -> ErrorDetails:
        """The same with another name for its subject, where `names` has one: a URL for its local copy, say."""
        return self if self.subject is None else replace(self, subject=names.get(self.subject, self.subject))


class MenuraError(Exception):
    """Base of all errors that Menura raises on purpose.

    Args:
        subject: what it is about: a file, a voice, an experiment; None for the request itself.
        problem: what is wrong; begins in lower case and has no full stop.
        advice: what to do, a sentence; options in it are fields in braces, as ErrorDetails says.
        option: the field of the option at fault.
    """

    exit_code = 1

    def __init__(
        self, subject: Path | str | None, problem: str, advice: str | None = None, option: str | None = None
    ) -> None:
        super().__init__(subject, problem, advice, option)
        self.subject = None if subject is None else str(subject)
        self.problem, self.advice, self.option = problem, advice, option

    @property
    def details(self) -> ErrorDetails:
        """The error as data."""
        kind = re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__.removesuffix("Error")).lower()
        return ErrorDetails(
            kind=kind, subject=self.subject, problem=self.problem, advice=self.advice, option=self.option
        )

    def about(self, names: Mapping[str, str]) -> MenuraError:
        """The same error with another name for its subject; see ErrorDetails.about."""
        details = self.details.about(names)
        return type(self)(details.subject, details.problem, details.advice, details.option)

    def __str__(self) -> str:
        return self.details.text()


class OptionError(MenuraError):
    """A value out of its range, or a name that doesn't exist."""

    exit_code = 2


class VoiceExistsError(OptionError):
    """An installed voice has the name already."""


class AudioError(MenuraError):
    """Something is wrong with an audio file."""


class DecodeError(AudioError):
    """The input can't be read as audio."""


class EncodeError(AudioError):
    """The output can't be written."""


class CheckpointError(MenuraError):
    """The file is not a model that Menura knows."""


class UnsafeCheckpointError(CheckpointError):
    """The file holds more than weights; nothing in it is run."""


class EncoderMismatchError(CheckpointError):
    """The voice was trained on another content encoder than the one given."""


class IndexFileError(MenuraError):
    """The retrieval index can't be used."""


class AssetMissingError(MenuraError):
    """A network's weights are not installed."""


class DownloadError(MenuraError):
    """A file can't be fetched, or it is another than the one wanted."""


class VoiceNotFoundError(MenuraError):
    """No voice of that name."""


class ResourceError(MenuraError):
    """Not enough memory or disk for what was asked."""


class DeviceError(MenuraError):
    """A GPU does nothing more for this process; only another one can use it again."""


class CancelledError(MenuraError):
    """The caller cancelled it."""


class TrainingError(MenuraError):
    """A data set or an experiment can't be trained."""


def details_of(error: BaseException) -> ErrorDetails:
    """Any exception as data; what isn't Menura's own is of kind memory, system or unexpected."""
    if isinstance(error, MenuraError):
        return error.details
    if isinstance(error, MemoryError):
        return ErrorDetails(kind="memory", problem="not enough memory", advice="Close other programs")
    if isinstance(error, OSError) and error.strerror:
        return ErrorDetails(kind="system", subject=error.filename and str(error.filename), problem=error.strerror)
    said = " ".join(str(error).split()) or "no message"
    return ErrorDetails(kind="unexpected", problem=f"unexpected {type(error).__name__}: {said}")
