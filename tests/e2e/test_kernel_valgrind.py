"""The kernels as they are shipped, under valgrind: no foreign memory, nothing made of what was never written.

Valgrind knows no AVX-512, so this is the AVX2 path; the sanitizers run both.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from menura.kernels import library
from menura.kernels.packing import TOOM_COOK_POINTS, fourier_weights, toom_cook

ROOT = Path(__file__).parents[2]
DRIVER = ROOT / "tests" / "support" / "drive_kernels.cpp"
HEADERS = ROOT / "src" / "menura" / "kernels" / "cpp"

pytestmark = pytest.mark.skipif(
    shutil.which("valgrind") is None or library.kernel_status().library is None,
    reason="no valgrind, or no kernels were built",
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = library.kernel_status().library
    assert built is not None, library.kernel_status().reason
    program = tmp_path_factory.mktemp("driver") / "drive_kernels"
    command = ["c++", "-std=c++20", "-O1", "-g", "-Wall", "-Wextra", f"-I{HEADERS}", str(DRIVER), str(built.file)]
    subprocess.run([*command, f"-Wl,-rpath,{built.file.parent}", "-o", str(program)], check=True)
    return program


def under_valgrind(program: Path, rounds: int) -> subprocess.CompletedProcess[str]:
    points = (len(toom_cook(6, 3, TOOM_COOK_POINTS).weights), len(fourier_weights(7)))
    command = ["valgrind", "-q", "--error-exitcode=9", "--leak-check=full", str(program), "5", str(rounds)]
    return subprocess.run([*command, *map(str, points)], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_no_foreign_memory_and_nothing_unwritten(driver: Path) -> None:
    run = under_valgrind(driver, 8)
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout == "fine 8\n"
    assert run.stderr == ""


@pytest.mark.slow
def test_valgrind_would_tell(driver: Path) -> None:
    run = under_valgrind(driver, 0)
    assert run.returncode == 9
    assert "Invalid read" in run.stderr
