"""RMVPE's convolutions and recurrent layer on the compiled kernels, in place of torch's."""

from __future__ import annotations

from torch import Tensor, nn

from menura.kernels.conv2d import ImageConvolution
from menura.kernels.library import KernelLibrary
from menura.kernels.recurrent import Recurrent
from menura.models.rmvpe import Block, Conv, HalfConv, Rmvpe


def use_kernels(model: Rmvpe, library: KernelLibrary) -> None:
    """Move the layers that the kernels support to them. For a network on the CPU; safe to repeat."""
    for block in model.modules():
        if isinstance(block, Block):
            block.first, block.second = _native(block.first, library), _native(block.second, library)
    if isinstance(model.gru, nn.GRU) and Recurrent.fits(model.gru):
        model.gru = NativeGru(Recurrent.of(library, model.gru))


def _native(layer: nn.Module, library: KernelLibrary) -> nn.Module:
    if not isinstance(layer, (Conv, HalfConv)) or not ImageConvolution.fits(layer.weight):
        return layer
    assert layer.bias is not None
    scale = layer.scale.flatten() if isinstance(layer, HalfConv) else None
    return NativeConv(ImageConvolution.of(library, layer.weight.detach(), scale, layer.bias.detach().flatten()))


class NativeConv(nn.Module):
    """A convolution, its batch norm and ReLU."""

    def __init__(self, convolution: ImageConvolution) -> None:
        super().__init__()
        self.register_buffer("weight", convolution.weights)
        self._convolution = convolution

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """relu(convolution) + residual."""
        return self._convolution(x.float(), None if residual is None else residual.float())


class NativeGru(nn.Module):
    """The recurrent layer."""

    def __init__(self, layer: Recurrent) -> None:
        super().__init__()
        self.register_buffer("weight", layer.weights)
        self.register_buffer("input_weight", layer.input_weights)
        self._layer = layer

    def forward(self, features: Tensor) -> tuple[Tensor, None]:
        """The states, and None for the last state that torch's GRU returns."""
        return self._layer(features.float().contiguous()), None
