"""One pitch shift for a batch: from its recordings' common pitch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from menura.jobs.batch import with_common_shift
from menura.loading import Request, resolve
from menura.options import ConversionOptions, EngineOptions

RATE = 16_000


def hum(path: Path, hz: float, seconds: float = 2.0) -> Path:
    """Something that has a pitch."""
    times = np.arange(int(seconds * RATE)) / RATE
    samples = sum(np.sin(2 * np.pi * hz * n * times) / n for n in range(1, 8))
    soundfile.write(path, 0.1 * np.asarray(samples), RATE)
    return path


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    return resolve(ConversionOptions(transpose="auto-batch", f0="swift"), tmp_path)


def test_all_recordings_count_and_what_cannot_be_read_does_not(tmp_path: Path, request_: Request) -> None:
    low, high = hum(tmp_path / "low.wav", 110, 4), hum(tmp_path / "high.wav", 147)
    bad, quiet = tmp_path / "bad.wav", tmp_path / "quiet.wav"
    bad.write_bytes(b"no sound" * 100)
    soundfile.write(quiet, np.zeros(10), RATE)

    def shift(*sources: Path) -> float:
        found = with_common_shift(request_, sources, EngineOptions())
        assert isinstance(found.options.transpose, float)
        assert found.transpose == found.options.transpose
        return found.options.transpose

    assert request_.target_hz is not None
    assert shift(low) == pytest.approx(12 * np.log2(request_.target_hz / 110), abs=1)
    assert shift(high) == pytest.approx(shift(low) - 5, abs=1)
    assert shift(high, bad, low, quiet) == shift(low)  # there is more of it
    assert shift(bad, quiet) == shift() == 0


@pytest.mark.parametrize("transpose", [None, "auto", 3.0])
def test_other_requests_stay_as_they_are(tmp_path: Path, request_: Request, transpose: float | None) -> None:
    request = replace(request_, options=replace(request_.options, transpose=transpose))
    assert with_common_shift(request, [tmp_path / "nothing.wav"], EngineOptions()) is request


def test_one_recording_is_moved_as_by_auto(request_: Request) -> None:
    assert request_.transpose == "auto"
