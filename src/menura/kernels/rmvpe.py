"""RMVPE's convolutions and recurrent layer on the compiled kernels, in place of torch's."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from menura.kernels.library import (
    CHANNEL_MULTIPLE,
    ImageCallArguments,
    ImageLayerArguments,
    KernelLibrary,
    RecurrentCallArguments,
    RecurrentLayerArguments,
    address,
)
from menura.kernels.packing import panels
from menura.models.rmvpe import Block, Conv, Rmvpe

_STATE_HALVES, _REST_HALVES = 12, 3
"""A panel and a remainder's panel in halves of others' panels: kStateVecs and kRestVecs of cpp/recurrent.h."""


def use_kernels(model: Rmvpe, library: KernelLibrary) -> None:
    """Move the layers that the kernels support to them. For a network on the CPU; safe to repeat."""
    for block in model.modules():
        if isinstance(block, Block):
            block.first, block.second = _native(block.first, library), _native(block.second, library)
    if isinstance(model.gru, nn.GRU) and Recurrent.fits(model.gru):
        model.gru = Recurrent(library, model.gru)


def _native(layer: nn.Module, library: KernelLibrary) -> nn.Module:
    if not isinstance(layer, Conv) or not ImageConvolution.fits(layer.weight):
        return layer
    assert layer.bias is not None
    return ImageConvolution(library, layer.weight.detach(), layer.scale, layer.bias.detach())


class ImageConvolution(nn.Module):
    """relu(convolution * scale + bias) + residual, 3 x 3, "same" size; in the place of a Conv2d and its batch norm."""

    weight: Tensor

    def __init__(self, library: KernelLibrary, weight: Tensor, scale: Tensor | None, bias: Tensor) -> None:
        """Pack a weight (channels_out, channels_in, 3, 3), float32 or float16, that `fits`; scale None is 1."""
        super().__init__()
        out, channels_in = weight.shape[:2]
        rows = weight.permute(2, 3, 1, 0).reshape(1, 9 * channels_in, out)
        self.register_buffer("weight", panels(rows, library.panel_channels))
        self._library, self._bias = library, bias.float().contiguous().clone()
        self._scale = torch.ones_like(self._bias) if scale is None else scale.float().contiguous().clone()
        self._arguments = ImageLayerArguments(
            weights=self.weight.data_ptr(),
            scale=self._scale.data_ptr(),
            bias=self._bias.data_ptr(),
            channels_in=channels_in,
            channels_out=out,
            half=weight.dtype == torch.float16,
        )

    @staticmethod
    def fits(weight: Tensor) -> bool:
        """Whether the kernels take a layer of weights (channels_out, channels_in, rows, columns)."""
        return weight.shape[2:] == (3, 3) and all(channels % CHANNEL_MULTIPLE == 0 for channels in weight.shape[:2])

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """(images, channels_in, height, width) float32 to (images, channels_out, height, width).

        The result has its channels innermost in memory; the residual is of its shape.
        """
        x = x.contiguous(memory_format=torch.channels_last)
        images, _, height, width = x.shape
        shape = (images, self._arguments.channels_out, height, width)
        output = torch.empty(shape, dtype=torch.float32, memory_format=torch.channels_last)
        if residual is not None:
            residual = residual.contiguous(memory_format=torch.channels_last)
            if residual.shape != shape:
                raise ValueError(f"a residual of shape {tuple(residual.shape)} for an output of {shape}")
        call = ImageCallArguments(
            input=address(x, self._arguments.channels_in),
            output=address(output),
            residual=None if residual is None else address(residual),
            images=images,
            height=height,
            width=width,
        )
        self._library.call("menura_convolve_image", self._arguments, call)
        return output


class Recurrent(nn.Module):
    """Gated recurrent units in the place of torch's."""

    weight: Tensor
    input_weight: Tensor

    def __init__(self, library: KernelLibrary, gru: nn.GRU) -> None:
        """Pack a layer that `fits`; float32, on the CPU."""
        super().__init__()
        endings = ("", "_reverse") if gru.bidirectional else ("",)

        def parts(name: str) -> list[Tensor]:
            return [getattr(gru, f"{name}_l0{ending}").detach() for ending in endings]

        half = library.panel_channels // 2
        widths = _STATE_HALVES * half, _REST_HALVES * half
        self.register_buffer("weight", torch.cat([panels(matrix.T[None], *widths) for matrix in parts("weight_hh")]))
        self.register_buffer("input_weight", torch.cat(parts("weight_ih")).contiguous())
        """(directions * 3 * hidden, inputs)"""
        self._library = library
        self._bias, self._input_bias = (torch.cat(parts(name)) for name in ("bias_hh", "bias_ih"))
        self._arguments = RecurrentLayerArguments(
            weights=self.weight.data_ptr(), bias=self._bias.data_ptr(), hidden=gru.hidden_size, directions=len(endings)
        )

    @staticmethod
    def fits(gru: nn.GRU) -> bool:
        """Whether the kernels take it."""
        return gru.num_layers == 1 and gru.batch_first and bool(gru.bias) and gru.hidden_size % CHANNEL_MULTIPLE == 0

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """(sequences, steps, inputs) to the states (sequences, steps, directions * hidden), from zero; no last."""
        sequences, steps, _ = x.shape
        gates = F.linear(x, self.input_weight, self._input_bias)
        states = x.new_empty(sequences, steps, self._arguments.directions * self._arguments.hidden)
        call = RecurrentCallArguments(input=address(gates), output=address(states), sequences=sequences, steps=steps)
        self._library.call("menura_run_recurrent", self._arguments, call)
        return states, None
