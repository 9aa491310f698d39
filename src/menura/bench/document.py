"""All figures as plain values, for JSON. Loads no torch."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from menura.bench.figures import Measurement
    from menura.bench.kernels import KernelAnswer
    from menura.bench.machine import Machine
    from menura.bench.other import Comparison
    from menura.bench.suites import Outcome, SuiteResult

TARGETS: dict[tuple[str, str], float] = {
    ("batch12", "main"): 85,
    ("batch12", "again"): 155,
    ("five-minutes", "main"): 75,
}
"""Costs that a full-size v2 40k voice with RMVPE and index is to stay below on two AVX2 cores."""


def about_document(machine: Machine, *, voice: str, quick: bool) -> dict[str, Any]:
    """Where and with what something was measured."""
    return {**dataclasses.asdict(machine), "voice": voice, "quick": quick}


def suites_document(outcome: Outcome, *, full_size: bool) -> dict[str, Any]:
    """Every suite's figures by its name.

    Args:
        outcome: what was measured.
        full_size: with the full-size voice, which has targets.
    """
    return {result.suite: _suite(result, full_size=full_size) for result in outcome.results}


def _suite(result: SuiteResult, *, full_size: bool) -> dict[str, Any]:
    document = measurement_document(result.main)
    parts = {"cold": result.cold, "cold_one": result.cold_one, "again": result.again}
    document |= {name: measurement_document(part) for name, part in parts.items() if part is not None}
    if result.lengths:
        document["lengths"] = [measurement_document(length) for length in result.lengths]
    if full_size:
        for (suite, part), target in TARGETS.items():
            if suite == result.suite:
                (document if part == "main" else document[part])["target_cost"] = target
    if result.comparisons:
        document["compare"] = [_comparison(each) for each in result.comparisons]
    return document


def measurement_document(made: Measurement) -> dict[str, Any]:
    """One run's figures."""
    stages = {name.removesuffix("_s"): round(value, 6) for name, value in dataclasses.asdict(made.stages).items()}
    return {
        "wall_s": round(made.wall_s, 6),
        "audio_s": round(made.audio_s, 6),
        "files": made.files,
        "sgemm_gflops": round(made.sgemm_gflops, 2),
        "cost": round(made.cost, 3),
        "real_time_factor": round(made.real_time_factor, 6),
        "peak_mb": round(made.peak_mb, 1),
        "busy_cores": round(made.busy_cores, 3),
        **({"stages": stages} if any(stages.values()) else {}),
    }


def _comparison(made: Comparison) -> dict[str, Any]:
    return {**dataclasses.asdict(made), "times_menura": made.times_menura}


def kernels_document(answer: KernelAnswer) -> dict[str, Any]:
    """The decoder's and the other networks' figures."""
    document = dataclasses.asdict(answer)
    del document["machine"]
    return document
