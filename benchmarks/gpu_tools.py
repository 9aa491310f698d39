"""What the steps of `benchmarks.gpu` share."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch

from menura.options import DEFAULT_VOICE, ConversionOptions, EngineOptions
from menura.system.device import peak_memory_mb, resolve_device
from menura.voices.assets import cache_folder

Facts: TypeAlias = Iterator[tuple[str, dict[str, Any]]]
"""What was measured, and its figures."""
Choice = TypeVar("Choice")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where and with what to measure."""

    device: str
    home: Path
    """The data folder of the full-size voice."""
    full_voice: str
    quick: bool = False

    @property
    def target(self) -> torch.device:
        return resolve_device(self.device)

    @property
    def cache(self) -> Path:
        return cache_folder(self.home) / "bench"

    @property
    def voices(self) -> tuple[str, ...]:
        return (DEFAULT_VOICE,) if self.quick else (DEFAULT_VOICE, self.full_voice)

    def pick(self, full: Choice, quick: Choice) -> Choice:
        """One of two settings."""
        return quick if self.quick else full

    def options(self, voice: str) -> ConversionOptions:
        """The starter voice has the estimator that comes with it."""
        return ConversionOptions(voice=voice, f0="swift" if voice == DEFAULT_VOICE else "auto")

    def engine(self, device: str | None = None) -> EngineOptions:
        return EngineOptions(device=device or self.device, home=self.home)


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(run: Callable[[], object], device: torch.device, rounds: int = 5) -> float:
    """The median, after one run that doesn't count."""
    took = []
    for _ in range(rounds + 1):
        start_s = time.perf_counter()
        run()
        wait_for(device)
        took.append(time.perf_counter() - start_s)
    return statistics.median(took[1:])


def memory_of(device: torch.device) -> dict[str, float]:
    """Largest so far, MiB: of the process, and of what torch had on a GPU."""
    sizes = {"process_mb": peak_memory_mb()}
    if device.type == "cuda":
        sizes["now_mb"] = torch.cuda.memory_allocated(device) / 2**20
        sizes["allocated_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
        sizes["reserved_mb"] = torch.cuda.max_memory_reserved(device) / 2**20
        sizes["out_of_memory"] = torch.cuda.memory_stats(device).get("num_ooms", 0)
    return sizes


@contextmanager
def memory_limit(device: torch.device, spare_mb: float) -> Iterator[None]:
    """Let torch have so much more of a GPU's memory than it has now."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.empty_cache()
    most = torch.cuda.memory_reserved(device) + spare_mb * 2**20
    torch.cuda.set_per_process_memory_fraction(most / torch.cuda.get_device_properties(device).total_memory, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


@contextmanager
def held(device: torch.device, left_mb: float) -> Iterator[None]:
    """Leave only so much of a GPU's memory free."""
    torch.cuda.empty_cache()
    taken = torch.empty(int(torch.cuda.mem_get_info(device)[0] - left_mb * 2**20), dtype=torch.uint8, device=device)
    try:
        yield
    finally:
        del taken
        torch.cuda.empty_cache()


@contextmanager
def failing() -> Iterator[dict[str, Any]]:
    """Figures to fill in the block; where that fails, `error` says how."""
    figures: dict[str, Any] = {}
    try:
        yield figures
    except Exception as error:  # noqa: BLE001  (it is a finding)
        figures["error"] = f"{type(error).__name__}: {error}"


@contextmanager
def patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Another value of an attribute within the block."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def tf32(*, on: bool) -> Iterator[None]:
    """Whether a GPU may round the factors of products and convolutions to 10 bits."""
    with patched(torch.backends.cudnn, "allow_tf32", on), patched(torch.backends.cuda.matmul, "allow_tf32", on):
        yield
