"""The kernels under AddressSanitizer: nothing is read or written outside of what was allocated."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.kernels import build_kernels, paths

ROOT = Path(__file__).parents[2]
PATHS = paths()
FUZZER = ROOT / "tests" / "support" / "fuzz_kernels.py"


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_kernels(tmp_path_factory.mktemp("sanitized"), "-DMENURA_SANITIZE=ON")


def preloaded() -> str:
    """The sanitizers' runtimes, which have to be there before Python."""
    found = [
        subprocess.run(["c++", f"-print-file-name={name}"], check=True, capture_output=True, text=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    return " ".join(found)


def fuzz(file: Path, path: str, rounds: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LD_PRELOAD": preloaded(), "ASAN_OPTIONS": "detect_leaks=0"}
    command = [sys.executable, str(FUZZER), str(file), path, "1", rounds]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT / "tests", check=False)


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_no_access_outside_of_allocations(sanitized: Path, path: str) -> None:
    run = fuzz(sanitized, path, "40")
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.split() == ["fine", path, "40"]


@pytest.mark.slow
def test_the_sanitizer_would_tell(sanitized: Path) -> None:
    run = fuzz(sanitized, PATHS[0], "overrun")
    assert run.returncode != 0
    assert "heap-buffer-overflow" in run.stderr
