"""Single layers on the kernels: signals are (steps, padded channels) float32 tensors on the CPU, time-major."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from menura.kernels.cache import Packing
from menura.kernels.library import Algorithm, CallArguments, KernelLibrary, LayerArguments, Mode, address
from menura.kernels.packing import (
    best_algorithm,
    convolution_size,
    pack_bias,
    pack_convolution,
    pack_taps,
    pack_upsampling,
    padded_channels,
)


class Layer:
    """A layer's arguments, and the tensors they point to."""

    def __init__(self, library: KernelLibrary, weights: Tensor, bias: Tensor, **numbers: int) -> None:
        self._library, self.weights, self.bias = library, weights, bias
        self.arguments = LayerArguments(weights=address(weights), bias=address(bias), **numbers)

    def run(
        self,
        function: str,
        x: Tensor,
        output: Tensor,
        slope: float = 1.0,
        residual: Tensor | None = None,
        mode: Mode | None = None,
        scale: float = 1.0,
    ) -> Tensor:
        """Write `output` and return it; without a mode a residual is added."""
        if residual is not None and residual.shape != output.shape:
            raise ValueError(f"a residual of shape {tuple(residual.shape)} for an output of {tuple(output.shape)}")
        if mode is None:
            mode = Mode.STORE if residual is None else Mode.ADD_RESIDUAL
        call = CallArguments(
            input=address(x, self.arguments.channels_in),
            output=address(output, self.arguments.channels_out),
            residual=None if residual is None else address(residual, self.arguments.channels_out),
            steps_in=x.shape[0],
            steps_out=output.shape[0],
            slope=slope,
            scale=scale,
            mode=mode,
        )
        self._library.call(function, self.arguments, call)
        return output


def bias_of(conv: nn.Conv1d) -> Tensor:
    """(channels_out,); zeros for a convolution without."""
    return conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias


class Convolution(Layer):
    """A "same" convolution with an odd number of taps."""

    def __init__(
        self,
        library: KernelLibrary,
        weight: Tensor,
        bias: Tensor | None,
        dilation: int = 1,
        algorithm: Algorithm | None = None,
        packing: Packing | None = None,
    ) -> None:
        """Pack weights (channels_out, channels_in, taps), or take them packed; bias is (channels_out,) or None."""
        out, channels_in, taps = weight.shape
        chosen = best_algorithm(taps) if algorithm is None else algorithm
        size = convolution_size(out, channels_in, taps, chosen)
        super().__init__(
            library,
            (packing or Packing()).take(size, lambda: pack_convolution(weight, chosen, library.panel_channels)),
            pack_bias(bias, out),
            algorithm=chosen,
            channels_in=padded_channels(channels_in),
            channels_out=padded_channels(out),
            taps=taps,
            dilation=dilation,
        )

    def __call__(
        self,
        x: Tensor,
        output: Tensor,
        slope: float = 1.0,
        residual: Tensor | None = None,
        mode: Mode | None = None,
        scale: float = 1.0,
    ) -> Tensor:
        """(steps, channels_in) through a leaky ReLU and the convolution into `output` (steps, channels_out)."""
        return self.run("menura_convolve", x, output, slope, residual, mode, scale)

    def with_bias(self, bias: Tensor) -> Convolution:
        """The same weights with another bias, (channels_out,)."""
        other = copy.copy(self)
        other.bias = pack_bias(bias, bias.shape[0])
        other.arguments = LayerArguments.from_buffer_copy(self.arguments)
        other.arguments.bias = other.bias.data_ptr()
        return other


class Upsampling(Layer):
    """A transposed convolution."""

    def __init__(
        self,
        library: KernelLibrary,
        weight: Tensor,
        bias: Tensor | None,
        rate: int,
        padding: int,
        packing: Packing | None = None,
    ) -> None:
        """Pack weights (channels_in, channels_out, taps), or take them packed; padding is cut off at the start."""
        channels_in, out, taps = weight.shape
        size = taps * padded_channels(channels_in) * padded_channels(out)
        super().__init__(
            library,
            (packing or Packing()).take(size, lambda: pack_upsampling(weight, rate, library.panel_channels)),
            pack_bias(bias, out),
            channels_in=padded_channels(channels_in),
            channels_out=padded_channels(out),
            taps=taps,
            rate=rate,
            padding=padding,
        )

    def __call__(self, x: Tensor, output: Tensor, slope: float) -> Tensor:
        """(steps, channels_in) through a leaky ReLU and the convolution into `output` (steps * rate, channels_out)."""
        return self.run("menura_upsample", x, output, slope)


class SourceConvolution(Layer):
    """Brings the one-channel excitation down to a stage's rate and adds it there."""

    def __init__(self, library: KernelLibrary, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> None:
        """Pack weights (channels_out, 1, taps) and bias (channels_out,) or None."""
        out, _, taps = weight.shape
        numbers = {"channels_out": padded_channels(out), "taps": taps, "rate": stride, "padding": padding}
        super().__init__(library, pack_taps(weight[:, 0]), pack_bias(bias, out), **numbers)

    def __call__(self, source: Tensor, output: Tensor) -> Tensor:
        """Add the convolution of (samples,) to `output` (steps, channels_out)."""
        return self.run("menura_add_source", source, output)


class LastConvolution(Layer):
    """Down to one channel, and tanh."""

    def __init__(self, library: KernelLibrary, weight: Tensor, bias: Tensor | None) -> None:
        """Pack weights (1, channels_in, taps) and bias (1,) or None."""
        _, channels_in, taps = weight.shape
        super().__init__(
            library, pack_taps(weight[0]), pack_bias(bias, 1), channels_in=padded_channels(channels_in), taps=taps
        )

    def __call__(self, x: Tensor, output: Tensor, slope: float) -> Tensor:
        """(steps, channels_in) through a leaky ReLU, the convolution and tanh into `output` (steps,)."""
        return self.run("menura_last", x, output, slope)
