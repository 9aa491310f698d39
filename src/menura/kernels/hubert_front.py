"""The convolutions from samples to frames, in front of HuBERT, on the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from menura.kernels.library import CHANNEL_MULTIPLE, Algorithm, CallArguments, KernelLibrary, LayerArguments, address
from menura.kernels.packing import pack_halving

HALVING_TAPS = (2, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """One convolution from a single channel, then those that halve the rate; GELU after each, no padding, no biases."""

    library: KernelLibrary
    first_rate: int
    weights: tuple[Tensor, ...]
    """Packed, of each that halves the rate."""
    bias: Tensor
    layers: tuple[LayerArguments, ...]

    @staticmethod
    def fits(weights: Sequence[Tensor], rates: Sequence[int]) -> bool:
        """Whether the kernels take layers of weights (channels_out, channels_in, taps) and of those strides."""
        return all(
            rate == 2 and weight.shape[2] in HALVING_TAPS and not any(n % CHANNEL_MULTIPLE for n in weight.shape[:2])
            for weight, rate in zip(weights, rates, strict=True)
        )

    @classmethod
    def of(cls, library: KernelLibrary, first_rate: int, weights: Sequence[Tensor]) -> Front:
        """Pack layers that `fit`.

        Args:
            library: whose kernels will run.
            first_rate: stride of the first convolution, whose weights come with each call.
            weights: (channels_out, channels_in, taps) float32 of the others.
        """
        packed = tuple(pack_halving(weight, library.panel_channels) for weight in weights)
        bias = torch.zeros(max((weight.shape[0] for weight in weights), default=0))
        layers = tuple(
            LayerArguments(
                weights=flat.data_ptr(),
                bias=bias.data_ptr(),
                algorithm=Algorithm.DIRECT,
                channels_in=weight.shape[1],
                channels_out=weight.shape[0],
                taps=weight.shape[2],
                dilation=1,
                rate=2,
            )
            for weight, flat in zip(weights, packed, strict=True)
        )
        return cls(library=library, first_rate=first_rate, weights=packed, bias=bias, layers=layers)

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
        first = LayerArguments(
            weights=address(taps),
            bias=address(bias),
            algorithm=Algorithm.DIRECT,
            channels_in=1,
            channels_out=weight.shape[0],
            taps=weight.shape[1],
            dilation=1,
            rate=self.first_rate,
        )
        x = self._run("menura_first", first, samples)
        for layer in self.layers:
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
        self.library.call(function, layer, call)
        return output
