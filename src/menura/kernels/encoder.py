"""The transformer of a voice's text encoder on the kernels: one row of a batch at a time, time-major."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from menura.kernels.attention import Attention, spread
from menura.kernels.cache import Packing
from menura.kernels.convolution import Convolution, bias_of
from menura.kernels.library import KernelLibrary
from menura.kernels.packing import padded_channels
from menura.models.layers import ChannelNorm, ConvFeedForward, RelativeAttention, length_mask
from menura.models.spans import Span
from menura.models.synthesizer import TextEncoder, embedded
from menura.types import Prior

BLOCK_FRAMES = 5000
"""Frames that the feed-forward layers, four times as wide as the signal, compute at once: 15 MB."""


class _Norm:
    def __init__(self, norm: ChannelNorm) -> None:
        self._gamma, self._beta, self._eps = norm.gamma.detach(), norm.beta.detach(), norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        """(frames, padded channels) to the same shape; the padding stays zero."""
        channels = self._gamma.shape[0]
        normed = F.layer_norm(x[:, :channels], (channels,), self._gamma, self._beta, self._eps)
        return normed if channels == x.shape[1] else F.pad(normed, (0, x.shape[1] - channels))


class _Layer:
    def __init__(
        self,
        library: KernelLibrary,
        attention: RelativeAttention,
        feed_forward: ConvFeedForward,
        norms: tuple[ChannelNorm, ChannelNorm],
        packing: Packing,
    ) -> None:
        def packed(weight: Tensor, bias: Tensor | None) -> Convolution:
            return Convolution(library, weight, bias, packing=packing)

        heads = attention.n_heads
        ways = (attention.conv_q, attention.conv_k, attention.conv_v)
        output, first, second = attention.conv_o, feed_forward.conv_1, feed_forward.conv_2
        self._attention = Attention(library, attention.emb_rel_k[0], attention.emb_rel_v[0], heads)
        self._projections = packed(
            torch.cat([spread(way.weight, heads) for way in ways]),
            torch.cat([spread(bias_of(way), heads) for way in ways]),
        )
        self._output = packed(spread(output.weight.transpose(0, 1), heads).transpose(0, 1), output.bias)
        self._first = packed(_odd(first.weight), first.bias)
        self._second = packed(_odd(second.weight), second.bias)
        self._norm_1, self._norm_2 = map(_Norm, norms)
        self._wide_channels = padded_channels(first.weight.shape[0])
        self._context_frames = first.weight.shape[2] // 2 + second.weight.shape[2] // 2

    def __call__(self, x: Tensor, reach: int | None) -> Tensor:
        """(frames, channels) to the same shape."""
        channels = self._attention.channels
        projected = self._projections(x, x.new_empty(x.shape[0], 3 * channels))
        attended = self._attention(projected, x.new_empty(x.shape[0], channels), reach)
        del projected
        return self._feed_forward(self._norm_1(self._output(attended, torch.empty_like(x), residual=x)))

    def _feed_forward(self, x: Tensor) -> Tensor:
        frames, context = x.shape[0], self._context_frames
        if frames <= BLOCK_FRAMES:
            return self._wide(x)
        output = torch.empty_like(x)
        for block in Span(0, frames).tiles(BLOCK_FRAMES):
            wide = block.widened(context, frames)
            output[block.slice] = self._wide(x[wide.slice])[block.shifted(-wide.start).slice]
        return output

    def _wide(self, x: Tensor) -> Tensor:
        hidden = self._first(x, x.new_empty(x.shape[0], self._wide_channels))
        return self._norm_2(self._second(hidden, torch.empty_like(x), slope=0.0, residual=x))


class Encoder:
    """A text encoder ready to run."""

    def __init__(self, library: KernelLibrary, network: TextEncoder, packing: Packing) -> None:
        """Pack the weights; of the network embeddings and norms are kept."""
        stack = network.encoder
        layers = zip(stack.attn_layers, stack.ffn_layers, stack.norm_layers_1, stack.norm_layers_2, strict=True)
        self._phone, self._pitch = network.emb_phone, network.emb_pitch
        self._layers = [
            _Layer(
                library,
                cast("RelativeAttention", attention),
                cast("ConvFeedForward", feed_forward),
                (cast("ChannelNorm", norm_1), cast("ChannelNorm", norm_2)),
                packing,
            )
            for attention, feed_forward, norm_1, norm_2 in layers
        ]
        projection = network.proj
        self._projection = Convolution(library, projection.weight, projection.bias, packing=packing)
        self._channels_out = projection.weight.shape[0]

    @property
    def modules(self) -> list[nn.Module]:
        """What is kept of the network."""
        return [self._phone] if self._pitch is None else [self._phone, self._pitch]

    def prior(self, content: Tensor, f0_coarse: Tensor | None, lengths: Tensor, reach: int | None) -> Prior:
        """See `Synthesizer.encode`."""
        x = embedded(content, f0_coarse, self._phone, self._pitch)
        parameters = x.new_zeros(*x.shape[:2], self._channels_out)
        for row, target, length in zip(x, parameters, lengths.tolist(), strict=True):
            if length:
                target[:length] = self.encode(row[:length].float(), reach)
        mean, log_scale = parameters.transpose(1, 2).chunk(2, dim=1)
        return Prior(mean=mean, log_scale=log_scale, mask=length_mask(lengths, content.shape[1]).to(x.dtype))

    def encode(self, x: Tensor, reach: int | None) -> Tensor:
        """One row's embeddings (frames, channels) to the prior's parameters (frames, 2 * inter_channels)."""
        missing = padded_channels(x.shape[1]) - x.shape[1]
        x = F.pad(x, (0, missing)) if missing else x.contiguous()
        for layer in self._layers:
            x = layer(x, reach)
        output = self._projection(x, x.new_empty(x.shape[0], padded_channels(self._channels_out)))
        return output[:, : self._channels_out]


def _odd(weight: Tensor) -> Tensor:
    """An even kernel reaches one step further right: with a zero on the left it is odd."""
    return weight if weight.shape[2] % 2 else F.pad(weight, (1, 0))
