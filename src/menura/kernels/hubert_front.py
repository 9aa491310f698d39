"""The convolutions from samples to frames, in front of HuBERT, on the kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from menura.kernels.library import CHANNEL_MULTIPLE, Algorithm, CallArguments, KernelLibrary, LayerArguments, address
from menura.kernels.packing import pack_halving

HALVING_TAPS = (2, 3)


class Front:
    """One convolution from a single channel, then those that halve the rate; GELU after each, no padding, no biases."""

    def __init__(self, library: KernelLibrary, first_rate: int, weights: Sequence[Tensor]) -> None:
        """Pack layers that `fit`.

        Args:
            library: whose kernels will run.
            first_rate: stride of the first convolution, whose weights come with each call.
            weights: (channels_out, channels_in, taps) float32 of the others.
        """
        self._library, self._first_rate = library, first_rate
        self.weights = [pack_halving(weight, library.panel_channels) for weight in weights]
        self._bias = torch.zeros(max((weight.shape[0] for weight in weights), default=0))
        self._layers = [
            _layer(packed, self._bias, weight.shape, rate=2)
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
        """Frames of a stretch of samples.

        Args:
            samples: (samples,) float32.
            weight: (channels, taps) float32 of the first convolution.
            bias: (channels,) of the same.

        Returns:
            (frames, channels), as many as there are whole windows.
        """
        samples, taps, bias = samples.contiguous(), weight.T.contiguous(), bias.contiguous()
        first = _layer(taps, bias, (weight.shape[0], 1, weight.shape[1]), rate=self._first_rate)
        x = self._run("menura_first", first, samples)
        for layer in self._layers:
            x = self._run("menura_halve", layer, x)
        return x

    def _run(self, function: str, layer: LayerArguments, x: Tensor) -> Tensor:
        steps = max(0, (x.shape[0] - layer.taps) // layer.rate + 1)
        output = x.new_empty(steps, layer.channels_out)
        call = CallArguments(
            input=address(x, layer.channels_in),
            output=address(output),
            steps_in=x.shape[0],
            steps_out=steps,
            slope=1.0,
            scale=1.0,
            threads=torch.get_num_threads(),
        )
        self._library.call(function, layer, call)
        return output


def _layer(weights: Tensor, bias: Tensor, shape: Sequence[int], rate: int) -> LayerArguments:
    out, channels_in, taps = shape
    return LayerArguments(
        weights=address(weights),
        bias=address(bias),
        algorithm=Algorithm.DIRECT,
        channels_in=channels_in,
        channels_out=out,
        taps=taps,
        dilation=1,
        rate=rate,
    )
