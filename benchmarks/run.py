"""Speed, memory and cold start, comparable between machines by work-normalised cost.

    python benchmarks/run.py [--suite NAME ...] [--json FILE]

Cost = wall seconds x measured sgemm GFLOP/s / audio seconds; sgemm is `torch.mm` of two fp32 2048 x 2048 matrices with
the run's threads, the best of ten, taken before and after in the same process. Every suite has a process of its own.
The full-size voice has RVC's real v2 40k layout with seeded weights (as have ContentVec and RMVPE), made in a cache
folder at the first run; the starter voice is the one in the package. Input is the bundled recording, looped and varied.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile as sf

SUITES = ("full-batch12", "full-five-minutes", "full-5s-warm", "starter-batch12", "starter-five-minutes",
          "memory-1min", "memory-3min", "memory-10min", "memory-30min", "memory-3h", "full-memory-1min",
          "full-memory-10min", "cold-start")  # fmt: skip
LONG_SUITES = ("memory-30min", "memory-3h")
"""Only run when they are asked for by name."""
CACHE = Path(os.environ.get("MENURA_BENCH_CACHE", Path(tempfile.gettempdir()) / "menura-bench"))
ROOT = Path(__file__).resolve().parent.parent
CLIP = ROOT / "src" / "menura" / "assets" / "demo" / "librivox_0870.flac"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One suite's figures."""

    suite: str
    audio_s: float
    wall_s: float
    sgemm_gflops: float
    cost: float
    real_time_factor: float
    peak_memory_mb: float
    stages: dict[str, float]
    threads: int
    busy_cores: float
    """Processor time by wall time: with less than the threads, the machine was shared or threads waited."""


def speech(seconds: float, seed: int, path: Path) -> Path:
    """A recording of real speech of that length: the bundled clip, looped at changing speed and level."""
    if path.exists():
        return path
    clip, rate = sf.read(CLIP, dtype="float32")
    rng, missing = np.random.default_rng(seed), int(seconds * rate)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with sf.SoundFile(part, "w", rate, 1, format="WAV") as file:
        while missing > 0:  # piece by piece: a long recording held here would be taken for the engine's memory
            speed, level, begin = rng.uniform(0.9, 1.1), rng.uniform(0.5, 1.0), int(rng.integers(0, len(clip) // 2))
            piece = clip[begin:]
            at = np.arange(0, len(piece) - 1, speed)
            varied = np.interp(at, np.arange(len(piece)), piece)[:missing] * level
            file.write(varied.astype(np.float32))
            missing -= len(varied)
    part.replace(path)
    return path


def inputs(suite: str) -> list[Path]:
    """The recordings of a suite."""
    folder = CACHE / "inputs"
    if suite.endswith("batch12"):
        return [speech(5, k, folder / f"five-{k}.wav") for k in range(12)]
    seconds = {"five-minutes": 300, "5s-warm": 5, "memory-1min": 60, "memory-3min": 180}
    seconds |= {"memory-10min": 600, "memory-30min": 1800, "memory-3h": 10_800}
    length = next(s for name, s in seconds.items() if suite.endswith(name))
    return [speech(length, 99, folder / f"long-{length}.wav")]


def sgemm_gflops() -> float:
    """Peak of fp32 matrix products with the current threads."""
    import torch

    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * 2048**3 / best / 1e9


def measure(suite: str, threads: int) -> Measurement:
    """Run one suite in this process."""
    from menura import ConversionOptions, Converter, EngineOptions

    full = suite.startswith("full-")
    home = full_size_home() if full else None
    converter = Converter(EngineOptions(threads=threads, home=home))
    options = ConversionOptions()
    if full:
        index = CACHE / "home" / "voices" / "bench" / "bench.index"
        options = ConversionOptions(voice="bench", f0="rmvpe", index=index, index_rate=0.75)
    files = inputs(suite)
    with tempfile.TemporaryDirectory() as folder:
        items = [(path, Path(folder) / path.name) for path in files]
        converter.preload(options)
        if suite.endswith("warm"):
            converter.convert_files(items, options)
        before = sgemm_gflops()
        cpu_s = time.process_time()
        report = converter.convert_files(items, options)
        cpu_s = time.process_time() - cpu_s
        sgemm = max(before, sgemm_gflops())
    if report.failed:
        raise SystemExit(f"{suite}: {report.failed[0].error}")
    audio = sum(f.audio_s for f in report.files)
    stages: dict[str, float] = {}
    for file in report.files:
        for stage, seconds in asdict(file.stages).items():
            stages[stage] = stages.get(stage, 0.0) + seconds
    return Measurement(
        suite=suite,
        audio_s=audio,
        wall_s=report.wall_s,
        sgemm_gflops=sgemm,
        cost=report.wall_s * sgemm / audio,
        real_time_factor=report.wall_s / audio,
        peak_memory_mb=report.peak_memory_mb,
        stages=stages,
        threads=threads,
        busy_cores=cpu_s / report.wall_s,
    )


def cold_start(threads: int) -> Measurement:
    """The command line on one 5 s file with the starter voice, from process start to exit."""
    (source,) = inputs("full-5s-warm")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "menura", "convert", str(source), "-o", f"{folder}/out.wav", "--json"]
        start, begun = time.perf_counter(), os.times()
        done = subprocess.run([*command, "--threads", str(threads)], capture_output=True, text=True, check=True)
        wall, ended = time.perf_counter() - start, os.times()
    cpu_s = ended.children_user + ended.children_system - begun.children_user - begun.children_system
    peak = json.loads(done.stdout)["peak_memory_mb"]
    sgemm = sgemm_gflops()
    return Measurement(
        suite="cold-start",
        audio_s=5.0,
        wall_s=wall,
        sgemm_gflops=sgemm,
        cost=wall * sgemm / 5,
        real_time_factor=wall / 5,
        peak_memory_mb=peak,
        stages={},
        threads=threads,
        busy_cores=cpu_s / wall,
    )


def full_size_home() -> Path:
    """A data folder with a full-size voice, ContentVec and RMVPE of seeded weights, and an index of 30 000 vectors."""
    sys.path.insert(0, str(ROOT / "tests"))
    from support.full_size import make_home

    return make_home(CACHE / "home")


def print_table(rows: list[Measurement]) -> None:
    """Figures by suite, and each stage's share of the wall time."""
    print("| suite | audio s | wall s | real-time factor | sgemm GFLOP/s | cost | peak MB | busy cores |")
    print("|---|---|---|---|---|---|---|---|")
    for r in rows:
        print(
            f"| {r.suite} | {r.audio_s:.0f} | {r.wall_s:.1f} | {r.real_time_factor:.3f} | {r.sgemm_gflops:.0f} "
            f"| {r.cost:.0f} | {r.peak_memory_mb:.0f} | {r.busy_cores:.2f} |"
        )
    for r in rows:
        shares = ", ".join(f"{k.removesuffix('_s')} {v * r.sgemm_gflops / r.audio_s:.1f}" for k, v in r.stages.items())
        if shares:
            print(f"\n{r.suite}, cost by stage: {shares}")


def main() -> None:
    """Run the suites asked for, each in a fresh process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--suite", nargs="+", choices=SUITES, default=[name for name in SUITES if name not in LONG_SUITES]
    )
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        (suite,) = arguments.suite
        row = cold_start(arguments.threads) if suite == "cold-start" else measure(suite, arguments.threads)
        print(json.dumps(asdict(row)))
        return
    rows = []
    for suite in arguments.suite:
        command = [sys.executable, __file__, "--child", "--suite", suite, "--threads", str(arguments.threads)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(Measurement(**json.loads(done.stdout.splitlines()[-1])))
    print_table(rows)
    if arguments.json:
        about = {"python": platform.python_version(), "machine": platform.machine(), "system": platform.platform()}
        arguments.json.write_text(json.dumps({"about": about, "suites": [asdict(r) for r in rows]}, indent=1))


if __name__ == "__main__":
    main()
