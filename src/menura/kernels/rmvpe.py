"""RMVPE's convolutions and recurrent layer on the compiled kernels, in place of torch's."""

from __future__ import annotations

from torch import nn

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
        model.gru = Recurrent(library, model.gru)


def _native(layer: nn.Module, library: KernelLibrary) -> nn.Module:
    if not isinstance(layer, (Conv, HalfConv)) or not ImageConvolution.fits(layer.weight):
        return layer
    assert layer.bias is not None
    scale = layer.scale.flatten() if isinstance(layer, HalfConv) else None
    return ImageConvolution(library, layer.weight.detach(), scale, layer.bias.detach().flatten())
