"""The decoder alone, and then the other networks, by every means there is, in turn in one process.

python -m benchmarks.kernels [--threads N ...] [--voice FILE] [--rounds N] [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.full_size import full_size_voice
from benchmarks.layers import CHANNELS_LAST, EAGER, LayerRow, measure_layers
from benchmarks.networks import ONEDNN, TORCH, AnalysisSizes, NetworkRow, Turns, measure_networks
from benchmarks.onnx import ONNX, decoder_session, export_decoder, why_not
from benchmarks.turns import take_turns
from menura.bench.conversion import sgemm_gflops, this_machine
from menura.checkpoints.voice import LoadedVoice, build_synthesizer, load_voice
from menura.cli.bench import about_lines
from menura.cli.terminal import table
from menura.kernels.library import PATHS, KernelLibrary, kernel_status, load_library
from menura.kernels.linear import onednn_works
from menura.kernels.selftest import kernels_in_words, trusted_kernels
from menura.kernels.voice import NativeVoice
from menura.models.synthesizer import Synthesizer
from menura.models.vocoders import HifiGan
from menura.system.device import flushed_denormals, physical_cores
from menura.units import FRAME_RATE_HZ

CONTEXT_FRAMES = 20
"""What the engine gives on each side."""
_F0_HZ = 220.0
_CPU = torch.device("cpu")

Variant = Callable[[], Tensor]
"""Gives the core's samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRequest:
    """What to measure."""

    threads: tuple[int, ...]
    seconds: float
    rounds: int
    voice: Path | None = None
    """A voice's weights; None is a full-size v2 40k voice of seeded weights."""
    sizes: AnalysisSizes = field(default_factory=AnalysisSizes)
    """Of the networks that aren't the voice's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderRow:
    """The whole decoder by one means, with one number of threads."""

    variant: str
    threads: int
    best_ms: float
    """For a second of audio."""
    median_ms: float
    times_eager: float
    """How many times as fast as torch eager in the same turns, best by best."""
    busy_cores: float
    """Processor time by wall time."""
    largest_error: float
    """Against float64, of full scale 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelAnswer:
    """What was measured."""

    machine: dict[str, Any]
    decoder_of: str
    seconds: float
    rounds: int
    sgemm_gflops: dict[int, float]
    """By threads."""
    decoder: tuple[DecoderRow, ...]
    layers: tuple[LayerRow, ...]
    networks: tuple[NetworkRow, ...]
    missing: tuple[str, ...]
    """What could not be measured, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """What is decoded: some frames, with context on both sides."""

    z: Tensor
    """(1, channels, frames)"""
    g: Tensor
    source: Tensor | None
    """(1, 1, samples)"""
    core: tuple[int, int]
    """The frames whose sound is wanted."""

    def narrowed(self, context_frames: int, frame_samples: int) -> Latent:
        """With that much context only."""
        start, stop = self.core[0] - context_frames, self.core[1] + context_frames
        source = None if self.source is None else self.source[..., start * frame_samples : stop * frame_samples]
        core = (context_frames, context_frames + self.core[1] - self.core[0])
        return Latent(z=self.z[..., start:stop], g=self.g, source=source, core=core)


def measure_kernels(request: KernelRequest) -> KernelAnswer:
    """Measure every variant that there is.

    Raises:
        MenuraError: the voice can't be read.
    """
    with flushed_denormals():
        return _measured(request)


def _measured(request: KernelRequest) -> KernelAnswer:
    voice = full_size_voice() if request.voice is None else load_voice(request.voice)
    network = build_synthesizer(voice)
    latent = _latent(network, request.seconds)
    wanted = _reference(voice, latent)
    libraries = _libraries()
    compiled = _compiled(voice, libraries)
    variants = _torch_variants(network, latent)
    if isinstance(network.dec, HifiGan):  # other vocoders have no kernels
        variants |= {name: _tiled(native, latent) for name, native in compiled.items()}
    missing = [] if libraries else [f"kernels: {kernels_in_words()}"]
    missing += [] if onednn_works() else [f"{ONEDNN}: this torch doesn't have it"]
    rows: list[DecoderRow] = []
    layers: list[LayerRow] = []
    sgemm = {}
    with tempfile.TemporaryDirectory(prefix="menura-bench-") as folder:
        exported, why = _exported(network, latent, Path(folder))
        missing += [] if why is None else [f"{ONNX}: {why}"]
        for threads in request.threads:
            torch.set_num_threads(threads)
            sgemm[threads] = sgemm_gflops(_CPU)
            more = {} if exported is None else {ONNX: exported(threads)}
            rows += _decoder_rows(variants | more, wanted, threads, request)
            if isinstance(network.dec, HifiGan):
                layers += measure_layers(network.dec, libraries, threads, request.seconds, request.rounds)
    turns = Turns(threads=request.threads, seconds=request.seconds, rounds=request.rounds)
    networks = measure_networks({TORCH: network, **compiled}, request.sizes, libraries, turns)
    return KernelAnswer(
        machine=this_machine(_CPU, max(request.threads)),
        decoder_of="full-size v2 40k, seeded weights" if request.voice is None else str(request.voice),
        seconds=request.seconds,
        rounds=request.rounds,
        sgemm_gflops=sgemm,
        decoder=tuple(rows),
        layers=tuple(layers),
        networks=tuple(networks),
        missing=tuple(missing),
    )


def _latent(network: Synthesizer, seconds: float) -> Latent:
    """A random latent and the excitation of a steady voice."""
    random = torch.Generator().manual_seed(0)
    core_frames = round(FRAME_RATE_HZ * seconds)
    context = max(CONTEXT_FRAMES, network.decode_context_frames)
    frames, config = core_frames + 2 * context, network.config
    source = None
    if config.has_f0:
        phase, f0_hz = torch.zeros(1, dtype=torch.float64), torch.full((1, frames), _F0_HZ)
        noise = torch.randn(1, frames * config.frame_samples, generator=random)
        source = network.source(f0_hz, phase, noise, 1.0)
    return Latent(
        z=torch.randn(1, config.inter_channels, frames, generator=random),
        g=network.condition(torch.tensor([0])),
        source=source,
        core=(context, context + core_frames),
    )


def _libraries() -> dict[str, KernelLibrary]:
    """Every path that this processor has, by its variant's name; none where the kernels are off or not trusted."""
    if trusted_kernels() is None:
        return {}
    best = kernel_status().library
    found = [] if best is None else [load_library(best.file, path).library for path in PATHS]
    return {f"kernels {PATHS[library.path]}": library for library in found if library is not None}


def _torch_variants(network: Synthesizer, latent: Latent) -> dict[str, Variant]:
    hop, context = network.config.frame_samples, network.decode_context_frames
    window = latent.narrowed(context, hop)

    def eager() -> Tensor:
        # Without gradients the network chooses the channels-last form by itself; its weights ask for none anyway.
        with torch.enable_grad():
            return network.decode(window.z, window.g, window.source)[:, context * hop : -context * hop]

    return {
        EAGER: eager,
        CHANNELS_LAST: lambda: network.decode_tiled(latent.z, latent.g, latent.source, latent.core),
    }


def _compiled(voice: LoadedVoice, libraries: dict[str, KernelLibrary]) -> dict[str, NativeVoice]:
    """The voice using the kernels, by variant."""
    return {name: NativeVoice(build_synthesizer(voice), library) for name, library in libraries.items()}


def _tiled(voice: NativeVoice, latent: Latent) -> Variant:
    return lambda: voice.decode_tiled(latent.z, latent.g, latent.source, latent.core)


def _exported(network: Synthesizer, latent: Latent, folder: Path) -> tuple[Callable[[int], Variant] | None, str | None]:
    """The decoder in ONNX Runtime by threads, or why not."""
    why = why_not()
    if why is not None:
        return None, why
    hop, context = network.config.frame_samples, network.decode_context_frames
    window = latent.narrowed(context, hop)
    path = folder / "decoder.onnx"
    why = export_decoder(network, window.z, window.g, window.source, path)
    if why is not None:
        return None, why

    def variant(threads: int) -> Variant:
        run = decoder_session(path, window.z, window.source, threads)
        return lambda: run()[:, context * hop : -context * hop]

    return variant, None


def _reference(voice: LoadedVoice, latent: Latent) -> Tensor:
    """The core's samples in float64."""
    network = build_synthesizer(voice).double()
    hop, context = network.config.frame_samples, network.decode_context_frames
    window = latent.narrowed(context, hop)
    source = None if window.source is None else window.source.double()
    with torch.no_grad():
        return network.decode(window.z.double(), window.g.double(), source)[:, context * hop : -context * hop]


def _decoder_rows(
    variants: dict[str, Variant], wanted: Tensor, threads: int, request: KernelRequest
) -> list[DecoderRow]:
    errors = {name: float((run().double() - wanted).abs().max()) for name, run in variants.items()}
    taken = take_turns(variants, request.rounds)
    return [
        DecoderRow(
            variant=name,
            threads=threads,
            best_ms=took.best_s / request.seconds * 1e3,
            median_ms=took.median_s / request.seconds * 1e3,
            times_eager=taken[EAGER].best_s / took.best_s,
            busy_cores=took.busy_cores,
            largest_error=errors[name],
        )
        for name, took in taken.items()
    ]


def tables(answer: KernelAnswer) -> Iterator[str]:
    """What was measured, as lines."""
    document = dataclasses.asdict(answer)
    yield from about_lines(document["machine"])
    yield from _decoder(document)
    yield from _networks(document["networks"])


def _decoder(kernels: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    yield f"decoder of {kernels['decoder_of']}; {kernels['seconds']:g} s, best of {kernels['rounds']}"
    speeds = ", ".join(
        f"{speed:.0f} with {threads} thread{'s' * (int(threads) > 1)}"
        for threads, speed in kernels["sgemm_gflops"].items()
    )
    yield f"sgemm GFLOP/s: {speeds}"
    for line in kernels["missing"]:
        yield f"not measured: {line}"
    yield ""
    header = ("variant", "threads", "best ms per s", "median", "times eager", "busy cores", "largest error")
    yield from table([header, *(_decoder_row(row) for row in kernels["decoder"])], numbers=True)
    layers = kernels["layers"]
    if layers:
        variants = list(layers[0]["best_ms"])
        yield ""
        header = ("layer, ms per audio s", "threads", "GFLOP", *variants)
        yield from table([header, *(_layer_row(row) for row in layers)], numbers=True)


def _decoder_row(row: Mapping[str, Any]) -> Sequence[str]:
    return (
        row["variant"],
        str(row["threads"]),
        f"{row['best_ms']:.1f}",
        f"{row['median_ms']:.1f}",
        f"{row['times_eager']:.2f}",
        f"{row['busy_cores']:.2f}",
        f"{row['largest_error']:.1e}",
    )


def _layer_row(row: Mapping[str, Any]) -> Sequence[str]:
    eager = next(iter(row["best_ms"].values()))
    times = [f"{ms:.2f} ({eager / ms:.1f}x)" for ms in row["best_ms"].values()]
    return (row["layer"], str(row["threads"]), f"{row['gflop']:.2f}", *times)


def _networks(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield ""
    header = ("network", "variant", "threads", "best ms per s", "of torch's", "largest difference")
    yield from table([header, *(_network_row(row) for row in rows)], numbers=True)


def _network_row(row: Mapping[str, Any]) -> Sequence[str]:
    return (
        row["network"],
        row["variant"],
        str(row["threads"]),
        f"{row['best_ms']:.2f}",
        f"{row['of_torch']:.2f}",
        f"{row['largest_difference']:.1e}",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", help="default: 1, and the physical cores")
    parser.add_argument("--voice", type=Path, help="weights; default: a full-size v2 40k voice of seeded ones")
    parser.add_argument("--rounds", type=int, help="default: 5")
    parser.add_argument("--quick", action="store_true", help="half a second of sound in 2 rounds instead of 4 s in 5")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON as well")
    given = parser.parse_args(arguments)
    answer = measure_kernels(
        KernelRequest(
            threads=tuple(given.threads or sorted({1, physical_cores()})),
            seconds=0.5 if given.quick else 4.0,
            rounds=given.rounds or (2 if given.quick else 5),
            voice=given.voice,
        )
    )
    print("\n".join(tables(answer)))
    if given.json is not None:
        given.json.write_text(json.dumps(dataclasses.asdict(answer), indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
