"""The quick measurement behind `jobs/tuning.py`, and its cache.

A process of its own converts two seconds with the starter voice, with one thread and with several, so that this one
needs no torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import multiprocessing
import os
import platform
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from menura import __version__
from menura.audio.remote import size_bytes
from menura.jobs.tuning import Choice, Load, Machine, Speed, choose, settled
from menura.options import BatchOptions, ConversionOptions, EngineOptions
from menura.system.device import cuda_devices, physical_cores
from menura.system.memory import available_memory_bytes
from menura.system.processes import deaf_to_interrupts
from menura.types import Place
from menura.voices.assets import home_folder
from menura.voices.library import find_voice

_FILE_NAME = "speed.json"
_LOADING_S = 60.0
_MEASURING_S = 10.0
"""At most; a second or two on a machine with nothing else to do."""
_PROBE_S = 2
_ENOUGH_S = 0.4
_BUSY = 0.5
"""Of the cores: with more than this at work for others a measurement would say nothing."""

_SAMPLED_FILES = 8
_USUAL_BYTES_A_SECOND = 96_000
"""Where no file could be looked into: mono at 48 kHz and 16 bits."""


def speed_file(home: Path) -> Path:
    """Where the measurement is kept; it can be removed at any time."""
    return home / "cache" / _FILE_NAME


def divide_batch(
    sources: Sequence[Place], options: ConversionOptions, engine: EngineOptions, batch: BatchOptions
) -> Choice:
    """How a batch is divided on this machine: as asked for, else by the numbers.

    Args:
        sources: the recordings.
        options: what is asked for.
        engine: asked for, too.
        batch: `workers`, if they were asked for.
    """
    if batch.workers is not None or engine.threads is not None:
        return Choice(workers=min(batch.workers or 1, max(1, len(sources))), threads=engine.threads, reason="asked for")
    home = home_folder(engine.home)
    gpus = cuda_devices() if engine.device in ("auto", "cuda") else 0
    apple = sys.platform == "darwin" and platform.machine() == "arm64"
    machine = Machine(
        cores=physical_cores(),
        gpus=gpus,
        on_cpu=engine.device == "cpu" or (engine.device == "auto" and not gpus and not apple),
        free_bytes=available_memory_bytes(),
    )
    audio_s, longest_s = _estimated_audio_s(sources) if len(sources) > 1 and machine.cores > 1 else (0.0, 0.0)
    full_size = not find_voice(options.voice, home).builtin
    load = Load(files=len(sources), audio_s=audio_s, longest_s=longest_s, full_size=full_size)
    choice = settled(load, machine)
    if choice is not None:
        return choice
    speed = _kept(home)
    if speed is None and hasattr(os, "getloadavg") and os.getloadavg()[0] > _BUSY * machine.cores:
        return Choice(
            workers=1, threads=None, reason="nothing was measured, because the cores are busy with other work"
        )
    speed = speed or _measured_now(home, machine.cores)
    if speed is None:
        return Choice(workers=1, threads=None, reason="the quick measurement didn't succeed")
    return choose(load, machine, speed)


def _estimated_audio_s(sources: Sequence[Place]) -> tuple[float, float]:
    """Seconds of all and of the longest, by their sizes and the headers of a few."""
    sizes = {source: size_bytes(source) for source in sources}
    ordered = sorted((source for source in sizes if isinstance(source, Path)), key=sizes.__getitem__)
    count = min(_SAMPLED_FILES, len(ordered))
    sample = [ordered[(2 * n + 1) * len(ordered) // (2 * count)] for n in range(count)]
    bytes_read, seconds = 0, 0.0
    for source in sample:
        duration_s = _duration_s(source)
        if duration_s:
            bytes_read, seconds = bytes_read + sizes[source], seconds + duration_s
    rate = bytes_read / seconds if seconds else _USUAL_BYTES_A_SECOND
    return sum(sizes.values()) / rate, max(sizes.values()) / rate


def _duration_s(source: Path) -> float:
    import soundfile

    try:
        return float(soundfile.info(str(source)).duration)
    except (soundfile.LibsndfileError, OSError):
        return 0.0


def kept_in_words(home: Path) -> str:
    """What is known of this machine's speed."""
    speed = _kept(home)
    if speed is None:
        return "not measured yet; done once, before the first batch that could gain from several workers"
    passes = ", ".join(f"{seconds:.2f} s with {count}" for count, seconds in speed.seconds)
    return f"for a second of sound {passes} threads; {speed.crowding:.2f} times as long with all cores at work"


def clean_speed(home: Path) -> int:
    """Remove the measurement: bytes freed. Raises OSError."""
    file = speed_file(home)
    size = file.stat().st_size if file.is_file() else 0
    file.unlink(missing_ok=True)
    return size


def _machine_key() -> str:
    """Changes with the machine, the cores that may be used, Menura, torch and the kernels."""
    from menura import kernels

    libraries = sorted(Path(kernels.__file__).parent.glob("*menura_kernels.*"))
    stamps = [f"{file.name}:{file.stat().st_mtime_ns}" for file in libraries]
    facts = [platform.node(), platform.machine(), str(physical_cores()), str(os.cpu_count()), __version__]
    switches = [os.environ.get(name, "") for name in ("MENURA_KERNELS", "MENURA_LINEAR")]
    return "|".join([*facts, importlib.metadata.version("torch"), *switches, *stamps])


def _kept(home: Path) -> Speed | None:
    try:
        fields = json.loads(speed_file(home).read_text(encoding="utf-8"))
        if fields["machine"] != _machine_key():
            return None
        pairs = tuple((int(threads), float(seconds)) for threads, seconds in fields["seconds"])
        speed = Speed(seconds=pairs, crowding=float(fields["crowding"]), start_s=float(fields["start_s"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return speed if pairs and pairs[0][0] == 1 and min(seconds for _, seconds in pairs) > 0 else None


def _keep(home: Path, speed: Speed) -> None:
    """A folder that can't be written is no error: it is measured anew."""
    file = speed_file(home)
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f".{file.name}.{os.getpid()}")
        unfinished.write_text(json.dumps({"machine": _machine_key(), **dataclasses.asdict(speed)}), encoding="utf-8")
        unfinished.replace(file)


def _measured_now(home: Path, cores: int) -> Speed | None:
    """Measure, and keep the result; None if it came to nothing."""
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_probe, args=(theirs, cores), name="menura-measure", daemon=True)
    start = time.perf_counter()
    with deaf_to_interrupts():
        process.start()
    theirs.close()
    try:
        if not pipe.poll(_LOADING_S):
            return None
        pipe.recv()
        start_s = time.perf_counter() - start
        if not pipe.poll(_MEASURING_S):
            return None
        seconds, crowding = pipe.recv()
    except (EOFError, OSError):
        return None
    finally:
        process.kill()
        process.join()
        pipe.close()
    speed = Speed(seconds=seconds, crowding=crowding, start_s=start_s)
    _keep(home, speed)
    return speed


def _probe(pipe: Connection, cores: int) -> None:
    """The measuring process; what is most telling comes first."""
    import soundfile
    import torch

    from menura.converter import Converter

    clip = Path(__file__).resolve().parent.parent / "assets" / "demo" / "librivox_0870.flac"
    samples, rate = soundfile.read(clip, dtype="float32", frames=_PROBE_S * 16_000)
    converter, options = Converter(EngineOptions(device="cpu", threads=1)), ConversionOptions()
    converter.preload(options)
    converter.array(samples, rate, options)  # the first pass prepares kernels, as a worker's first file does
    pipe.send(None)  # loaded
    seconds = []
    for threads in sorted({1, cores, *(count for count in (4, 16) if count < cores)}):
        torch.set_num_threads(threads)
        best_s, spent_s = float("inf"), 0.0
        while spent_s < _ENOUGH_S:
            start = time.perf_counter()
            converter.array(samples, rate, options)
            best_s = min(best_s, time.perf_counter() - start)
            spent_s += time.perf_counter() - start
        seconds.append((threads, best_s / _PROBE_S))
    pipe.send((tuple(seconds), _crowding(cores)))


def _crowding(cores: int) -> float:
    """How many times as long a matrix product takes when every core is at one; they need no Python meanwhile."""
    import torch

    torch.set_num_threads(1)
    inputs, weights = torch.ones(256, 768), torch.ones(768, 3072)

    def product_s(limit_s: float) -> float:
        count, start = 0, time.perf_counter()
        while (spent_s := time.perf_counter() - start) < limit_s or not count:
            torch.mm(inputs, weights)
            count += 1
        return spent_s / count

    product_s(0.02)
    alone_s = product_s(0.1)
    together: list[float] = []
    threads = [threading.Thread(target=lambda: together.append(product_s(0.15))) for _ in range(cores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(1.0, sum(together) / len(together) / alone_s)
