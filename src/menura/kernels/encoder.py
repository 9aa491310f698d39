"""The transformer of a voice's text encoder on the kernels: one row of a batch at a time, time-major."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from menura.kernels.attention import Attention, spread
from menura.kernels.cache import Packing
from menura.kernels.convolution import Convolution, Epilogue
from menura.kernels.decoder import LayerWeights
from menura.kernels.library import KernelLibrary, Mode
from menura.kernels.packing import padded_channels

BLOCK_FRAMES = 5000
"""Frames that the feed-forward layers, four times as wide as the signal, compute at once: 15 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionWeights:
    """Projections of one tap, and vectors (2 * window + 1, head channels) for near distances."""

    query: LayerWeights
    key: LayerWeights
    value: LayerWeights
    output: LayerWeights
    near_keys: Tensor
    near_values: Tensor
    heads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NormWeights:
    """A layer norm over the channels."""

    gamma: Tensor
    beta: Tensor
    eps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderLayerWeights:
    """Attention, and two convolutions with a ReLU between; a norm after each is added to what went in."""

    attention: AttentionWeights
    norm_1: NormWeights
    first: LayerWeights
    second: LayerWeights
    norm_2: NormWeights


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderWeights:
    """All layers."""

    layers: tuple[EncoderLayerWeights, ...]
    projection: LayerWeights

    def packed_layers(self) -> Iterator[LayerWeights]:
        """Those whose weights are packed, in a fixed order."""
        for layer in self.layers:
            attention = layer.attention
            yield from (LayerWeights(weight=near, bias=None) for near in (attention.near_keys, attention.near_values))
            yield from (attention.query, attention.key, attention.value, attention.output, layer.first, layer.second)
        yield self.projection


class _Norm:
    def __init__(self, weights: NormWeights) -> None:
        self._gamma, self._beta, self._eps = weights.gamma.detach(), weights.beta.detach(), weights.eps

    def __call__(self, x: Tensor) -> Tensor:
        """(frames, padded channels) to the same; what fills up stays zero."""
        channels = self._gamma.shape[0]
        normed = F.layer_norm(x[:, :channels], (channels,), self._gamma, self._beta, self._eps)
        return normed if channels == x.shape[1] else F.pad(normed, (0, x.shape[1] - channels))


class _Layer:
    def __init__(self, library: KernelLibrary, weights: EncoderLayerWeights, packing: Packing) -> None:
        def packed(weight: Tensor, bias: Tensor | None) -> Convolution:
            return Convolution.of(library, weight, bias, packing=packing)

        attention = weights.attention
        heads, ways = attention.heads, (attention.query, attention.key, attention.value)
        output, first, second = attention.output, weights.first, weights.second
        self._attention = Attention.of(library, attention.near_keys, attention.near_values, heads, packing)
        biases = [spread(way.bias_or_zeros, heads) for way in ways]
        self._projections = packed(torch.cat([spread(way.weight, heads) for way in ways]), torch.cat(biases))
        self._output = packed(spread(output.weight.transpose(0, 1), heads).transpose(0, 1), output.bias)
        self._first = packed(_odd(first.weight), first.bias)
        self._second = packed(_odd(second.weight), second.bias)
        self._norm_1, self._norm_2 = _Norm(weights.norm_1), _Norm(weights.norm_2)
        self._wide_channels = padded_channels(first.weight.shape[0])
        self._context_frames = first.weight.shape[2] // 2 + second.weight.shape[2] // 2

    def __call__(self, x: Tensor, reach: int | None) -> Tensor:
        """(frames, channels) to the same shape."""
        channels = self._attention.channels
        projected = self._projections(x, x.new_empty(x.shape[0], 3 * channels))
        attended = self._attention(projected, x.new_empty(x.shape[0], channels), reach)
        del projected
        epilogue = Epilogue(mode=Mode.ADD_RESIDUAL, residual=x)
        return self._feed_forward(self._norm_1(self._output(attended, torch.empty_like(x), epilogue=epilogue)))

    def _feed_forward(self, x: Tensor) -> Tensor:
        frames, context = x.shape[0], self._context_frames
        if frames <= BLOCK_FRAMES:
            return self._wide(x)
        made = torch.empty_like(x)
        for start in range(0, frames, BLOCK_FRAMES):
            stop = min(start + BLOCK_FRAMES, frames)
            low, high = max(0, start - context), min(frames, stop + context)
            made[start:stop] = self._wide(x[low:high])[start - low : stop - low]
        return made

    def _wide(self, x: Tensor) -> Tensor:
        hidden = self._first(x, x.new_empty(x.shape[0], self._wide_channels))
        epilogue = Epilogue(mode=Mode.ADD_RESIDUAL, residual=x)
        return self._norm_2(self._second(hidden, torch.empty_like(x), slope=0.0, epilogue=epilogue))

    def tensors(self) -> list[Tensor]:
        """All packed weights."""
        convolutions = (self._projections, self._output, self._first, self._second)
        near = [self._attention.near_keys, self._attention.near_values]
        return [*near, *(t for layer in convolutions for t in (layer.weights, layer.bias))]


class Encoder:
    """A transformer ready to run."""

    def __init__(self, library: KernelLibrary, weights: EncoderWeights, packing: Packing) -> None:
        """Pack all weights, or take them packed.

        Args:
            library: whose kernels will run.
            weights: float32 tensors on the CPU; but for the norms' they are not kept.
            packing: where packed weights may come from.
        """
        self._layers = [_Layer(library, layer, packing) for layer in weights.layers]
        projection = weights.projection
        self._projection = Convolution.of(library, projection.weight, projection.bias, packing=packing)
        self._channels_out = projection.weight.shape[0]

    def encode(self, x: Tensor, reach: int | None) -> Tensor:
        """One row.

        Args:
            x: (frames, channels) embeddings.
            reach: frames on each side that a frame attends to; None for all.

        Returns:
            (frames, projected channels).
        """
        missing = padded_channels(x.shape[1]) - x.shape[1]
        x = F.pad(x, (0, missing)) if missing else x.contiguous()
        for layer in self._layers:
            x = layer(x, reach)
        made = self._projection(x, x.new_empty(x.shape[0], padded_channels(self._channels_out)))
        return made[:, : self._channels_out]

    def tensors(self) -> list[Tensor]:
        """All packed weights."""
        layers = [t for layer in self._layers for t in layer.tensors()]
        return [*layers, self._projection.weights, self._projection.bias]


def _odd(weight: Tensor) -> Tensor:
    """An even number of taps reaches a step further to the right: with a zero on the left it is odd."""
    return weight if weight.shape[2] % 2 else F.pad(weight, (1, 0))
