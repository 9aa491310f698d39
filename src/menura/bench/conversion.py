"""One conversion measured in a process that does nothing else, and what it ran on: versions, hardware, kernels."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from menura import __version__
from menura.bench.suites import Measurement
from menura.converter import Converter
from menura.errors import MenuraError
from menura.kernels.selftest import kernels_in_words
from menura.options import ConversionOptions, EngineOptions
from menura.system.device import physical_cores, processor_name
from menura.system.files import temporary_folder
from menura.types import StageTimes

_SGEMM_SIZE, _SGEMM_RUNS = 2048, 10
_PACKAGES = ("torch", "numpy", "faiss-cpu")
_PACKAGE = Path(__file__).resolve().parent.parent
_GIT_TIMEOUT_S = 10.0


def measure_conversion(
    paths: Sequence[Path], options: ConversionOptions, engine: EngineOptions, again_runs: int
) -> tuple[Measurement, Measurement | None, dict[str, Any]]:
    """Load what is needed, then convert and time: the recordings, then so many times the first of them alone.

    Returns the figures of all and the first's best, with the networks loaded before, and what the machine is. Raises
    MenuraError where a recording can't be converted.
    """
    converter = Converter(engine)
    converter.preload(options)
    before = sgemm_gflops(converter.device)
    with temporary_folder() as folder:
        convert = partial(_converted, converter, options, folder)
        loaded = convert(paths)
        again = min((convert(paths[:1]) for _ in range(again_runs)), key=lambda run: run.wall_s, default=None)
    sgemm = max(before, sgemm_gflops(converter.device))
    machine = this_machine(converter.device, torch.get_num_threads())
    return replace(loaded, sgemm_gflops=sgemm), again and replace(again, sgemm_gflops=sgemm), machine


def _converted(converter: Converter, options: ConversionOptions, folder: Path, paths: Sequence[Path]) -> Measurement:
    """A run's figures, but for the machine's speed."""
    cpu_s = time.process_time()
    report = converter.convert_files([(path, folder / path.name) for path in paths], options)
    cpu_s = time.process_time() - cpu_s
    if report.failed:
        raise MenuraError(report.failed[0].input, str(report.failed[0].error))
    stages = [f.name for f in fields(StageTimes)]
    return Measurement(
        wall_s=report.wall_s,
        audio_s=sum(file.audio_s for file in report.files),
        files=len(report.files),
        sgemm_gflops=0.0,
        peak_mb=report.peak_memory_mb,
        busy_cores=cpu_s / report.wall_s,
        stages=StageTimes(**{name: sum(getattr(file.stages, name) for file in report.files) for name in stages}),
    )


def sgemm_gflops(device: torch.device) -> float:
    """Speed of float32 matrix products, 2048 x 2048, with the current threads: the best of ten."""
    a, b = (torch.randn(_SGEMM_SIZE, _SGEMM_SIZE, device=device) for _ in range(2))
    best_s = float("inf")
    for _ in range(_SGEMM_RUNS):
        start_s = time.perf_counter()
        torch.mm(a, b)[0, 0].item()  # on a GPU: wait for it
        best_s = min(best_s, time.perf_counter() - start_s)
    return 2 * _SGEMM_SIZE**3 / best_s / 1e9


def this_machine(device: torch.device, threads: int) -> dict[str, Any]:
    """What this process runs on, as a document.

    `commit` is that of the checkout that runs, with '-dirty' where it was changed, None for an installed package;
    `vector_instructions` are those that torch uses; `kernels` says which compiled convolutions run, and why.
    """
    versions = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    windows = sys.platform == "win32"
    return {
        "menura": __version__,
        "commit": commit(_PACKAGE),
        "python": platform.python_version(),
        "packages": versions,
        "system": platform.platform(),
        "processor": processor_name(),
        "logical_cores": os.cpu_count(),
        "physical_cores": physical_cores(),
        "memory_gb": None if windows else round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "device": str(device) if device.type != "cuda" else f"{device} ({torch.cuda.get_device_name(device)})",
        "threads": threads,
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "kernels": kernels_in_words() if device.type == "cpu" else "torch's: they are for the CPU",
    }


def commit(package: Path) -> str | None:
    """The commit of the checkout that a package's folder lies in, None where it lies in none of its own."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_GIT_TIMEOUT_S)
        return done.stdout.strip()

    root = package.parent.parent
    with suppress(OSError, subprocess.SubprocessError):
        # An environment's site-packages may lie in somebody else's checkout.
        if root / "src" / package.name == package and Path(git("rev-parse", "--show-toplevel")).resolve() == root:
            return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    return None
