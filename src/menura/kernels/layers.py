"""Single layers on the kernels: signals are (steps, padded channels) float32 tensors on the CPU, time-major."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from menura.kernels.cache import Packing
from menura.kernels.library import (
    Algorithm,
    AttentionArguments,
    CallArguments,
    GatingArguments,
    KernelLibrary,
    LayerArguments,
    Mode,
    address,
)
from menura.kernels.packing import (
    best_algorithm,
    pack_bias,
    pack_convolution,
    pack_taps,
    pack_upsampling,
    padded,
    padded_channels,
    weight_transform,
)

_WORKSPACE_STEPS = 64
"""Rows of attention's workspace beyond the signal's: see `cpp/menura_kernels.h`."""


class Layer:
    """A kernel's arguments, and the tensors they point to."""

    def __init__(
        self, library: KernelLibrary, function: str, weights: Tensor, bias: Tensor | None, **numbers: int
    ) -> None:
        """The numbers of channels are given unpadded."""
        self._library, self._function, self.weights = library, function, weights
        self.bias = pack_bias(torch.zeros(numbers.get("channels_out", 1)) if bias is None else bias)
        numbers = {name: padded_channels(n) if "channels" in name else n for name, n in numbers.items()}
        self.arguments = LayerArguments(weights=address(weights), bias=address(self.bias), **numbers)

    def __call__(
        self,
        x: Tensor,
        output: Tensor | None = None,
        slope: float = 1.0,
        residual: Tensor | None = None,
        mode: Mode | None = None,
        scale: float = 1.0,
    ) -> Tensor:
        """(steps, channels_in) through a leaky ReLU and the layer, plus the residual, to (steps, channels_out)."""
        if output is None:
            output = x.new_empty(len(x), self.arguments.channels_out)
        if residual is not None and residual.shape != output.shape:
            raise ValueError(f"a residual of shape {tuple(residual.shape)} for an output of {tuple(output.shape)}")
        if mode is None:
            mode = Mode.STORE if residual is None else Mode.ADD_RESIDUAL
        call = CallArguments(
            input=address(x, self.arguments.channels_in),
            output=address(output, self.arguments.channels_out),
            residual=None if residual is None else address(residual, self.arguments.channels_out),
            steps_in=len(x),
            steps_out=len(output),
            slope=slope,
            scale=scale,
            mode=mode,
        )
        self._library.call(self._function, self.arguments, call)
        return output

    def with_bias(self, bias: Tensor) -> Layer:
        """The same weights with another bias, (channels_out,)."""
        other = copy.copy(self)
        other.bias = pack_bias(bias)
        other.arguments = LayerArguments.from_buffer_copy(self.arguments)
        other.arguments.bias = other.bias.data_ptr()
        return other


class Convolution(Layer):
    """A "same" convolution with an odd number of taps, packed from weights (channels_out, channels_in, taps)."""

    def __init__(
        self,
        packing: Packing,
        weight: Tensor,
        bias: Tensor | None,
        dilation: int = 1,
        algorithm: Algorithm | None = None,
    ) -> None:
        out, channels_in, taps = weight.shape
        chosen = best_algorithm(taps, max(out, channels_in)) if algorithm is None else algorithm
        size = len(weight_transform(chosen, taps)) * padded_channels(out) * padded_channels(channels_in)
        packed = packing.take(size, lambda: pack_convolution(weight, chosen, packing.library.panel_channels))
        numbers = {"channels_in": channels_in, "channels_out": out, "taps": taps, "dilation": dilation}
        super().__init__(packing.library, "menura_convolve", packed, bias, algorithm=chosen, **numbers)


class Upsampling(Layer):
    """Transposed, of weights (channels_in, channels_out, taps), to steps * rate; padding is cut off at the start."""

    def __init__(self, packing: Packing, weight: Tensor, bias: Tensor | None, rate: int, padding: int) -> None:
        channels_in, out, taps = weight.shape
        size = taps * padded_channels(channels_in) * padded_channels(out)
        packed = packing.take(size, lambda: pack_upsampling(weight, rate, packing.library.panel_channels))
        numbers = {"channels_in": channels_in, "channels_out": out, "taps": taps, "rate": rate, "padding": padding}
        super().__init__(packing.library, "menura_upsample", packed, bias, **numbers)


class SourceConvolution(Layer):
    """Brings the excitation (samples,) down to a stage's rate and adds it to the output."""

    def __init__(self, library: KernelLibrary, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> None:
        """Pack weights (channels_out, 1, taps) and bias (channels_out,) or None."""
        numbers = {"channels_out": len(weight), "taps": weight.shape[2], "rate": stride, "padding": padding}
        super().__init__(library, "menura_add_source", pack_taps(weight[:, 0]), bias, **numbers)


class LastConvolution(Layer):
    """Down to one channel, and tanh: the output is (steps,)."""

    def __init__(self, library: KernelLibrary, weight: Tensor, bias: Tensor | None) -> None:
        """Pack weights (1, channels_in, taps) and bias (1,) or None."""
        numbers = {"channels_in": weight.shape[1], "taps": weight.shape[2]}
        super().__init__(library, "menura_last", pack_taps(weight[0]), bias, **numbers)


def bias_of(conv: nn.Conv1d | nn.Conv2d) -> Tensor:
    """(channels_out,); zeros for a convolution without."""
    return conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias


def spread(weight: Tensor, groups: int) -> Tensor:
    """(groups * channels, ...) to (groups * padded channels, ...): zeros after the channels of every head, or half."""
    parts = padded(weight.reshape(groups, len(weight) // groups, -1), -2)
    return parts.reshape(-1, *weight.shape[1:])


class Attention:
    """Self-attention of some heads with learned vectors for near distances (Shaw et al., 2018)."""

    def __init__(self, library: KernelLibrary, near_keys: Tensor, near_values: Tensor, heads: int) -> None:
        """Pack vectors (2 * window + 1, head channels) by distance from -window, added to keys and to values."""
        rows, channels = near_keys.shape
        self._library, self._heads, self._window, self._scale = library, heads, rows // 2, channels**-0.5
        self._near_keys, self._near_values = (
            pack_convolution(near[:, :, None], Algorithm.DIRECT, library.panel_channels)
            for near in (near_keys, near_values.T)
        )
        self._head_channels = padded_channels(channels)
        self.channels = heads * self._head_channels
        """Of all heads, padded."""

    def __call__(self, projected: Tensor, output: Tensor, reach: int | None) -> Tensor:
        """Queries, keys and values (steps, 3 * channels), each head by head, to `output` (steps, channels), returned.

        `reach`: steps on each side that a step attends to, at least the window; None for all.
        """
        steps, pitch = projected.shape
        workspace = projected.new_empty(2 * self.channels * (steps + _WORKSPACE_STEPS))
        query, width_bytes = address(projected, 3 * self.channels), self.channels * projected.element_size()
        arguments = AttentionArguments(
            query=query,
            key=query + width_bytes,
            value=query + 2 * width_bytes,
            output=address(output, self.channels),
            near_keys=self._near_keys.data_ptr(),
            near_values=self._near_values.data_ptr(),
            workspace=workspace.data_ptr(),
            steps=steps,
            pitch=pitch,
            output_pitch=output.shape[1],
            reach=max(self._window, steps if reach is None else min(reach, steps)),
            heads=self._heads,
            head_channels=self._head_channels,
            window=self._window,
            scale=self._scale,
        )
        self._library.call("menura_attend", arguments)
        return output


def gate(library: KernelLibrary, x: Tensor, output: Tensor) -> Tensor:
    """The tanh of the first half of x (steps, 2 * channels) times the sigmoid of the second, into (steps, channels)."""
    channels = output.shape[1]
    arguments = GatingArguments(input=address(x, 2 * channels), output=address(output), steps=len(x), channels=channels)
    library.call("menura_gate", arguments)
    return output
