"""3 x 3 convolutions of images on the kernels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from menura.kernels.library import (
    CHANNEL_MULTIPLE,
    ImageCallArguments,
    ImageLayerArguments,
    KernelLibrary,
    address,
)
from menura.kernels.packing import pack_image


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConvolution:
    """relu(convolution * scale + bias) + residual, "same" size, with the tensors that its arguments point to."""

    library: KernelLibrary
    weights: Tensor
    scale: Tensor
    bias: Tensor
    arguments: ImageLayerArguments

    @staticmethod
    def fits(weight: Tensor) -> bool:
        """Whether the kernels take a layer of weights (channels_out, channels_in, rows, columns)."""
        return weight.shape[2:] == (3, 3) and all(channels % CHANNEL_MULTIPLE == 0 for channels in weight.shape[:2])

    @classmethod
    def of(cls, library: KernelLibrary, weight: Tensor, scale: Tensor | None, bias: Tensor) -> ImageConvolution:
        """Pack a layer.

        Args:
            library: whose kernels will run it.
            weight: (channels_out, channels_in, 3, 3) that `fits`, float32 or float16, and kept as such.
            scale: (channels_out,), None for 1.
            bias: (channels_out,).
        """
        weights = pack_image(weight, library.panel_channels)
        factors = torch.ones_like(bias, dtype=torch.float32) if scale is None else scale.float().contiguous().clone()
        offsets = bias.float().contiguous().clone()
        arguments = ImageLayerArguments(
            weights=weights.data_ptr(),
            scale=factors.data_ptr(),
            bias=offsets.data_ptr(),
            channels_in=weight.shape[1],
            channels_out=weight.shape[0],
            half=int(weights.dtype == torch.float16),
        )
        return cls(library=library, weights=weights, scale=factors, bias=offsets, arguments=arguments)

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Convolve a batch of images.

        Args:
            x: (images, channels_in, height, width) float32.
            residual: (images, channels_out, height, width) float32; None for none.

        Returns:
            (images, channels_out, height, width), channels innermost in memory.
        """
        x = x.contiguous(memory_format=torch.channels_last)
        images, _, height, width = x.shape
        shape = (images, self.arguments.channels_out, height, width)
        output = torch.empty(shape, dtype=torch.float32, memory_format=torch.channels_last)
        if residual is not None:
            residual = residual.contiguous(memory_format=torch.channels_last)
            if residual.shape != shape:
                raise ValueError(f"a residual of shape {tuple(residual.shape)} for an output of {shape}")
        call = ImageCallArguments(
            input=address(x, self.arguments.channels_in),
            output=address(output),
            residual=None if residual is None else address(residual),
            images=images,
            height=height,
            width=width,
            threads=torch.get_num_threads(),
        )
        self.library.call("menura_convolve_image", self.arguments, call)
        return output
