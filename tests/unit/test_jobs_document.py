"""Results as documents, and back."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from menura import errors
from menura.errors import ErrorDetails, MenuraError
from menura.jobs.document import from_document, report_document, to_document
from menura.types import FileResult, Url
from support.results import DONE, FAILED, PARTLY, report


def test_document_survives_json() -> None:
    made = json.loads(json.dumps(report_document(report(DONE, FAILED))))
    assert made["files"][0] == {
        "input": "a.wav",
        "output": str(Path("out/a.wav")),
        "state": "done",
        "error": None,
        "notes": ["opus has no 44100 Hz; written at 48000 Hz."],
        "audio_s": 2.0,
        "output_samples": 96_000,
        "output_rate": 48_000,
        "f0_method": "swift",
        "transpose": -2.0,
        "wall_s": 0.5,
        "real_time_factor": 0.25,
        "stages": {
            "decode": 0.1,
            "content": 0.0,
            "f0": 0.0,
            "retrieval": 0.0,
            "synthesis": 0.3,
            "assemble": 0.0,
            "encode": 0.0,
        },
        "seams_s": [1.25],
        "resumed": False,
        "parts": 0,
        "parts_resumed": 0,
    }
    assert made["files"][1]["output"] is None
    assert made["files"][1]["real_time_factor"] is None
    assert (made["wall_s"], made["peak_memory_mb"], made["model_loads"]) == (1.5, 100.1, {"voice:wren": 1})


def test_minus_zero_semitones_are_zero() -> None:
    made = json.dumps(report_document(report(dataclasses.replace(DONE, transpose=-0.0))))
    assert '"transpose": 0.0' in made


FULL = dataclasses.replace(
    PARTLY,
    error=ErrorDetails(kind="decode", subject="b.wav", problem="cut off", advice="Use {strategy=whole}", option="x"),
    transpose=-2.0,
    f0_method="swift",
    seams_s=(20.0, 40.0),
    notes=("a", "b"),
    wall_s=0.25,
)


@pytest.mark.parametrize("result", [DONE, PARTLY, FAILED, FULL, dataclasses.replace(DONE, output=Url("s3://b/a.wav"))])
def test_a_result_comes_back_from_its_document(result: FileResult) -> None:
    assert from_document(json.loads(json.dumps(to_document(result)))) == result


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input", None),
        ("output", 3),
        ("state", "unknown"),
        ("error", "cut off"),
        ("error", {"kind": "decode"}),
        ("notes", [1]),
        ("audio_s", "2"),
        ("output_rate", 1.5),
        ("stages", {"decode": None}),
        ("stages", {"unknown": 1.0}),
        ("seams_s", 3),
        ("resumed", "no"),
        ("parts", None),
        ("parts_resumed", 1.5),
    ],
)
def test_other_documents_are_refused(field: str, value: Any) -> None:
    document = to_document(FULL) | {field: value}
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        from_document(document)


@pytest.mark.parametrize(
    "kind", [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, MenuraError)]
)
def test_errors_keep_their_fields_between_processes(kind: type[MenuraError]) -> None:
    error = pickle.loads(pickle.dumps(kind(Path("a.wav"), "is broken", "Mend it with {force}", "force")))
    assert type(error) is kind
    assert error.details == kind("a.wav", "is broken", "Mend it with {force}", "force").details
