"""Training steps on a GPU: how fast in each precision, and whether gradients are the CPU's."""

from __future__ import annotations

import dataclasses
import time
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.full_size import V2_40K
from benchmarks.gpu_networks import difference
from benchmarks.gpu_tools import Bench, Facts, failing, memory_of, patched, tf32, wait_for
from menura.models.discriminators import RvcDiscriminators
from menura.system.device import resolve_device, sent
from menura.train.data.features import ClipFeatures
from menura.train.experiment.settings import RVC_WEIGHTS, Experiment, Schedule
from menura.train.learning import networks
from menura.train.learning.batches import Dataset
from menura.train.run.trainer import Trainer

_SPEAKER = "bench"
_CLIP_FRAMES = 400


def training(bench: Bench) -> Facts:
    """Steps of a v2 40k voice with RVC's discriminators by precision; then one step's gradients against the CPU's."""
    made = partial(RvcDiscriminators, width=bench.pick(32, 2))
    with patched(networks, "RvcDiscriminators", made):
        yield from _measured(bench)


def _measured(bench: Bench) -> Facts:
    for precision in ("fp32", "bf16", "fp16"):
        for rounding in (True, False) if precision == "fp32" else (True,):
            with failing() as figures, tf32(on=rounding):
                figures |= _steps(bench, precision)
            yield f"{precision}{'' if rounding else ', TF32 off'}", figures
    with failing() as figures, patched(networks, "_with_channels_last", _plain):
        figures |= _steps(bench, "bf16")
    yield "bf16, convolutions as they are", figures
    with failing() as figures, tf32(on=False):
        figures |= _gradients(bench)
    yield "gradients, device and CPU", figures


def _plain(self: nn.Module, x: Tensor) -> Tensor:
    made: Tensor = type(self).forward(self, x)
    return made


def _steps(bench: Bench, precision: str) -> dict[str, Any]:
    warm, count = bench.pick((10, 30), (1, 1))
    trainer, device = _trainer(bench, bench.device, precision, warm + count), bench.target
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    steps = trainer.steps(warm + count)
    for _ in range(warm):
        next(steps)
    wait_for(device)
    start_s = time.perf_counter()
    *_, last = steps
    wait_for(device)
    step_s = (time.perf_counter() - start_s) / count
    start_s = time.perf_counter()
    for step in range(count):
        trainer.dataset.draw(seed=1, step=step, batch_size=8, row_frames=_CLIP_FRAMES)
    draw_s = (time.perf_counter() - start_s) / count
    return {"step_s": step_s, "draw_s": draw_s, "losses": dict(last.losses), **memory_of(device)}


def _trainer(bench: Bench, device: str, precision: str, steps: int, batch_size: int = 8) -> Trainer:
    config = dataclasses.replace(V2_40K, n_speakers=1)
    if bench.quick:
        sizes: dict[str, Any] = {
            "inter_channels": 8,
            "hidden_channels": 8,
            "n_layers": 1,
            "upsample_initial_channel": 16,
        }
        config = dataclasses.replace(config, segment_size_frames=8, spec_channels=257, **sizes)
    schedule = Schedule(
        steps=steps,
        batch_size=bench.pick(batch_size, 1),
        row_frames=bench.pick(_CLIP_FRAMES, 16),
        gan_from_step=0,
        log_every_steps=steps,
    )
    experiment = Experiment(
        synthesizer=config,
        speakers=(_SPEAKER,),
        objective="vits",
        weights=RVC_WEIGHTS,
        schedule=schedule,
        precision=precision,
    )
    clips = [_clip(number, config.content_dim, config.frame_samples) for number in range(bench.pick(20, 2))]
    return Trainer(experiment, Dataset(clips, experiment), resolve_device(device))


def _clip(number: int, dim: int, frame_samples: int) -> ClipFeatures:
    random = torch.Generator().manual_seed(number)
    content = torch.randn(1, _CLIP_FRAMES // 2, dim, generator=random).half()
    audio = (torch.randn(_CLIP_FRAMES * frame_samples, generator=random) * 3000).to(torch.int16)
    f0_hz = 100 + 100 * torch.rand(_CLIP_FRAMES, generator=random)
    return ClipFeatures(speaker=_SPEAKER, audio=audio, f0_hz=f0_hz, content={"own": content})


def _gradients(bench: Bench) -> dict[str, Any]:
    """Of the generator without discriminators, by the same weights, batch and noise."""
    rows = []
    for device in ("cpu", bench.device):
        trainer = _trainer(bench, device, "fp32", 1, batch_size=1)
        example = trainer._drawn(0).mapped(partial(sent, device=trainer.device))
        torch.manual_seed(0)
        with patched(torch, "randn", _noise), patched(torch, "randn_like", _noise_like):
            losses = trainer._generator_losses(*trainer._generate(example))
        losses["total"].backward()  # type: ignore[no-untyped-call]
        named = trainer.generator.named_parameters()
        rows.append({name: p.grad.detach().cpu() for name, p in named if p.grad is not None})
    each = {name: difference(rows[1][name], wanted)["db"] for name, wanted in rows[0].items() if wanted.abs().max() > 0}
    worst = max(each, key=lambda name: each[name])
    return {"worst": worst, "worst_db": each[worst], "median_db": sorted(each.values())[len(each) // 2]}


_randn = torch.randn


def _noise(*shape: int, device: torch.device | None = None) -> Tensor:
    """The CPU's, on any device."""
    return _randn(*shape).to(device)


def _noise_like(x: Tensor) -> Tensor:
    return _randn(x.shape).to(x)
