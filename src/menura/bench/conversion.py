"""One conversion measured, in a process that does nothing else."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from menura.bench.machine import this_machine
from menura.bench.measurement import Measurement
from menura.converter import Converter
from menura.errors import MenuraError
from menura.options import ConversionOptions, EngineOptions
from menura.system.files import temporary_folder
from menura.types import StageTimes

_SGEMM_SIZE = 2048
_SGEMM_RUNS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionAnswer:
    """What was measured."""

    loaded: Measurement
    """All recordings, with the networks loaded before the clock starts."""
    again: Measurement | None
    """The first recording once more: the best of several."""
    machine: dict[str, Any]


def measure_conversion(
    paths: Sequence[Path], options: ConversionOptions, engine: EngineOptions, again_runs: int
) -> ConversionAnswer:
    """Load what is needed, then convert and time: the recordings, then so many times the first of them alone.

    Raises:
        MenuraError: a recording could not be converted.
    """
    converter = Converter(engine)
    converter.preload(options)
    before = sgemm_gflops(converter.device)
    with temporary_folder() as folder:
        convert = partial(_converted, converter, options, folder)
        loaded = convert(paths)
        again = min((convert(paths[:1]) for _ in range(again_runs)), key=lambda run: run.wall_s, default=None)
    sgemm = max(before, sgemm_gflops(converter.device))
    return ConversionAnswer(
        loaded=replace(loaded, sgemm_gflops=sgemm),
        again=again and replace(again, sgemm_gflops=sgemm),
        machine=this_machine(converter.device, torch.get_num_threads()),
    )


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
