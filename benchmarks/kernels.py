"""The decoder of a full-size v2 40k voice: compiled kernels against torch, in one process.

    python benchmarks/kernels.py [--threads N] [--seconds S] [--json FILE]

Seeded weights, S seconds of latent with the context that the engine gives it. Each row is the best and the median of
several runs, taken in turns so that all see the same machine; errors are against float64, of full scale 1.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from run import full_size_home, sgemm_gflops
from torch import Tensor

from menura.checkpoints.rvc import load_voice
from menura.checkpoints.voice import build_synthesizer
from menura.kernels.library import KernelLibrary, kernel_status, load_library
from menura.models.synthesizer import Synthesizer

CONTEXT_FRAMES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One variant."""

    variant: str
    threads: int
    best_ms: float
    """For a second of audio."""
    median_ms: float
    largest_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What is decoded."""

    z: Tensor
    g: Tensor
    source: Tensor
    core: tuple[int, int]


def make_inputs(net: Synthesizer, seconds: float) -> Inputs:
    """A random latent and the excitation of a steady voice."""
    torch.manual_seed(0)
    core_frames = round(100 * seconds)
    frames, hop = core_frames + 2 * CONTEXT_FRAMES, net.config.frame_samples
    with torch.inference_mode():
        phase, f0_hz = torch.zeros(1, dtype=torch.float64), torch.full((1, frames), 220.0)
        return Inputs(
            z=torch.randn(1, net.config.inter_channels, frames),
            g=net.condition(torch.tensor([0])),
            source=net.source(f0_hz, phase, torch.randn(1, frames * hop), 1.0),
            core=(CONTEXT_FRAMES, CONTEXT_FRAMES + core_frames),
        )


def libraries() -> dict[str, KernelLibrary]:
    """Every path that this processor has."""
    best = kernel_status().library
    found = [] if best is None else [load_library(best.file, path).library for path in ("avx2", "avx512")]
    return {library.path_name: library for library in found if library is not None}


def variants(net: Synthesizer, x: Inputs) -> dict[str, Callable[[], Tensor]]:
    """Each gives the core's samples."""
    hop, (start, stop) = net.config.frame_samples, x.core

    def eager() -> Tensor:
        context = net.decode_context_frames
        z = x.z[..., start - context : stop + context]
        source = x.source[..., (start - context) * hop : (stop + context) * hop]
        return net.decode(z, x.g, source)[:, context * hop : -context * hop]

    def tiled(library: KernelLibrary | None, packed: dict[str, object]) -> Callable[[], Tensor]:
        net.use_kernels(library)
        packed["decoder"] = net.dec._native

        def run() -> Tensor:
            net.dec._native = packed["decoder"]
            return net.decode_tiled(x.z, x.g, x.source, x.core)

        return run

    chosen: dict[str, Callable[[], Tensor]] = {"torch eager": eager, "torch channels-last, tiles": tiled(None, {})}
    return chosen | {f"kernels {name}": tiled(library, {}) for name, library in libraries().items()}


def reference(net: Synthesizer, x: Inputs) -> Tensor:
    """The same in float64."""
    hop = net.config.frame_samples
    whole = net.double().decode(x.z.double(), x.g.double(), x.source.double())
    net.float()
    return whole[:, x.core[0] * hop : x.core[1] * hop]


def measure(net: Synthesizer, seconds: float, threads: int, rounds: int) -> list[Row]:
    """All variants, taken in turns."""
    torch.set_num_threads(threads)
    x = make_inputs(net, seconds)
    wanted = reference(net, x)
    runs = variants(net, x)
    errors = {name: float((run().double() - wanted).abs().max()) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            begun = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - begun) / seconds * 1e3)
    return [
        Row(
            variant=name,
            threads=threads,
            best_ms=min(taken),
            median_ms=statistics.median(taken),
            largest_error=errors[name],
        )
        for name, taken in times.items()
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, min(2, os.cpu_count() or 1)}))
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    net = build_synthesizer(load_voice(full_size_home() / "voices" / "bench" / "bench.pth"))
    rows: list[Row] = []
    print("| variant | threads | best ms per audio s | median | largest error | times torch eager |")
    print("|---|---|---|---|---|---|")
    with torch.inference_mode():
        for threads in arguments.threads:
            made = measure(net, arguments.seconds, threads, arguments.rounds)
            rows += made
            for r in made:
                print(
                    f"| {r.variant} | {r.threads} | {r.best_ms:.0f} | {r.median_ms:.0f} | {r.largest_error:.1e} "
                    f"| {made[0].best_ms / r.best_ms:.2f} |"
                )
            print(f"\nsgemm {sgemm_gflops():.0f} GFLOP/s with {threads} threads\n")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(r) for r in rows], indent=1))


if __name__ == "__main__":
    main()
