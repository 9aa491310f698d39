"""HuBERT's convolutions and attention on the compiled kernels, in place of torch's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from menura.kernels.layers import Attention, Layer
from menura.kernels.library import CHANNEL_MULTIPLE, KernelLibrary
from menura.kernels.linear import use_products
from menura.kernels.packing import pack_halving
from menura.models import hubert
from menura.models.hubert import FeatureExtractor, Hubert, SelfAttention


def use_kernels(model: Hubert, library: KernelLibrary) -> None:
    """Move the layers that the kernels support to them. For a network on the CPU; safe to repeat."""
    extractor = model.feature_extractor
    config = extractor.config
    weights = [  # (channels_out, channels_in, taps) of all but the first; none where the kernels have them already
        torch.cat([near, far], dim=1).detach().reshape(len(near), -1, inputs).transpose(1, 2)
        for near, far, inputs in zip(extractor.near, extractor.far, config.conv_dim, strict=False)
    ]
    if weights and Front.fits(weights, config.conv_stride[1:]):
        model.feature_extractor = NativeExtractor(extractor, weights, library)
    for layer in model.layers:
        assert isinstance(layer, hubert.Layer)
        attention = layer.attention
        if isinstance(attention, SelfAttention) and attention.head_width % CHANNEL_MULTIPLE == 0:
            layer.attention = NativeSelfAttention(attention, library)
    use_products(model, library)


class Front:
    """One convolution from a single channel, then those that halve the rate; GELU after each, no padding, no biases."""

    def __init__(self, library: KernelLibrary, first_rate: int, weights: Sequence[Tensor]) -> None:
        """Pack layers of weights (channels_out, channels_in, taps) float32 that `fit`; the first's come with calls."""
        self._library, self._first_rate, panel = library, first_rate, library.panel_channels
        self.layers = []
        for weight in weights:
            numbers = dict(zip(("channels_out", "channels_in", "taps"), weight.shape, strict=True), rate=2)
            self.layers.append(Layer(library, "menura_halve", pack_halving(weight, panel), None, **numbers))

    @staticmethod
    def fits(weights: Sequence[Tensor], rates: Sequence[int]) -> bool:
        """Whether the kernels take layers of weights (channels_out, channels_in, taps) and of those strides."""
        return all(
            rate == 2 and weight.shape[2] in (2, 3) and not any(n % CHANNEL_MULTIPLE for n in weight.shape[:2])
            for weight, rate in zip(weights, rates, strict=True)
        )

    def __call__(self, samples: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(samples,) by the first layer's weight (channels, taps) and bias (channels,) to (whole windows, channels)."""
        numbers = {"channels_out": len(weight), "taps": weight.shape[1], "rate": self._first_rate}
        first = Layer(self._library, "menura_first", weight.T.contiguous(), bias, **numbers)
        x = samples.contiguous()
        for layer in (first, *self.layers):
            steps = max(0, (len(x) - layer.arguments.taps) // layer.arguments.rate + 1)
            x = layer(x, x.new_empty(steps, layer.arguments.channels_out))
        return x


class NativeExtractor(FeatureExtractor):
    """The convolutions on the kernels; of the later ones only packed weights are kept."""

    tile_frames = 128

    def __init__(self, extractor: FeatureExtractor, weights: list[Tensor], library: KernelLibrary) -> None:
        nn.Module.__init__(self)
        self.config = extractor.config
        self.first, self.norm_weight, self.norm_bias = extractor.first, extractor.norm_weight, extractor.norm_bias
        self.near, self.far = nn.ParameterList(), nn.ParameterList()
        self._front = Front(library, self.config.conv_stride[0], weights)
        for number, layer in enumerate(self._front.layers):
            self.register_buffer(f"packed_{number}", layer.weights, persistent=False)

    def tile(self, samples: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return self._front(samples, weight, bias)


class NativeSelfAttention(nn.Module):
    """Attention on the kernels, without its projections."""

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
