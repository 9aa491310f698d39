"""HuBERT's convolutions and attention on the compiled kernels, in place of torch's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from menura.kernels.attention import Attention
from menura.kernels.hubert_front import Front
from menura.kernels.library import CHANNEL_MULTIPLE, KernelLibrary
from menura.kernels.packing import padded_channels
from menura.models.hubert import FeatureExtractor, Hubert, Layer, SelfAttention


def use_kernels(model: Hubert, library: KernelLibrary) -> None:
    """Move the layers that the kernels support to them. For a network on the CPU; safe to repeat."""
    extractor = model.feature_extractor
    weights, strides = _halving_weights(extractor), extractor.config.conv_stride[1:]
    if weights and weights[0].shape[1] % CHANNEL_MULTIPLE == 0 and Front.fits(weights, strides):
        model.feature_extractor = NativeExtractor(extractor, weights, library)
    for layer in model.layers:
        assert isinstance(layer, Layer)
        attention = layer.attention
        if isinstance(attention, SelfAttention) and attention.head_width == padded_channels(attention.head_width):
            layer.attention = NativeSelfAttention(attention, library)


def _halving_weights(extractor: FeatureExtractor) -> list[Tensor]:
    """(channels_out, channels_in, taps) of all convolutions but the first; none where the kernels have them already."""
    return [
        torch.cat([near, far], dim=1).detach().reshape(len(near), -1, inputs).transpose(1, 2)
        for near, far, inputs in zip(extractor.near, extractor.far, extractor.config.conv_dim, strict=False)
    ]


class NativeExtractor(FeatureExtractor):
    """The convolutions on the kernels; of the later ones only packed weights are kept."""

    tile_frames = 128

    def __init__(self, extractor: FeatureExtractor, weights: list[Tensor], library: KernelLibrary) -> None:
        nn.Module.__init__(self)
        self.config = extractor.config
        self.first, self.norm_weight, self.norm_bias = extractor.first, extractor.norm_weight, extractor.norm_bias
        self.near, self.far = nn.ParameterList(), nn.ParameterList()
        self._front = Front(library, self.config.conv_stride[0], weights)
        for number, packed in enumerate(self._front.weights):
            self.register_buffer(f"packed_{number}", packed, persistent=False)

    def tile(self, samples: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return self._front(samples, weight, bias)


class NativeSelfAttention(nn.Module):
    """Attention on the kernels; its projections stay torch's."""

    def __init__(self, attention: SelfAttention, library: KernelLibrary) -> None:
        super().__init__()
        self.projections = nn.ModuleList([attention.q_proj, attention.k_proj, attention.v_proj])
        nothing = torch.zeros(1, attention.head_width)  # added to the key and the value of a step itself
        self._attend = Attention(library, nothing, nothing, attention.heads)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, frames, channels) to the same shape."""
        rows, attended = x.flatten(0, 1), torch.empty_like(x)
        projected = x.new_empty(len(rows), 3 * x.shape[2])
        for part, projection in zip(projected.chunk(3, dim=1), self.projections, strict=True):
            part.copy_(projection(rows))
        for row, output in zip(torch.split(projected, x.shape[1]), attended, strict=True):
            self._attend(row, output, None)
        return attended
