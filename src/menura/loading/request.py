"""What a run converts with, resolved once and handed down: light, picklable, without torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, Union

from menura import __version__
from menura.loading.pool import ModelKey
from menura.models.config import SynthesizerConfig
from menura.options import ConversionOptions
from menura.types import FloatArray
from menura.voices.library import VoiceEntry

_REPLACED = ("voice", "index", "index_rate", "f0", "f0_file", "transpose", "strategy")
"""Options that stand in an identity as what they came to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Options with everything they name found: made by `resolve`."""

    options: ConversionOptions
    voice: VoiceEntry
    config: SynthesizerConfig
    content_path: Path
    f0_method: str | None = None
    """'file' where F0 is given; None for a voice without F0."""
    f0_path: Path | None = None
    """Weights of the method, None where F0 is given or not needed."""
    f0_hz: FloatArray | None = field(default=None, compare=False)
    """(frames,) F0 of the recording at 10 ms, where it is given."""
    index_path: Path | None = None

    @property
    def target_hz(self) -> float | None:
        """The voice's own median F0, where it is known."""
        return self.voice.f0_median_hz if self.config.has_f0 else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What should be known of how the options were resolved."""
        beside = bool(self.voice.note) and self.options.index is None and self.options.index_rate > 0
        return (self.voice.note,) if beside else ()

    @property
    def transpose(self) -> float | Literal["auto"]:
        """What is asked for, or the default: given F0 is meant as it is, and RVC moves nothing by itself."""
        options = self.options
        if options.transpose is not None:  # of one recording auto-batch is auto
            return "auto" if options.transpose == "auto-batch" else options.transpose
        unmoved = self.target_hz is None or options.compat != "menura" or self.f0_hz is not None
        return 0.0 if unmoved else "auto"

    @property
    def identity(self) -> str:
        """A hash of everything that decides an output besides its input and this machine.

        Files count by path, size and time of change, as for the models that stay loaded; given F0 by its values.
        Another version of Menura makes another identity.
        """
        files = {"voice": self.voice.path, "content": self.content_path, "f0": self.f0_path, "index": self.index_path}
        fields = {
            "version": __version__,
            "files": [dataclasses.astuple(ModelKey.of(kind, path)) for kind, path in files.items() if path is not None],
            "f0_method": self.f0_method,
            "f0_hz": None if self.f0_hz is None else hashlib.sha256(self.f0_hz.tobytes()).hexdigest(),
            "index_rate": None if self.index_path is None else self.options.index_rate,
            "transpose": self.transpose,
            "target_hz": self.target_hz if self.transpose == "auto" else None,
            "whole": self.options.strategy == "whole",
            "options": {k: v for k, v in dataclasses.asdict(self.options).items() if k not in _REPLACED},
        }
        return hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()


Asked: TypeAlias = Union["ConversionOptions", Request]
"""Options, or what `resolve` made of them."""
