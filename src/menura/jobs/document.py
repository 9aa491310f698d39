"""Results as plain values, for JSON documents, journals and services, and back. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TypeVar

from menura import __version__
from menura.audio.places import place_of
from menura.errors import ErrorDetails
from menura.types import FileResult, RunReport, StageTimes, State

T = TypeVar("T")


def report_document(report: RunReport) -> dict[str, Any]:
    """A run as plain values."""
    return {
        "version": __version__,
        "files": [to_document(result) for result in report.files],
        "wall_s": round(report.wall_s, 6),
        "peak_memory_mb": round(report.peak_memory_mb, 1),
        "model_loads": dict(report.model_loads),
    }


def to_document(result: FileResult) -> dict[str, Any]:
    """A file's result as plain values; `error` has kind, subject, problem, advice and option."""
    wall_s = round(result.wall_s, 6)  # the factor is of what is written, so that it reads back the same
    return {
        "input": result.input,
        "output": None if result.output is None else str(result.output),
        "state": result.state.value,
        "error": None if result.error is None else asdict(result.error),
        "notes": list(result.notes),
        "audio_s": result.audio_s,
        "output_samples": result.output_samples,
        "output_rate": result.output_rate,
        "f0_method": result.f0_method,
        "transpose": None if result.transpose is None else result.transpose + 0.0,  # not -0.0
        "wall_s": wall_s,
        "real_time_factor": round(wall_s / result.audio_s, 6) if result.audio_s else None,
        "stages": {name.removesuffix("_s"): round(seconds, 6) for name, seconds in asdict(result.stages).items()},
        "seams_s": list(result.seams_s),
        "resumed": result.resumed,
        "parts": result.parts,
        "parts_resumed": result.parts_resumed,
    }


def from_document(document: Mapping[str, Any]) -> FileResult:
    """The result that `to_document` made this of. Raises KeyError, TypeError, ValueError or AttributeError."""
    output, error, transpose = document["output"], document["error"], document["transpose"]
    stages: dict[str, Any] = document["stages"]
    return FileResult(
        input=_checked(str, document["input"]),
        output=None if output is None else place_of(_checked(str, output)),
        state=State(document["state"]),
        error=None if error is None else _error(error),
        notes=tuple(_checked(str, note) for note in document["notes"]),
        audio_s=_number(document["audio_s"]),
        output_samples=_checked(int, document["output_samples"]),
        output_rate=_checked(int, document["output_rate"]),
        f0_method=_text(document["f0_method"]),
        transpose=None if transpose is None else _number(transpose),
        wall_s=_number(document["wall_s"]),
        stages=StageTimes(**{f"{name}_s": _number(seconds) for name, seconds in stages.items()}),
        seams_s=tuple(map(_number, document["seams_s"])),
        resumed=_checked(bool, document["resumed"]),
        parts=_checked(int, document["parts"]),
        parts_resumed=_checked(int, document["parts_resumed"]),
    )


def _error(fields: Mapping[str, Any]) -> ErrorDetails:
    optional = {name: _text(fields[name]) for name in ("subject", "advice", "option")}
    return ErrorDetails(kind=_checked(str, fields["kind"]), problem=_checked(str, fields["problem"]), **optional)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int) else _checked(float, value)


def _text(value: Any) -> str | None:
    return None if value is None else _checked(str, value)


def _checked(kind: type[T], value: Any) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value
