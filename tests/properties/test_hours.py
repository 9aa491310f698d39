"""An hour takes the memory of three minutes, and ends on time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


@pytest.mark.slow
def test_an_hour() -> None:
    # In a process of its own: what other tests took would hide what this one takes.
    code = "import sys; sys.path.insert(0, sys.argv[1]); from support.hours import main; main(sys.argv[2:])"
    command = [sys.executable, "-c", code, str(TESTS), "180", "3600"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    short, long = json.loads(done.stdout)
    assert (short["samples"], long["samples"]) == (180 * 4000, 3600 * 4000)
    assert long["peak_mb"] < 1.1 * short["peak_mb"]
    for run in (short, long):
        assert abs(run["start_ms"]) < 20
        assert abs(run["end_ms"] - run["start_ms"]) < 2
