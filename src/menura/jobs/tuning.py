"""How many workers of how many threads a batch gets on this machine, and why. Loads no torch.

One process with all cores is the usual way. Several of fewer threads leave no core waiting for another, but each loads
its own networks and holds them in memory. What that comes to is estimated from a quick measurement (`jobs/measure.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

SHORTEST_BATCH_S = 120.0
"""Seconds of sound beside the longest file, below which nothing is measured: a second worker couldn't pay."""

_LEAST_SAVED_S = 10.0
_LEAST_SAVED_SHARE = 0.15
_SHARE_OF_MEMORY = 0.5

_SMALL_BYTES, _FULL_BYTES = 600 * 10**6, 2 * 10**9
"""Peak memory of a worker with a starter voice, and with a full-size one (docs/performance.md)."""

_FULL_WORK = 5.0
"""Work of a full-size voice for a second of sound, in a starter voice's (the costs in docs/performance.md)."""

_FULL_LOSS = 0.25
"""Of what more threads lose with a starter voice a full-size one loses this much: its networks keep two cores busy 1.95
of 2, a starter's 1.71 (docs/performance.md)."""

_FULL_START = 2.0
"""A full-size voice's networks take about twice as long to import and load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is to be done."""

    files: int
    audio_s: float
    """Of all files, estimated."""
    longest_s: float
    """Of the longest."""
    full_size: bool
    """Whether the voice is as large as RVC's; else as a starter voice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where."""

    cores: int
    gpus: int
    """CUDA devices that the batch may use."""
    on_cpu: bool
    """Whether the processor computes."""
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What was measured, with a starter voice."""

    seconds: tuple[tuple[int, float], ...]
    """(threads, seconds for a second of sound) of a process alone; the first is of one thread."""
    crowding: float
    """How many times as long a thread takes when every core has one at work."""
    start_s: float
    """Until a process has its networks loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What is picked."""

    workers: int
    threads: int | None
    """Of each; None leaves it to the process."""
    reason: str


def settled(load: Load, machine: Machine) -> Choice | None:
    """The choice where nothing needs to be measured, else None."""
    if load.files < 2:
        return Choice(workers=1, threads=None, reason="one file")
    if machine.gpus > 1:
        workers = min(machine.gpus, load.files)
        return Choice(workers=workers, threads=None, reason=f"a worker for each of {workers} GPUs")
    if not machine.on_cpu:
        return Choice(workers=1, threads=None, reason="one GPU")
    if machine.cores < 2:
        return Choice(workers=1, threads=None, reason="one core")
    beside_s = load.audio_s - load.longest_s
    if beside_s < SHORTEST_BATCH_S:
        why = f"about {beside_s:.0f} s of sound beside the longest file are too little for a second worker to pay"
        return Choice(workers=1, threads=None, reason=why)
    if _most_workers(load, machine) < 2:
        why = f"{_gb(machine.free_bytes)} of free memory are too little for two workers of {_gb(_worker_bytes(load))}"
        return Choice(workers=1, threads=None, reason=why)
    return None


def choose(load: Load, machine: Machine, speed: Speed) -> Choice:
    """Pick workers and threads by the estimated time of the whole batch.

    Another division than one process with all cores is picked only if it saves at least 10 s and 15 %.

    Args:
        load: what is to be done.
        machine: where.
        speed: measured there.
    """
    usual = _estimate_s(load, speed, 1, machine.cores)
    ways = [(_estimate_s(load, speed, workers, threads), workers, threads) for workers, threads in _ways(load, machine)]
    best_s, workers, threads = min(ways)
    told = f"about {_words_s(best_s)}, where one process with {machine.cores} threads would take {_words_s(usual)}"
    if usual - best_s >= max(_LEAST_SAVED_S, _LEAST_SAVED_SHARE * usual):
        return Choice(workers=workers, threads=threads, reason=told)
    why = f"about {_words_s(usual)}; {workers} with {threads} would take {_words_s(best_s)}, too little less"
    return Choice(workers=1, threads=machine.cores, reason=why if workers > 1 else f"about {_words_s(usual)}")


def _ways(load: Load, machine: Machine) -> Iterator[tuple[int, int]]:
    """(workers, threads of each) that use no more cores than there are."""
    for workers in range(1, _most_workers(load, machine) + 1):
        yield workers, machine.cores // workers
    yield 1, 1


def _most_workers(load: Load, machine: Machine) -> int:
    by_memory = int(_SHARE_OF_MEMORY * machine.free_bytes) // _worker_bytes(load)
    return max(1, min(load.files, machine.cores, by_memory))


def _estimate_s(load: Load, speed: Speed, workers: int, threads: int) -> float:
    """Seconds until the last worker is done: each gets an equal part, but a file isn't divided."""
    one_s = speed.seconds[0][1]
    loss = max(0.0, threads * _seconds_with(speed, threads) / one_s - 1.0)
    rate = one_s / threads * (1.0 + loss * (_FULL_LOSS if load.full_size else 1.0))
    if load.full_size:
        rate *= _FULL_WORK
    slower = 1.0 if workers == 1 else speed.crowding
    start_s = speed.start_s * (_FULL_START if load.full_size else 1.0)
    return slower * (start_s + rate * max(load.audio_s / workers, load.longest_s))


def _seconds_with(speed: Speed, threads: int) -> float:
    """Seconds for a second of sound; between numbers of threads that were measured as with the next smaller one."""
    return [seconds for count, seconds in speed.seconds if count <= threads][-1]


def _worker_bytes(load: Load) -> int:
    return _FULL_BYTES if load.full_size else _SMALL_BYTES


def _words_s(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
