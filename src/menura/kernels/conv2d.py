"""3 x 3 convolutions of images on the kernels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from menura.kernels.library import CHANNEL_MULTIPLE, ImageCallArguments, ImageLayerArguments, KernelLibrary, address
from menura.kernels.packing import pack_image


class ImageConvolution(nn.Module):
    """relu(convolution * scale + bias) + residual, "same" size; in the place of a Conv2d and its batch norm."""

    weight: Tensor

    def __init__(self, library: KernelLibrary, weight: Tensor, scale: Tensor | None, bias: Tensor) -> None:
        """Pack a weight (channels_out, channels_in, 3, 3) that `fits`, and kept as float32 or float16.

        Scale, None for 1, and bias are (channels_out,).
        """
        super().__init__()
        self._library = library
        self.register_buffer("weight", pack_image(weight, library.panel_channels))
        self._bias = bias.float().contiguous().clone()
        self._scale = torch.ones_like(self._bias) if scale is None else scale.float().contiguous().clone()
        self._arguments = ImageLayerArguments(
            weights=self.weight.data_ptr(),
            scale=self._scale.data_ptr(),
            bias=self._bias.data_ptr(),
            channels_in=weight.shape[1],
            channels_out=weight.shape[0],
            half=int(weight.dtype == torch.float16),
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
