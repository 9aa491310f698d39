"""The compiled kernels for tests, and what they are compared by."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from menura.kernels import library
from menura.kernels.library import KernelLibrary
from menura.kernels.packing import (
    FOURIER_SIZES,
    IMAGE_POINTS,
    TOOM_COOK_POINTS,
    TOOM_COOK_SIZES,
    fourier_weights,
    toom_cook,
)

DRIVER = Path(__file__).with_name("drive_kernels.cpp")
SOURCES = Path(library.__file__).parent / "cpp"
LAYER_TOLERANCE = 2e-5
"""Of a layer's largest output."""


def built(path: str) -> KernelLibrary:
    status = library._status(path)
    assert status.library is not None, f"the kernels must be built for the tests: {status.reason}"
    return status.library


def paths() -> list[str]:
    """Those that this processor has; the library says so itself."""
    names = [path for path in library.PATHS if library._status(path).library is not None]
    assert names, library.kernel_status().reason
    return names


def assert_close(made: Tensor, wanted: Tensor, *terms: Tensor) -> None:
    """Within the tolerance of the layer's scale: of its largest output, or of what was added up, should that cancel."""
    assert made.shape == wanted.shape
    scale = max([1e-3, *(float(tensor.abs().max()) for tensor in (wanted, *terms) if tensor.numel())])
    assert torch.allclose(made.double(), wanted, rtol=0, atol=LAYER_TOLERANCE * scale)


def largest_product(weight: Tensor, x: Tensor) -> Tensor:
    """The largest that a layer of few channels may have added up."""
    return weight.abs().max() * x.abs().max() if x.numel() else torch.zeros(())


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build_kernels(folder: Path, *options: str) -> Path:
    """The library built in a folder, with options for CMake."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))  # cmake and ninja may be there only
    for command in (["cmake", "-G", "Ninja", *options, str(SOURCES)], ["cmake", "--build", "."]):
        subprocess.run(command, cwd=folder, check=True, capture_output=True, env={**os.environ, "PATH": path})
    return folder / "libmenura_kernels.so"


def build_driver(folder: Path, built_library: Path, compiler: str = "c++") -> Path:
    """drive_kernels in a folder, for a built library."""
    program = folder / "drive_kernels"
    command = [compiler, "-std=c++20", "-O1", "-g", "-Wall", "-Wextra", f"-I{SOURCES}", str(DRIVER), str(built_library)]
    subprocess.run([*command, f"-Wl,-rpath,{built_library.parent}", "-o", str(program)], check=True)
    return program


def driver_input() -> str:
    """The weights' transforms that drive_kernels wants."""
    filters = [toom_cook(*sizes, TOOM_COOK_POINTS).weights for sizes in TOOM_COOK_SIZES]
    halving = toom_cook(len(IMAGE_POINTS), 2, IMAGE_POINTS).weights
    matrices: list[np.ndarray] = [*filters, *(fourier_weights(16, size) for size in FOURIER_SIZES.values()), halving]
    return "\n".join(" ".join(map(repr, (*matrix.shape, *matrix.flatten().tolist()))) for matrix in matrices)
