"""The convolutions from samples to frames, in front of HuBERT, on the kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from menura.kernels.convolution import Layer
from menura.kernels.library import CHANNEL_MULTIPLE, KernelLibrary
from menura.kernels.packing import pack_halving

HALVING_TAPS = (2, 3)


class Front:
    """One convolution from a single channel, then those that halve the rate; GELU after each, no padding, no biases."""

    def __init__(self, library: KernelLibrary, first_rate: int, weights: Sequence[Tensor]) -> None:
        """Pack layers of weights (channels_out, channels_in, taps) float32 that `fit`; the first's come with calls."""
        self._library, self._first_rate = library, first_rate
        self.weights = [pack_halving(weight, library.panel_channels) for weight in weights]
        self._layers = [
            self._layer(packed, torch.zeros(weight.shape[0]), weight.shape, rate=2)
            for weight, packed in zip(weights, self.weights, strict=True)
        ]

    @staticmethod
    def fits(weights: Sequence[Tensor], rates: Sequence[int]) -> bool:
        """Whether the kernels take layers of weights (channels_out, channels_in, taps) and of those strides."""
        return all(
            rate == 2 and weight.shape[2] in HALVING_TAPS and not any(n % CHANNEL_MULTIPLE for n in weight.shape[:2])
            for weight, rate in zip(weights, rates, strict=True)
        )

    def __call__(self, samples: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(samples,) by the first layer's weight (channels, taps) and bias (channels,) to (whole windows, channels)."""
        first = self._layer(
            weight.T.contiguous(), bias.contiguous(), (len(weight), 1, weight.shape[1]), self._first_rate
        )
        x = _run("menura_first", first, samples.contiguous())
        for layer in self._layers:
            x = _run("menura_halve", layer, x)
        return x

    def _layer(self, weights: Tensor, bias: Tensor, shape: Sequence[int], rate: int) -> Layer:
        out, channels_in, taps = shape
        return Layer(
            self._library, weights, bias, channels_in=channels_in, channels_out=out, taps=taps, dilation=1, rate=rate
        )


def _run(function: str, layer: Layer, x: Tensor) -> Tensor:
    steps = max(0, (len(x) - layer.arguments.taps) // layer.arguments.rate + 1)
    return layer.run(function, x, x.new_empty(steps, layer.arguments.channels_out))
