"""The decoder's layers one by one: which kind gains what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.turns import take_turns
from menura.kernels.cache import Packing
from menura.kernels.layers import Convolution, LastConvolution, SourceConvolution, Upsampling
from menura.kernels.library import KernelLibrary
from menura.kernels.packing import padded_channels
from menura.models.layers import LEAKY_SLOPE
from menura.models.vocoders import LAST_SLOPE, HifiGan
from menura.units import FRAME_RATE_HZ

EAGER, CHANNELS_LAST = "torch eager", "torch channels-last"

Variants = dict[str, Callable[[], object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """A layer by every means, with one number of threads."""

    layer: str
    threads: int
    gflop: float
    """Of the direct convolution, for a second of audio."""
    best_ms: dict[str, float]
    """By variant, for a second of audio."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A layer where it stands in a decoder."""

    name: str
    kind: str
    layer: nn.Conv1d | nn.ConvTranspose1d
    rate_hz: int
    """Steps a second of what enters it."""
    slope: float

    @property
    def gflop(self) -> float:
        """Of the direct convolution, for a second of audio."""
        rate_hz = self.rate_hz // self.layer.stride[0] if self.kind == "source" else self.rate_hz
        return 2 * self.layer.weight.numel() * rate_hz / 1e9


def sites(vocoder: HifiGan) -> Iterator[Site]:
    """One layer of every kind in every stage."""
    rate_hz = FRAME_RATE_HZ
    yield _site("first", "convolution", vocoder.conv_pre, rate_hz, 1.0)
    for stage, rate in enumerate(vocoder.rates):
        yield _site("upsampling", "upsampling", vocoder.upsampler(stage), rate_hz, LEAKY_SLOPE)
        rate_hz *= rate
        if hasattr(vocoder, "noise_convs"):
            yield _site("source", "source", vocoder.noise_convs[stage], FRAME_RATE_HZ * vocoder.frame_samples, 1.0)
        for block in vocoder.blocks(stage):
            steps = block.steps()
            step = steps[min(1, len(steps) - 1)]  # the second has a dilation, where there is one
            yield _site("residual", "convolution", step[0], rate_hz, LEAKY_SLOPE)
    yield _site("last", "last", vocoder.conv_post, rate_hz, LAST_SLOPE)


def _site(name: str, kind: str, layer: nn.Module, rate_hz: int, slope: float) -> Site:
    assert isinstance(layer, (nn.Conv1d, nn.ConvTranspose1d))
    first, second, taps = layer.weight.shape
    channels_in, out = (first, second) if kind == "upsampling" else (second, first)
    dilated = f" dilated {layer.dilation[0]}" if layer.dilation[0] > 1 else ""
    title = f"{name} {channels_in} to {out}, {taps} taps{dilated}"
    return Site(name=title, kind=kind, layer=layer, rate_hz=rate_hz, slope=slope)


def measure_layers(
    vocoder: HifiGan, libraries: Mapping[str, KernelLibrary], threads: int, seconds: float, rounds: int
) -> list[LayerRow]:
    """Time one layer of every kind.

    Args:
        vocoder: a voice's.
        libraries: the compiled kernels by variant.
        threads: that torch is set to.
        seconds: of audio that each layer's input is long.
        rounds: how often each is timed, in turn.
    """
    rows = []
    for site in sites(vocoder):
        taken = take_turns(_variants(site, libraries, seconds), rounds)
        best_ms = {name: took.best_s / seconds * 1e3 for name, took in taken.items()}
        rows.append(LayerRow(layer=site.name, threads=threads, gflop=site.gflop, best_ms=best_ms))
    return rows


def _variants(site: Site, libraries: Mapping[str, KernelLibrary], seconds: float) -> Variants:
    random = torch.Generator().manual_seed(0)
    steps, layer = round(site.rate_hz * seconds), site.layer
    channels = layer.weight.shape[0] if site.kind == "upsampling" else layer.weight.shape[1]
    x = torch.randn(1, channels, steps, generator=random)
    variants: Variants = {EAGER: lambda: torch_layer(site, x)}
    wide = x.unsqueeze(2).contiguous(memory_format=torch.channels_last)
    variants[CHANNELS_LAST] = lambda: torch_layer(site, wide)
    rows = torch.zeros(steps, padded_channels(channels))
    rows[:, :channels] = x[0].T
    for name, library in libraries.items():
        variants[name] = native_layer(site, library, rows)
    return variants


def torch_layer(site: Site, x: Tensor) -> Tensor:
    """A layer by torch: (1, channels, steps), or (1, channels, 1, steps) with the channels innermost in memory."""
    layer = site.layer
    across = x.dim() == 4
    weight = layer.weight.unsqueeze(2) if across else layer.weight
    step, cut, dilation = _numbers(layer)
    stride, padding = ((1, step), (0, cut)) if across else (step, cut)
    x = F.leaky_relu(x, site.slope) if site.slope != 1.0 else x
    if site.kind == "upsampling":
        upsample = F.conv_transpose2d if across else F.conv_transpose1d
        return upsample(x, weight, layer.bias, stride=stride, padding=padding)
    convolve = F.conv2d if across else F.conv1d
    sums: Tensor = convolve(
        x, weight, layer.bias, stride=stride, padding=padding, dilation=(1, dilation) if across else dilation
    )
    return torch.tanh(sums) if site.kind == "last" else sums


def _numbers(layer: nn.Conv1d | nn.ConvTranspose1d) -> tuple[int, int, int]:
    """Stride, padding, dilation."""
    return layer.stride[0], int(layer.padding[0]), layer.dilation[0]


def native_layer(site: Site, library: KernelLibrary, rows: Tensor) -> Callable[[], Tensor]:
    """A layer on the compiled kernels: rows are (steps, padded channels)."""
    layer = site.layer
    stride, padding, dilation = _numbers(layer)
    out = padded_channels(layer.weight.shape[1 if site.kind == "upsampling" else 0])
    if site.kind == "convolution":
        convolution = Convolution(Packing(library), layer.weight, layer.bias, dilation)
        made = rows.new_empty(rows.shape[0], out)
        return lambda: convolution(rows, made, site.slope)
    if site.kind == "upsampling":
        upsampling = Upsampling(Packing(library), layer.weight, layer.bias, stride, padding)
        longer = rows.new_empty(rows.shape[0] * stride, out)
        return lambda: upsampling(rows, longer, site.slope)
    if site.kind == "source":
        source = SourceConvolution(library, layer.weight, layer.bias, stride, padding)
        excitation, added = rows[:, 0].contiguous(), rows.new_zeros(rows.shape[0] // stride, out)
        return lambda: source(excitation, added)
    last = LastConvolution(library, layer.weight, layer.bias)
    sound = rows.new_empty(rows.shape[0])
    return lambda: last(rows, sound, site.slope)
