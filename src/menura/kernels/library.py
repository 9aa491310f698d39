"""The compiled kernels: found, loaded and described. Everything works without them, slower.

The library has a C interface and knows nothing of torch, whose OpenMP threads it uses: see `cpp/menura_kernels.h`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
import sysconfig
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from menura.system.text import system_text

VERSION = 6
CHANNEL_MULTIPLE = 16
PLANE_GROUP = 12
SWITCH = "MENURA_KERNELS"
"""Environment variable: `off` for torch alone, `avx2`, `avx512` or `neon` for that path."""

PATHS = ("avx2", "avx512", "neon")
"""Instruction sets, in the order of menura_path in cpp/menura_kernels.h; a processor's best one is its last."""
_FILE_NAMES = ("libmenura_kernels.so", "libmenura_kernels.dylib", "menura_kernels.dll")
_RUNTIME = re.compile(r"\S*/lib(?:gomp|iomp5|omp)[^/\s]*\.so\S*$", re.MULTILINE)
_POINTER, _INT, _LONG, _FLOAT = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.c_float


def _structure(name: str, *groups: tuple[type, str]) -> type[ctypes.Structure]:
    """A structure from groups of fields of one type."""
    fields = [(field, kind) for kind, names in groups for field in names.split()]
    return type(f"{name}Arguments", (ctypes.Structure,), {"_fields_": fields})


# The enumerations and structures of cpp/menura_kernels.h, which tells what they mean; a test compares the latter.
Algorithm = IntEnum("Algorithm", ["DIRECT", "TOOM_COOK_6_3", "FOURIER_32", "TOOM_COOK_4_5", "FOURIER_64"], start=0)
Mode = IntEnum("Mode", ["STORE", "ADD_RESIDUAL", "START_MEAN", "ADD_TO_MEAN"], start=0)
LayerEnd = IntEnum("LayerEnd", ["WITHIN_STEP", "STEP", "BLOCK"], start=0)

LayerArguments = _structure(
    "Layer", (_POINTER, "weights bias"), (_INT, "algorithm channels_in channels_out taps dilation rate padding")
)
CallArguments = _structure(
    "Call",
    (_POINTER, "input output residual"),
    (_LONG, "steps_in steps_out"),
    (_FLOAT, "slope scale"),
    (_INT, "mode threads"),
    (_LONG, "offset"),
)
StageArguments = _structure("Stage", (_POINTER, "layers ends"), (_INT, "count"))
ImageLayerArguments = _structure(
    "ImageLayer", (_POINTER, "weights scale bias"), (_INT, "channels_in channels_out half")
)
ImageCallArguments = _structure(
    "ImageCall", (_POINTER, "input output residual"), (_LONG, "images height width"), (_INT, "threads")
)
PlaneLayerArguments = _structure(
    "PlaneLayer", (_POINTER, "weights bias"), (_INT, "channels_in channels_out high wide dilation"), (_FLOAT, "slope")
)
PlaneCallArguments = _structure(
    "PlaneCall", (_POINTER, "input output residual"), (_LONG, "height width pitch"), (_INT, "threads")
)
WideningLayerArguments = _structure(
    "WideningLayer",
    (_POINTER, "filters filter_bias widening wide_bias narrowing bias"),
    (_INT, "channels wide taps"),
    (_FLOAT, "epsilon"),
)
RecurrentLayerArguments = _structure("RecurrentLayer", (_POINTER, "weights bias"), (_INT, "hidden directions"))
RecurrentCallArguments = _structure(
    "RecurrentCall", (_POINTER, "input output"), (_LONG, "sequences steps"), (_INT, "threads")
)
AttentionArguments = _structure(
    "Attention",
    (_POINTER, "query key value output near_keys near_values workspace"),
    (_LONG, "steps pitch output_pitch reach"),
    (_INT, "heads head_channels window"),
    (_FLOAT, "scale"),
    (_INT, "threads"),
)
GatingArguments = _structure("Gating", (_POINTER, "input output"), (_LONG, "steps"), (_INT, "channels threads"))


def address(tensor: Tensor, channels: int | None = None) -> int:
    """The address of a dense float32 tensor on the CPU, an image's channels innermost or not; ValueError for others."""
    dense = tensor.is_contiguous() or (tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last))
    if tensor.dtype != torch.float32 or tensor.device.type != "cpu" or not dense:
        raise ValueError(f"the kernels take dense float32 tensors on the CPU, not {tensor.dtype} on {tensor.device}")
    if channels is not None and tensor.dim() > 1 and tensor.shape[1] != channels:
        raise ValueError(f"the kernel takes {channels} channels, not {tensor.shape[1]}")
    return tensor.data_ptr()


@dataclass(frozen=True, slots=True)
class KernelLibrary:
    """The loaded library with the path that runs."""

    file: Path
    path: int
    panel_channels: int
    shares_threads: bool
    """False where torch's OpenMP runtime wasn't found: then the kernels run on one thread."""
    handle: ctypes.CDLL

    def call(self, function: str, *arguments: ctypes.Structure) -> None:
        """Run a kernel with torch's number of threads. Raises MemoryError, or ValueError for shapes it doesn't take."""
        arguments[-1].threads = torch.get_num_threads()
        code = self.handle[function](self.path, *map(ctypes.byref, arguments))
        if code == -2:
            raise MemoryError("not enough memory for the compiled kernels")
        if code != 0:
            raise ValueError(f"{function}: arguments the kernel doesn't take")


@dataclass(frozen=True, slots=True)
class KernelStatus:
    """What runs, and why."""

    library: KernelLibrary | None
    reason: str


def kernel_status() -> KernelStatus:
    """The library to use, or why it is torch alone."""
    return _status(os.environ.get(SWITCH, "").strip().lower())


@cache
def _status(asked: str) -> KernelStatus:
    if asked == "off":
        return KernelStatus(None, f"{SWITCH}=off")
    if asked not in ("", *PATHS):
        return KernelStatus(None, f"{SWITCH}={asked} isn't one of off, {', '.join(PATHS)}")
    # Where an installation puts the library: beside this file, or (editable) in the environment.
    roots = [sysconfig.get_path("platlib"), sysconfig.get_path("purelib"), *filter(None, sys.path)]
    for folder in (Path(__file__).parent, *(Path(root, "menura", "kernels") for root in roots)):
        for name in _FILE_NAMES:
            if (folder / name).is_file():
                return load_library(folder / name, asked)
    return KernelStatus(None, "not built (no C++ compiler when Menura was installed)")


def load_library(file: Path, asked: str = "") -> KernelStatus:
    """Load a built library and choose its path; asked for "", the best that the CPU has."""
    try:
        handle = ctypes.CDLL(str(file))
    except OSError as error:
        return KernelStatus(None, f"{file} can't be loaded ({error})")
    version = int(handle.menura_version())
    if version != VERSION:
        return KernelStatus(None, f"{file} is of version {version}, not {VERSION}: install Menura again")
    supported = [name for path, name in enumerate(PATHS) if int(handle.menura_supported_paths()) >> path & 1]
    if not supported:
        return KernelStatus(None, "this CPU has no AVX2")
    chosen = asked or supported[-1]
    if chosen not in supported:
        return KernelStatus(None, f"this CPU has no {chosen.upper()}")
    path, runtime = PATHS.index(chosen), _parallel_function()
    handle.menura_set_parallel(ctypes.c_void_p(runtime))
    library = KernelLibrary(file, path, int(handle.menura_panel_channels(path)), runtime is not None, handle)
    return KernelStatus(library, f"{chosen}, the best that this CPU has")


def compute_alone() -> None:
    """Have OpenMP's loops in the calling thread run in it alone, torch's too.

    A pool of its own, beside the computing thread's, would be more threads than there are cores: GCC's runtime then
    lets the threads of both sleep at once where they wait for each other.
    """
    runtime = _openmp()
    if runtime is not None:
        runtime.omp_set_num_threads(1)  # of this thread's loops, unlike torch.set_num_threads


def _parallel_function() -> int | None:
    """Address of GOMP_parallel in the OpenMP runtime that torch has loaded; Intel's and LLVM's have it too."""
    runtime = _openmp()
    return None if runtime is None else ctypes.cast(runtime.GOMP_parallel, ctypes.c_void_p).value


def _openmp() -> ctypes.CDLL | None:
    """The runtime that torch has loaded and begun to use in this thread."""
    torch.get_num_threads()
    maps = system_text(Path("/proc/self/maps"))
    # Torch's own copy lies beside it; another package may have brought a second runtime. macOS doesn't say what is.
    beside = str(Path(torch.__file__).parent)
    found = set(_RUNTIME.findall(maps)) or {str(Path(beside, "lib", "libomp.dylib"))}
    for name in sorted(found, key=lambda name: (not name.startswith(beside), name)):
        with contextlib.suppress(OSError, AttributeError):
            runtime = ctypes.CDLL(name)
            if runtime.GOMP_parallel and runtime.omp_set_num_threads:
                return runtime
    return None
