"""A voice as two ONNX graphs, for programs without torch.

    content, F0 bins ──encoder──▶ mean, log scale;   these, noise, F0, phase ──decoder──▶ sound

Lengths are dynamic. Noise and phase are inputs, so a graph gives the same for the same, and long recordings can be made
in pieces. Attention has no limited reach, as in RVC. What ONNX lacks is computed in other terms here, to the same.
"""

from __future__ import annotations

import importlib.util
import io
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from menura.checkpoints.voice import LoadedVoice, build_synthesizer
from menura.errors import EncodeError, OptionError
from menura.models.layers import RelativeAttention
from menura.models.refinegan import SmoothSineSource
from menura.models.source import sine_wave, with_noise
from menura.models.source_filter import LOUDEST, SourceFilter
from menura.models.synthesizer import Synthesizer
from menura.system.files import replacing, write_whole

LATENT_SCALE = 0.66666
"""RVC's, of the latent's noise."""
TOLERANCE = 1e-3
"""How far a graph's results may be from torch's: of full scale, and of the prior."""
_OPSET = 17
_TRACED_FRAMES, _CHECKED_FRAMES = 50, 77
_STEPS = {"content": (1, "frames"), "f0_coarse": (1, "frames"), "f0_hz": (1, "frames"), "source_noise": (1, "samples")}
_STEPS |= dict.fromkeys(("mean", "log_scale", "latent_noise"), (2, "frames")) | {"sound": (1, "samples")}
"""Of every input and output of dynamic length, the axis that is dynamic, and its name."""


class _PlainAttention(RelativeAttention):
    """Relative attention by gathering, without views of strides."""

    def forward(self, x: Tensor, mask: Tensor | None, reach: int | None = None) -> Tensor:
        query, key, value = (self._heads(conv(x)) for conv in (self.conv_q, self.conv_k, self.conv_v))
        query = query * self.head_dim**-0.5
        frames, band = torch.arange(x.shape[-1]), torch.arange(2 * self.window + 1)
        distance = frames[None, :] - frames[:, None] + self.window
        near = ((distance >= 0) & (distance <= 2 * self.window)).to(x.dtype)
        rows = torch.zeros_like(query[..., :1]) + distance.clamp(0, 2 * self.window).to(x.dtype)
        by_distance = (query @ self.emb_rel_k.transpose(-2, -1)).gather(3, rows.long())
        weights = torch.softmax(query @ key.transpose(-2, -1) + by_distance * near, dim=-1)
        place = frames[:, None] + band[None, :] - self.window
        inside = ((place >= 0) & (place < x.shape[-1])).to(x.dtype)
        columns = torch.zeros_like(query[..., :1]) + torch.minimum(place.clamp(min=0), frames[-1]).to(x.dtype)
        beside = (weights.gather(3, columns.long()) * inside) @ self.emb_rel_v
        merged: Tensor = self.conv_o((weights @ value + beside).transpose(2, 3).reshape(x.shape))
        return merged


class _PlainSmoothSource(SmoothSineSource):
    """F0 interpolated by hand, in double precision, which ONNX Runtime doesn't do."""

    def forward(self, f0_hz: Tensor, phase_cycles: Tensor, noise: Tensor | None, noise_scale: float) -> Tensor:
        hz, hop = f0_hz.double(), self.frame_samples
        before, after = torch.cat([hz[:, :1], hz[:, :-1]], dim=1), torch.cat([hz[:, 1:], hz[:, -1:]], dim=1)
        offset = (torch.arange(hop, dtype=torch.float64) + 0.5) / hop - 0.5
        late, early = offset.clamp(min=0), offset.clamp(max=0)
        smooth = hz[:, :, None] + (after - hz)[:, :, None] * late + (hz - before)[:, :, None] * early
        frame_s = hop / self.sample_rate
        starts = phase_cycles[:, None] + (hz.cumsum(dim=1) - hz) * frame_s + (hz - before) * (frame_s / 8)
        phases = (starts[:, :, None] + smooth.cumsum(dim=2) / self.sample_rate).flatten(1)
        voiced = smooth.flatten(1) > 0
        wave = with_noise(sine_wave(phases, voiced), voiced, noise, noise_scale)
        mixed: Tensor = self.merge(wave[:, :, None])
        return mixed.transpose(1, 2)


class _PlainFilters(SourceFilter):
    """Spectra by convolutions with sines and cosines."""

    def _shaped(self, source: Tensor, filters: Tensor) -> Tensor:
        window, size, hop = torch.hann_window(self.window_samples).sqrt(), self.window_samples, self.hop
        turns = torch.outer(torch.arange(self.bins), torch.arange(size)).double() * (2 * math.pi / size)
        waves = torch.cat([turns.cos(), -turns.sin()]).float() * window
        share = torch.full((self.bins, 1), 2.0 / size)
        share[0], share[-1] = 1 / size, 1 / size
        back = torch.cat([turns.cos() * share, -turns.sin() * share]).float() * (window * (2 / 4))
        around = (size - hop) // 2
        *magnitudes, phase = torch.split(filters.transpose(1, 2), self.bins, dim=1)
        gains = [torch.exp(part.clamp(max=LOUDEST)) for part in magnitudes]
        shaped = []
        for number, gain in enumerate(gains):
            padded = F.pad(source[:, number : number + 1], (around, around))
            re, im = F.conv1d(padded, waves[:, None], stride=hop).chunk(2, dim=1)
            if number == 0:
                re, im = re * phase.cos() - im * phase.sin(), re * phase.sin() + im * phase.cos()
            shaped.append(torch.cat([re * gain, im * gain], dim=1))
        sound = F.conv_transpose1d(torch.stack(shaped).sum(dim=0), back[:, None], stride=hop)
        return sound[:, :, around : around + source.shape[-1]]


class _Graph(nn.Module):
    """What a function makes of a network and inputs, in the form that is exported."""

    def __init__(self, network: Synthesizer, compute: Callable[..., Any]) -> None:
        super().__init__()
        self.network, self.compute = network, compute

    def forward(self, *inputs: Tensor) -> Any:
        return self.compute(self.network, *inputs)


def _encoded(network: Synthesizer, content: Tensor, f0_coarse: Tensor | None = None) -> tuple[Tensor, Tensor]:
    prior = network.encode(content, f0_coarse, None)
    return prior.mean, prior.log_scale


def _decoded(
    network: Synthesizer, mean: Tensor, log_scale: Tensor, latent_noise: Tensor, speaker_id: Tensor, *given: Tensor
) -> Tensor:
    g = network.condition(speaker_id)
    z = network.reverse_flow(mean + torch.exp(log_scale) * latent_noise * LATENT_SCALE, None, g)
    return network.decode(z, g, network.source(given[0], given[1], given[2], 1.0) if given else None)


def plain_network(voice: LoadedVoice) -> Synthesizer:
    """The voice's network, of operations that ONNX has."""
    network = build_synthesizer(voice)
    for module in network.modules():
        if isinstance(module, RelativeAttention):
            module.__class__ = _PlainAttention
        elif isinstance(module, SmoothSineSource):
            module.__class__ = _PlainSmoothSource
        elif isinstance(module, SourceFilter):
            module.__class__ = _PlainFilters
    return network


def example_inputs(voice: LoadedVoice, frames: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Random inputs of the encoder and the decoder, by the names of the graphs' own."""
    config, random = voice.config, torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=random)

    encoder = {"content": noise(frames, config.content_dim)}
    latent = (config.inter_channels, frames)
    decoder = {"mean": noise(*latent), "log_scale": noise(*latent).sub(2), "latent_noise": noise(*latent)}
    decoder["speaker_id"] = torch.zeros(1, dtype=torch.int64)
    if config.has_f0:
        encoder["f0_coarse"] = torch.randint(1, 256, (1, frames), generator=random)
        f0_hz = noise(frames).cumsum(1).mul(4).add(160).clamp(60, 500)
        decoder["f0_hz"] = torch.where(torch.arange(frames) % 20 < 15, f0_hz, 0.0)
        decoder["phase_cycles"] = torch.full((1,), 0.25, dtype=torch.float64)
        decoder["source_noise"] = noise(frames * config.frame_samples)
    return encoder, decoder


def export_onnx(voice: LoadedVoice, folder: Path, name: str) -> tuple[Path, ...]:
    """Write NAME.encoder.onnx, NAME.decoder.onnx, and what programs must know of them, NAME.json.

    Both graphs are run by ONNX Runtime, at another length than they were made with, and compared with torch.

    Raises:
        OptionError: the packages of the extra `onnx` are missing.
        EncodeError: a file can't be written, or a graph gives something else than torch.
    """
    if missing := [package for package in ("onnx", "onnxruntime") if importlib.util.find_spec(package) is None]:
        raise OptionError(None, f"ONNX needs {' and '.join(missing)}", "Install it with pip install 'menura[onnx]'")
    config, network, plain = voice.config, build_synthesizer(voice), plain_network(voice)
    paths = []
    for part, compute, outputs in (("encoder", _encoded, ("mean", "log_scale")), ("decoder", _decoded, ("sound",))):
        number = int(part == "decoder")
        path = folder / f"{name}.{part}.onnx"
        graph = _graph(_Graph(plain, compute), example_inputs(voice, _TRACED_FRAMES)[number], outputs)
        _check(path, graph, _Graph(network, compute), example_inputs(voice, _CHECKED_FRAMES)[number])
        with replacing(path, EncodeError) as partial:
            partial.write_bytes(graph)
        paths.append(path)
    about = {
        "sample_rate": config.sample_rate,
        "frame_samples": config.frame_samples,
        "content_encoder": config.content_encoder,
        "content_dim": config.content_dim,
        "latent_channels": config.inter_channels,
        "speakers": config.n_speakers,
        "follows_pitch": config.has_f0,
        "encoder": paths[0].name,
        "decoder": paths[1].name,
    }
    paths.append(folder / f"{name}.json")
    write_whole(paths[-1], (json.dumps(about, indent=1, ensure_ascii=False) + "\n").encode())
    return tuple(paths)


def _graph(network: nn.Module, inputs: dict[str, Tensor], outputs: tuple[str, ...]) -> bytes:
    file = io.BytesIO()
    dynamic = {name: dict([_STEPS[name]]) for name in (*inputs, *outputs) if name in _STEPS}
    with warnings.catch_warnings(), torch.no_grad():
        # torch's newer exporter needs a package more, whose releases follow torch's.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            tuple(inputs.values()),
            file,  # type: ignore[arg-type]  # the exporter without dynamo takes it
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=dynamic,
            opset_version=_OPSET,
            dynamo=False,
        )
    return file.getvalue()


def _check(path: Path, graph: bytes, network: nn.Module, inputs: dict[str, Tensor]) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    found = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    with torch.inference_mode():
        expected = network(*inputs.values())
    pairs = zip(found, expected if isinstance(expected, tuple) else (expected,), strict=True)
    difference = max(float(np.abs(one - other.numpy()).max()) for one, other in pairs)
    if not difference < TOLERANCE:
        raise EncodeError(path, f"differs from the voice by {difference:g}", "Use another version of onnxruntime")
