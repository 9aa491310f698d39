"""Single networks on a GPU: against the CPU, beyond cuDNN's limit, and the decoder in variants."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import soundfile
import torch
from torch import Tensor

from benchmarks.full_size import V2_40K, VOICE_RULES
from benchmarks.gpu_tools import Bench, Facts, failing, patched, seconds_of, tf32, wait_for
from benchmarks.recipe import drawn
from menura.bench.suites import recordings
from menura.checkpoints.voice import LoadedVoice, VoiceMetadata, build_synthesizer, expected_shapes, load_voice
from menura.f0.contour import coarse_bins
from menura.loading.loader import Loader, VoiceModels
from menura.loading.request import resolve
from menura.models.rmvpe import N_MELS, Rmvpe, RmvpeConfig
from menura.models.synthesizer import Synthesizer
from menura.units import FRAME_RATE_HZ
from menura.voices.library import find_voice

_REACH_FRAMES = 500
_F0_HZ = 200.0
_CUDNN_STEPS = 65_535
"""Beyond these cuDNN refuses a recurrent layer."""

_Run = Callable[[], Tensor]


def difference(made: Tensor, wanted: Tensor) -> dict[str, float]:
    """The largest, and the power of all relative to what is wanted, in dB: -300 where they are equal."""
    made, wanted = made.double().cpu(), wanted.double().cpu()
    error = made - wanted
    share = error.square().sum() / wanted.square().sum().clamp(min=1e-30)
    db = 10 * float(torch.log10(share.clamp(min=1e-30)))
    return {"largest": float(error.abs().max()), "db": db, "full_scale": float(wanted.abs().max())}


def read(path: Path) -> Tensor:
    """A file's samples."""
    return torch.from_numpy(soundfile.read(path, dtype="float32")[0])


def networks(bench: Bench) -> Facts:
    """Each network's result for 4 s, given the CPU's of those before it, against the CPU's."""
    (path,) = recordings(1, bench.pick(4.0, 1.0), bench.cache).paths
    samples = read(path)[None]
    for voice in bench.voices:
        request = resolve(bench.options(voice), bench.home)
        cpu, device = torch.device("cpu"), bench.target
        wanted = dict(_stages(Loader(home=bench.home, device=cpu).load(request), samples, cpu, {}))
        models = Loader(home=bench.home, device=device).load(request)
        for on in (False, True):
            with tf32(on=on):
                for stage, made in _stages(models, samples, device, wanted):
                    yield f"{voice}, {stage}, TF32 {'on' if on else 'off'}", difference(made, wanted[stage])


@torch.inference_mode()
def _stages(
    models: VoiceModels, samples: Tensor, device: torch.device, known: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Stage by stage what the networks make; each is given what is `known` of those before it, or else theirs."""
    voice, made = models.synthesizer, dict[str, Tensor]()

    def of(stage: str) -> Tensor:
        return known.get(stage, made.get(stage, samples)).to(device)

    assert models.f0 is not None
    made["content"] = models.encoder.encode(of("samples"), None)
    made["f0"] = models.f0.estimate(of("samples"))
    content = of("content").repeat_interleave(2, dim=1)
    frames = content.shape[1]
    f0_hz = of("f0")[:, :frames]
    coarse = torch.from_numpy(coarse_bins(f0_hz.cpu().numpy())).to(device)
    g = voice.condition(torch.zeros(1, dtype=torch.int64, device=device))
    made["prior"] = voice.encode(content, coarse, None, _REACH_FRAMES).mean
    made["latent"] = voice.reverse_flow(of("prior"), None, g)
    noise = torch.randn(1, frames * voice.config.frame_samples, generator=torch.Generator().manual_seed(0))
    made["source"] = voice.source(f0_hz, torch.zeros(1, dtype=torch.float64), noise.to(device), 1.0)
    made["sound"] = voice.decode_tiled(of("latent"), g, of("source"), (0, frames))
    yield from ((stage, result.float().cpu()) for stage, result in made.items())


def recurrent(bench: Bench) -> Facts:
    """RMVPE's recurrent layer: a window's length by itself and in a batch, cuDNN's longest, and one step more."""
    device = bench.target
    config = RmvpeConfig(channels=2, levels=1, blocks=1, bottleneck_layers=1)
    network = Rmvpe(config).eval().requires_grad_(False).to(device)
    for rows, frames in bench.pick(
        ((1, 2240), (16, 2240), (1, _CUDNN_STEPS), (1, _CUDNN_STEPS + 1)), ((1, 40), (2, 40))
    ):
        for cudnn in (True, False):
            features = torch.zeros(rows, frames, config.output_planes * N_MELS, device=device)
            with failing() as figures, torch.inference_mode(), patched(torch.backends.cudnn, "enabled", cudnn):
                figures["seconds"] = seconds_of(partial(network.salience, features), device, rounds=1)
            yield f"{rows} x {frames} steps, cuDNN {'on' if cudnn else 'off'}", figures


def variants(bench: Bench) -> Facts:
    """The decoder over 20 s in every way that might be faster, and what that costs in accuracy."""
    device, seconds = bench.target, bench.pick(20.0, 0.4)
    voice = _decoder(bench).to(device)
    wanted: Tensor | None = None
    for name, rows, make in _variants(device, bench.quick):
        with failing() as figures, torch.inference_mode():
            run = make(voice, *_given(voice, rows, round(seconds * FRAME_RATE_HZ)))
            sound = run()
            wait_for(device)
            wanted = sound if wanted is None else wanted
            figures |= difference(sound[:1], wanted[:1]) if sound.shape[1] == wanted.shape[1] else {}
            figures["ms_an_audio_second"] = 1e3 * seconds_of(run, device, 3) / seconds / rows
        yield name, figures


def _decoder(bench: Bench) -> Synthesizer:
    if not bench.quick:
        return build_synthesizer(load_voice(find_voice(bench.full_voice, bench.home).path))
    sizes: dict[str, Any] = {"inter_channels": 8, "hidden_channels": 8, "n_layers": 1, "upsample_initial_channel": 32}
    config = dataclasses.replace(V2_40K, **sizes)
    state = {name: drawn(name, shape, VOICE_RULES) for name, shape in expected_shapes(config).items()}
    return build_synthesizer(LoadedVoice(config=config, state=state, metadata=VoiceMetadata(name="quick")))


def _given(voice: Synthesizer, rows: int, frames: int) -> tuple[Tensor, Tensor, Tensor]:
    """Latent, condition and source; the rows are equal."""
    random, device = torch.Generator().manual_seed(0), voice.device
    z = torch.randn(1, voice.config.inter_channels, frames, generator=random).to(device)
    g = voice.condition(torch.zeros(1, dtype=torch.int64, device=device))
    source = voice.source(
        torch.full((1, frames), _F0_HZ, device=device), torch.zeros(1, dtype=torch.float64), None, 1.0
    )
    return z.repeat(rows, 1, 1), g.repeat(rows, 1, 1), source.repeat(rows, 1, 1)


def _variants(device: torch.device, quick: bool) -> Iterator[tuple[str, int, Callable[..., _Run]]]:
    """Name, rows, and what makes of voice, latent, condition and source a way to run it; the first is the measure."""

    def tiles(steps: int, within: Callable[[], AbstractContextManager[Any]] = nullcontext) -> Callable[..., _Run]:
        def make(voice: Synthesizer, z: Tensor, g: Tensor, source: Tensor) -> _Run:
            def run() -> Tensor:
                with within():
                    return voice.decode_tiled(z, g, source, (0, z.shape[-1]), steps)

            return run

        return make

    def half(voice: Synthesizer, z: Tensor, g: Tensor, source: Tensor) -> _Run:
        voice = copy.deepcopy(voice).half()
        return tiles(200)(voice, z.half(), g.half(), source.half())

    def compiled(voice: Synthesizer, z: Tensor, g: Tensor, source: Tensor) -> _Run:
        voice = copy.deepcopy(voice)
        if device.type == "cuda":
            voice.compile_decoder()
        return tiles(200)(voice, z, g, source)

    yield "fp32, tiles of 2 s", 1, tiles(200, lambda: tf32(on=False))
    for rows in (2,) if quick else (1, 4, 16):
        for steps in (200, 500, 2000):
            yield f"TF32, tiles of {steps / FRAME_RATE_HZ:g} s, {rows} rows", rows, tiles(steps, lambda: tf32(on=True))
    yield "float16", 1, half
    kind = torch.float16 if device.type == "cuda" else torch.bfloat16
    yield "autocast", 1, tiles(200, lambda: torch.autocast(device.type, dtype=kind))
    yield "cudnn.benchmark", 1, tiles(200, lambda: patched(torch.backends.cudnn, "benchmark", True))
    yield "channels last", 1, _channels_last
    if device.type == "cuda":
        yield "CUDA graph of it all", 1, _graph
    yield "compiled", 1, compiled


def _channels_last(voice: Synthesizer, z: Tensor, g: Tensor, source: Tensor) -> _Run:
    """The fast stages over images of one row, channels innermost; in one piece."""
    dec: Any = voice.dec

    def run() -> Tensor:
        x = dec.conv_pre(z).add_(dec.cond(g)).unsqueeze(2).contiguous(memory_format=torch.channels_last)
        made: Tensor = dec._tail(dec._stage(0, x, source), source)
        return made[:, 0]

    return run


def _graph(voice: Synthesizer, z: Tensor, g: Tensor, source: Tensor) -> _Run:
    """The kernels of 2 s recorded, and replayed as often as it takes."""
    frames = min(200, z.shape[-1])
    z, source = z[..., :frames].contiguous(), source[..., : frames * voice.config.frame_samples].contiguous()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        voice.decode(z, g, source)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        sound = voice.decode(z, g, source)

    def run() -> Tensor:
        for _ in range(10):  # 20 s
            graph.replay()
        return sound

    return run
