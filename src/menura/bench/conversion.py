"""One conversion measured, in a process that does nothing else."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from menura.bench.machine import Machine, this_machine
from menura.bench.measurement import Measurement
from menura.converter import Converter
from menura.errors import MenuraError
from menura.options import ConversionOptions, EngineOptions
from menura.system.files import temporary_folder
from menura.types import RunReport, StageTimes

_SGEMM_SIZE = 2048
_SGEMM_RUNS = 10
_AGAIN_RUNS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionRequest:
    """What to measure."""

    paths: tuple[Path, ...]
    options: ConversionOptions
    engine: EngineOptions
    again: bool = False
    """Afterwards the first recording again, alone, several times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionAnswer:
    """What was measured."""

    loaded: Measurement
    """All recordings, with the networks loaded before the clock starts."""
    again: Measurement | None
    """The first recording once more: the best of three."""
    machine: Machine


def measure_conversion(request: ConversionRequest) -> ConversionAnswer:
    """Load what is needed, then convert and time.

    Raises:
        MenuraError: a recording could not be converted.
    """
    converter = Converter(request.engine)
    converter.preload(request.options)
    before = sgemm_gflops(converter.device)
    with temporary_folder() as folder:
        loaded = _converted(converter, request.paths, request.options, folder)
        runs = [
            _converted(converter, request.paths[:1], request.options, folder)
            for _ in range(_AGAIN_RUNS if request.again else 0)
        ]
    sgemm = max(before, sgemm_gflops(converter.device))
    again = min(runs, key=lambda run: run.wall_s, default=None)
    return ConversionAnswer(
        loaded=dataclasses.replace(loaded, sgemm_gflops=sgemm),
        again=None if again is None else dataclasses.replace(again, sgemm_gflops=sgemm),
        machine=this_machine(converter.device, torch.get_num_threads()),
    )


def _converted(converter: Converter, paths: Sequence[Path], options: ConversionOptions, folder: Path) -> Measurement:
    cpu_s = time.process_time()
    report = converter.convert_files([(path, folder / path.name) for path in paths], options)
    return measurement_of(report, cpu_s=time.process_time() - cpu_s)


def measurement_of(report: RunReport, *, cpu_s: float) -> Measurement:
    """A run's figures, but for the machine's speed.

    Raises:
        MenuraError: a recording failed.
    """
    if report.failed:
        raise MenuraError(report.failed[0].input, str(report.failed[0].error))
    names = [f.name for f in dataclasses.fields(StageTimes)]
    return Measurement(
        wall_s=report.wall_s,
        audio_s=sum(file.audio_s for file in report.files),
        files=len(report.files),
        sgemm_gflops=0.0,
        peak_mb=report.peak_memory_mb,
        busy_cores=cpu_s / report.wall_s,
        stages=StageTimes(**{name: sum(getattr(file.stages, name) for file in report.files) for name in names}),
    )


def sgemm_gflops(device: torch.device) -> float:
    """Speed of float32 matrix products, 2048 x 2048, with the current threads: the best of ten."""
    a, b = (torch.randn(_SGEMM_SIZE, _SGEMM_SIZE, device=device) for _ in range(2))
    best_s = float("inf")
    for _ in range(_SGEMM_RUNS):
        start_s = time.perf_counter()
        product = torch.mm(a, b)
        product[0, 0].item()  # on a GPU: wait for it
        best_s = min(best_s, time.perf_counter() - start_s)
    return 2 * _SGEMM_SIZE**3 / best_s / 1e9
