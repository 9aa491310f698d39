"""The kernels for ARM, built by a cross compiler and run in QEMU, against plain loops in double precision."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from menura.kernels import library
from support.kernels import build_driver, build_kernels, driver_input

COMPILER = "aarch64-linux-gnu-g++"
LIBRARIES = "/usr/aarch64-linux-gnu"
"""Where Debian puts those of programs for ARM."""
PROCESSOR = "cortex-a53"
"""The first of 64 bits: of later ones the kernels use nothing."""
NEON = library.PATHS.index("neon")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert shutil.which(COMPILER) is not None, f"there is no {COMPILER}: run scripts/programs"
    folder = tmp_path_factory.mktemp("arm")
    target = ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={COMPILER}")
    return build_driver(folder, build_kernels(folder, *target), COMPILER)


def emulated(program: Path, what: str, path: int = NEON, given: str | None = None) -> subprocess.CompletedProcess[str]:
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    assert emulator is not None, "there is no qemu-aarch64: run scripts/programs"
    command = [emulator, "-cpu", PROCESSOR, "-L", LIBRARIES, str(program), str(path), "3", what]
    text = driver_input() if given is None else given
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_every_kernel(driver: Path) -> None:
    run = emulated(driver, "20")
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("fine")


@pytest.mark.slow
def test_denormals_are_zeros_in_kernels_alone(driver: Path) -> None:
    run = emulated(driver, "denormals")
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
def test_a_wrong_result_would_be_told(driver: Path) -> None:
    first, *others = driver_input().split("\n")
    spoiled = first.rsplit(" ", 1)[0] + " 0.99"
    run = emulated(driver, "1", given="\n".join([spoiled, *others]))
    assert (run.returncode, run.stderr) == (3, "convolve: wrong\n")


@pytest.mark.slow
@pytest.mark.parametrize("path", [number for number in range(len(library.PATHS)) if number != NEON])
def test_other_instruction_sets_are_refused(driver: Path, path: int) -> None:
    run = emulated(driver, "1", path)
    assert (run.returncode, run.stderr) == (3, "the path: not on this processor\n")
