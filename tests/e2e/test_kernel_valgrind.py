"""The kernels as they are shipped, under valgrind: no foreign memory, nothing made of what was never written.

Valgrind knows no AVX-512, so on processors that have it this is the AVX2 path; the sanitizers run both.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from menura.kernels import library
from support.kernels import build_driver, driver_input, paths

pytestmark = pytest.mark.skipif(
    shutil.which("valgrind") is None or library.kernel_status().library is None,
    reason="no valgrind, or no kernels were built",
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = library.kernel_status().library
    assert built is not None, library.kernel_status().reason
    return build_driver(tmp_path_factory.mktemp("driver"), built.file)


def under_valgrind(program: Path, what: str) -> subprocess.CompletedProcess[str]:
    path = library.PATHS.index(paths()[0])
    command = ["valgrind", "-q", "--error-exitcode=9", "--leak-check=full", str(program), str(path), "5", what]
    return subprocess.run(command, input=driver_input(), capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_no_foreign_memory_and_nothing_unwritten(driver: Path) -> None:
    run = under_valgrind(driver, "6")
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.startswith("fine")
    assert run.stderr == ""


@pytest.mark.slow
def test_valgrind_would_tell(driver: Path) -> None:
    run = under_valgrind(driver, "overrun")
    assert run.returncode == 9
    assert "Invalid read" in run.stderr
