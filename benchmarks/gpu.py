"""What a GPU does with Menura, in about eight minutes: is it right, how fast, in how much memory, and what fails how.

    python -m benchmarks.gpu [--device DEVICE] [--json FILE] [--step NAME ...] [--quick]

Needs no network: voices are the starter voice and the full-size one of `benchmarks.full_size`, which is made meanwhile.
Each step has a time limit, and what it finds is added to FILE's `.log`, a line of JSON each, at once; FILE has it all
in the end. What fails is a finding too. `--quick` shortens all of it, for any device: to see that everything runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_networks, gpu_training
from benchmarks.full_size import VOICE_NAME, make_home
from benchmarks.gpu_tools import Bench, Facts, failing, held, memory_limit, memory_of, patched, seconds_of
from menura.bench.conversion import this_machine
from menura.bench.suites import recordings
from menura.checkpoints.voice import load_voice, save_voice
from menura.converter import Converter
from menura.models.synthesizer import Synthesizer
from menura.options import ConversionOptions
from menura.system.device import resolve_device
from menura.system.files import temporary_folder
from menura.system.processes import spawn
from menura.types import Progress, State
from menura.voices.assets import cache_folder, home_folder
from menura.voices.library import find_voice

_TOTAL_S = 480.0
_FILES = 20
"""Different ones among the many of a batch."""


def facts(bench: Bench) -> Facts:
    """What is there, and whether the smallest convolution works in every precision."""
    device = bench.target
    yield "machine", this_machine(device, torch.get_num_threads())
    cudnn: Any = torch.backends.cudnn
    yield "torch", {"cuda": torch.version.cuda, "cudnn": cudnn.version(), "tf32_convolutions": cudnn.allow_tf32}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        free_bytes, total_bytes = torch.cuda.mem_get_info(device)
        major, minor = torch.cuda.get_device_capability(device)
        sizes = {"free_mb": free_bytes / 2**20, "total_mb": total_bytes / 2**20}
        yield "gpu", {"name": properties.name, "capability": f"{major}.{minor}", **sizes}
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        x, weight = (torch.ones(shape, dtype=dtype, device=device) for shape in ((1, 64, 1000), (64, 64, 3)))
        with failing() as failure:
            failure["seconds"] = seconds_of(partial(torch.conv1d, x, weight), device)
        yield f"convolution, {str(dtype).removeprefix('torch.')}", failure
    yield "auto", {"device": str(resolve_device("auto"))}


def conversions(bench: Bench) -> Facts:
    """Whole conversions of 5 s: the CPU's, twice the device's, and alone against among others."""
    paths = list(recordings(bench.pick(12, 3), bench.pick(5, 2), bench.cache).paths)
    for voice in bench.voices:
        options = dataclasses.replace(bench.options(voice), format="wav", bit_depth=32)
        sounds = []
        for device in ("cpu", bench.device, bench.device):
            with Converter(bench.engine(device)) as converter:
                sounds.append(torch.from_numpy(converter.convert(paths[0], None, options)[0]))
        yield f"{voice}, device and CPU", gpu_networks.difference(sounds[1], sounds[0])
        yield f"{voice}, twice", gpu_networks.difference(sounds[2], sounds[1])
        with Converter(bench.engine()) as converter, temporary_folder() as folder:
            _converted(converter, options, paths, folder)
            together = gpu_networks.read(folder / "000.wav")
        yield f"{voice}, alone and among {len(paths)}", gpu_networks.difference(together, sounds[1])


def speed(bench: Bench) -> Facts:
    """12 x 5 s and 5 minutes, networks loaded and warm; how busy the device is."""
    for voice in bench.voices:
        options = bench.options(voice)
        with Converter(bench.engine()) as converter:
            for count, seconds in bench.pick(((12, 5.0), (1, 300.0)), ((2, 2.0), (1, 3.0))):
                paths = recordings(count, seconds, bench.cache).paths
                _figures(converter, options, paths)
                yield f"{voice}, {count} x {seconds:g} s", _figures(converter, options, paths)
                with failing() as profiled:  # not every driver lets itself be profiled
                    profiled |= _profiled(converter, options, paths)
                yield f"{voice}, {count} x {seconds:g} s, profiled", profiled


def batch(bench: Bench) -> Facts:
    """Many short files, of equal and of different lengths: how many rows a pass of the synthesizer has."""
    count, voice = bench.pick(500, 4), bench.voices[-1]
    equal = recordings(_FILES, bench.pick(5, 1), bench.cache).paths[: bench.pick(_FILES, 2)]
    lengths_s = [bench.pick(3, 1) + number / 4 for number in range(bench.pick(_FILES, 2))]
    mixed = [recordings(1, seconds, bench.cache).paths[0] for seconds in lengths_s]
    for name, sources in (("equal lengths", equal), ("3 to 8 s", mixed)):
        rows: dict[int, int] = {}
        encode = Synthesizer.encode

        def counted(self: Any, content: Any, *rest: Any, rows: Any = rows, encode: Any = encode) -> Any:
            rows[len(content)] = rows.get(len(content), 0) + 1
            return encode(self, content, *rest)

        with Converter(bench.engine()) as converter, temporary_folder() as folder:
            paths = [folder / f"{number:03}.wav" for number in range(count)]
            for number, path in enumerate(paths):
                os.link(sources[number % len(sources)], path)
            converter.preload(bench.options(voice))
            with patched(Synthesizer, "encode", counted):
                figures = _figures(converter, bench.options(voice), paths)
        yield f"{voice}, {count} files, {name}", figures | {"passes_by_rows": dict(sorted(rows.items()))}


def hour(bench: Bench) -> Facts:
    """One long recording: memory is to stay what it is after the first minutes."""
    (path,), every_s = recordings(1, bench.pick(3600.0, 4.0), bench.cache).paths, bench.pick(120.0, 1.0)
    for voice in bench.voices:
        options = dataclasses.replace(bench.options(voice), index_rate=0.0)
        course: list[dict[str, float]] = []

        def watch(progress: Progress, course: list[Any] = course) -> None:
            if progress.audio_done_s >= every_s * (len(course) + 1):
                course.append({"audio_s": progress.audio_done_s, **memory_of(bench.target)})

        with Converter(bench.engine()) as converter:
            yield f"{voice}, {path.parent.name}", _figures(converter, options, [path], watch) | {"course": course}


def survival(bench: Bench) -> Facts:
    """Little memory left: conversions are to finish, voices to be loaded or refused, whatever the libraries say."""
    device, voice = bench.target, bench.voices[-1]
    paths, options = recordings(bench.pick(12, 2), bench.pick(5, 1), bench.cache).paths, bench.options(voice)
    for spare_mb in bench.pick((300, 100, 40), (300,)):
        with Converter(bench.engine()) as converter, failing() as outcome:
            converter.preload(options)
            with memory_limit(device, spare_mb):
                outcome |= _figures(converter, options, paths)
        yield f"{voice}, {spare_mb} MiB beside the weights", outcome
    with Converter(bench.engine()) as converter, temporary_folder() as folder, failing() as outcome:
        converter.preload(options)
        file = find_voice(voice, bench.home).path
        others = [folder / f"voice{number}{file.suffix}" for number in range(bench.pick(3, 1))]
        with memory_limit(device, 50):
            for number, other in enumerate(others, start=1):
                save_voice(other, load_voice(file), dtype="exact")  # whole: starter voices share their weights
                converter.preload(dataclasses.replace(options, voice=str(other), index_rate=0.0))
                outcome["loaded"] = number
    yield f"{len(others)} voices, 50 MiB beside the weights", outcome
    if device.type == "cuda":  # not torch's own limit: what the driver and the libraries say
        for left_mb in (400, 1000):
            with failing() as outcome, held(device, left_mb), Converter(bench.engine()) as converter:
                outcome |= _figures(converter, options, paths)
            yield f"{voice}, {left_mb} MiB free in all", outcome


def _figures(
    converter: Converter,
    options: ConversionOptions,
    paths: Sequence[Path],
    on_progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Of a conversion: what it took, and which files failed how."""
    if converter.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(converter.device)
    with temporary_folder() as folder:
        report = _converted(converter, options, paths, folder, on_progress)
    audio_s = sum(file.audio_s for file in report.files)
    stages = [dataclasses.asdict(file.stages) for file in report.files]
    return {
        "files": len(report.files),
        "failed": sorted({str(file.error) for file in report.files if file.state is State.FAILED}),
        "wall_s": report.wall_s,
        "audio_s": audio_s,
        "times_real_time": audio_s / report.wall_s,
        "stages": {name: sum(stage[name] for stage in stages) for name in stages[0]},
        **memory_of(converter.device),
    }


def _converted(
    converter: Converter,
    options: ConversionOptions,
    paths: Sequence[Path],
    folder: Path,
    on_progress: Callable[[Progress], None] | None = None,
) -> Any:
    items = [(path, folder / f"{number:03}.wav") for number, path in enumerate(paths)]
    return converter.convert_files(items, options, on_progress=on_progress)


def _profiled(converter: Converter, options: ConversionOptions, paths: Sequence[Path]) -> dict[str, Any]:
    """How much of the time kernels run, and how many; profiling takes time itself."""
    on_gpu = converter.device.type == "cuda"
    activity = torch.profiler.ProfilerActivity.CUDA if on_gpu else torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity]) as profile:
        figures = _figures(converter, options, paths)
    wanted = torch.autograd.DeviceType.CUDA if on_gpu else torch.autograd.DeviceType.CPU  # type: ignore[attr-defined]
    kernels = [event.time_range for event in profile.events() if event.device_type == wanted]
    busy_s, end = 0.0, 0.0
    for span in sorted(kernels, key=lambda span: span.start):
        busy_s, end = busy_s + max(0.0, span.end - max(span.start, end)) / 1e6, max(end, span.end)
    took = {name: figures[name] for name in ("wall_s", "audio_s")}
    busy_share, each_s = busy_s / figures["wall_s"], len(kernels) / figures["audio_s"]
    return {**took, "busy_s": busy_s, "busy_share": busy_share, "kernels_an_audio_second": each_s}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A part of the measurement."""

    run: Callable[[Bench], Facts]
    limit_s: float
    needs_voice: bool = True
    """The full-size one, which takes its time to make."""


STEPS: dict[str, Step] = {
    "facts": Step(run=facts, limit_s=40, needs_voice=False),
    "training": Step(run=gpu_training.training, limit_s=110, needs_voice=False),
    "recurrent": Step(run=gpu_networks.recurrent, limit_s=40, needs_voice=False),
    "networks": Step(run=gpu_networks.networks, limit_s=60),
    "conversions": Step(run=conversions, limit_s=80),
    "speed": Step(run=speed, limit_s=80),
    "batch": Step(run=batch, limit_s=100),
    "hour": Step(run=hour, limit_s=120),
    "survival": Step(run=survival, limit_s=60),
    "variants": Step(run=gpu_networks.variants, limit_s=120),
}


def work(pipe: Connection, bench: Bench, steps: dict[str, Step] = STEPS) -> None:
    """Carry out steps by name, and send what they find; None at the end of each."""
    while name := pipe.recv():
        try:
            for what, figures in steps[name].run(bench):
                pipe.send({"what": what, **figures})
        except Exception as error:  # noqa: BLE001  (it is a finding)
            pipe.send({"error": f"{type(error).__name__}: {error}"})
        pipe.send(None)


class Worker:
    """The process that measures, a fresh one after each step that failed: a GPU's errors may stay with a process."""

    def __init__(self, bench: Bench, process: Callable[..., None] = work) -> None:
        self._bench, self._process = bench, process
        self._running: tuple[Any, Connection] | None = None

    def run(self, name: str, limit_s: float) -> Iterator[dict[str, Any]]:
        """What a step finds, as it is found; an `error` where it failed, died or took too long."""
        self._running = process, pipe = self._running or spawn(self._process, self._bench, name="menura-gpu")
        pipe.send(name)
        until_s, finding = time.monotonic() + limit_s, {}
        with suppress(EOFError, ConnectionResetError):
            while pipe.poll(max(0.0, until_s - time.monotonic())):
                if (found := pipe.recv()) is None:
                    if "error" in finding:
                        self.close()
                    return
                finding = found
                yield {"step": name, **finding}
            yield {"step": name, "error": f"not finished after {limit_s:.0f} s"}
            self.close()
            return
        process.join(10)
        yield {"step": name, "error": f"the process ended with exit code {process.exitcode}"}
        self.close()

    def close(self) -> None:
        """End the process."""
        if self._running is not None:
            process, pipe = self._running
            pipe.close()
            process.kill()
            process.join()
            self._running = None


def measured(bench: Bench, names: Sequence[str], log: Path) -> list[dict[str, Any]]:
    """Carry out steps, and log each finding at once."""
    begun_s, found, worker = time.monotonic(), [], Worker(bench)
    making = None if bench.quick else spawn(_make_home, bench.home, name="menura-gpu-voice")
    try:
        for name in names:
            if making and STEPS[name].needs_voice:
                making[0].join()
            left_s = _TOTAL_S - (time.monotonic() - begun_s)
            for finding in worker.run(name, max(1.0, min(STEPS[name].limit_s, left_s))):
                found.append({**finding, "at_s": round(time.monotonic() - begun_s, 1)})
                line = json.dumps(found[-1], default=str)
                print(line, flush=True)
                with log.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
    finally:
        worker.close()
        if making:
            making[0].kill()
    return found


def _make_home(_pipe: Connection, home: Path) -> None:
    make_home(home)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 0 if no step failed as a whole."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--home", type=Path)
    parser.add_argument("--json", type=Path, default=Path("gpu.json"))
    parser.add_argument("--step", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args(arguments)
    home = cache_folder(home_folder(given.home)) / "bench" / "full-size"
    bench = Bench(device=given.device, home=home, quick=given.quick, full_voice=VOICE_NAME)
    found = measured(bench, given.step, given.json.with_suffix(".log"))
    given.json.write_text(json.dumps({"quick": bench.quick, "findings": found}, indent=1, default=str), "utf-8")
    return int(any("error" in finding and "what" not in finding for finding in found))


if __name__ == "__main__":
    from benchmarks.gpu import main as run  # processes find its functions under this name

    sys.exit(run())
