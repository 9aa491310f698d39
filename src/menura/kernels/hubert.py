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
    """Put on the kernels what they take. For a network on the CPU that stays there; doing it again changes nothing."""
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
    """The convolutions on the kernels; only they hold the later ones' weights."""

    tile_frames = 128

    def __init__(self, extractor: FeatureExtractor, weights: list[Tensor], library: KernelLibrary) -> None:
        nn.Module.__init__(self)
        self.config = extractor.config
        self.first, self.norm_weight, self.norm_bias = extractor.first, extractor.norm_weight, extractor.norm_bias
        self.near, self.far = nn.ParameterList(), nn.ParameterList()
        self._front = Front.of(library, self.config.conv_stride[0], weights)
        for number, packed in enumerate(self._front.weights):
            self.register_buffer(f"packed_{number}", packed, persistent=False)

    def tile(self, samples: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return self._front(samples, weight, bias)


class NativeSelfAttention(nn.Module):
    """Attention without a mask on the kernels, with a mask by torch."""

    def __init__(self, attention: SelfAttention, library: KernelLibrary) -> None:
        super().__init__()
        self.by_torch = attention
        nothing = torch.zeros(1, attention.head_width)  # added to the key and the value of a step itself
        self._attend = Attention.of(library, nothing, nothing, attention.heads)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, frames, channels) to the same shape."""
        if mask is not None:
            attended: Tensor = self.by_torch(x, mask)
            return attended
        rows, width = x.flatten(0, 1), x.shape[2]
        projected = x.new_empty(len(rows), 3 * width)
        projections = (self.by_torch.q_proj, self.by_torch.k_proj, self.by_torch.v_proj)
        for part, projection in zip(projected.chunk(3, dim=1), projections, strict=True):
            part.copy_(projection(rows))
        attended = torch.empty_like(x)
        for row, output in zip(torch.split(projected, x.shape[1]), attended, strict=True):
            self._attend(row, output, None)
        return attended
