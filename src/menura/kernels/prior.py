"""A voice's text encoder and inverse flow on the kernels: one row of a batch at a time, time-major."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from menura.kernels.cache import Packing
from menura.kernels.layers import Attention, Convolution, bias_of, gate, spread
from menura.kernels.packing import padded
from menura.models.layers import ChannelNorm, ConvFeedForward, RelativeAttention, Span, length_mask
from menura.models.synthesizer import Coupling, Flow, TextEncoder, embedded
from menura.types import Prior

BLOCK_FRAMES = 5000
"""Frames that the flow, and the feed-forward layers, four times as wide as the signal, compute at once: 25 MB."""


class _Layer:
    def __init__(
        self,
        packing: Packing,
        attention: RelativeAttention,
        feed_forward: ConvFeedForward,
        norms: tuple[ChannelNorm, ChannelNorm],
    ) -> None:
        heads, output = attention.n_heads, attention.conv_o
        ways = (attention.conv_q, attention.conv_k, attention.conv_v)
        self._attention = Attention(packing.library, attention.emb_rel_k[0], attention.emb_rel_v[0], heads)
        self._projections = Convolution(
            packing,
            torch.cat([spread(way.weight, heads) for way in ways]),
            torch.cat([spread(bias_of(way), heads) for way in ways]),
        )
        self._output = Convolution(packing, spread(output.weight.transpose(0, 1), heads).transpose(0, 1), output.bias)
        wide = (feed_forward.conv_1, feed_forward.conv_2)
        # An even kernel reaches one step further right: with a zero on the left it is odd.
        self._first, self._second = (
            Convolution(packing, F.pad(conv.weight, (1 - conv.weight.shape[2] % 2, 0)), conv.bias) for conv in wide
        )
        self._context_frames = sum(conv.weight.shape[2] // 2 for conv in wide)
        self._norms = norms

    def seen(self, kept: Span, reach: int | None, frames: int) -> Span:
        """What some of a signal's frames are made of."""
        return Span(0, frames) if reach is None else kept.widened(reach + self._context_frames, frames)

    def __call__(self, x: Tensor, reach: int | None, kept: Span) -> Tensor:
        """(frames, channels) to the frames kept of as many."""
        part = kept.widened(self._context_frames, len(x))
        projected = self._projections(x)
        attended = self._attention(projected, x.new_empty(len(x), self._attention.channels), reach)
        del projected
        x_part = _normed(self._norms[0], self._output(attended[part.slice], residual=x[part.slice]))
        output = x.new_empty(len(kept), x.shape[1])
        for block in kept.tiles(BLOCK_FRAMES):
            wide = block.widened(self._context_frames, len(x))
            y = x_part[wide.shifted(-part.start).slice]
            y = _normed(self._norms[1], self._second(self._first(y), slope=0.0, residual=y))
            output[block.shifted(-kept.start).slice] = y[block.shifted(-wide.start).slice]
        return output


def _normed(norm: ChannelNorm, x: Tensor) -> Tensor:
    """(frames, padded channels) to the same shape; the padding stays zero."""
    channels = len(norm.gamma)
    return padded(F.layer_norm(x[:, :channels], (channels,), norm.gamma, norm.beta, norm.eps))


class Encoder:
    """A text encoder ready to run."""

    def __init__(self, network: TextEncoder, packing: Packing) -> None:
        """Pack the weights; of the network embeddings and norms are kept."""
        stack = network.encoder
        norms = zip(stack.norm_layers_1, stack.norm_layers_2, strict=True)
        layers: Any = zip(stack.attn_layers, stack.ffn_layers, norms, strict=True)
        self._layers = [_Layer(packing, *parts) for parts in layers]
        self._phone, self._pitch = network.emb_phone, network.emb_pitch
        self._projection = Convolution(packing, network.proj.weight, network.proj.bias)
        self._channels_out = len(network.proj.weight)
        self.modules = [module for module in (self._phone, self._pitch) if module is not None]
        """What is kept of the network, as in the flow."""

    def prior(
        self,
        content: Tensor,
        f0_coarse: Tensor | None,
        lengths: Tensor | None,
        reach_frames: int | None = None,
        wanted: Span | None = None,
    ) -> Prior:
        """See `Synthesizer.encode`."""
        x = embedded(content, f0_coarse, self._phone, self._pitch)
        parameters = x.new_zeros(*x.shape[:2], self._channels_out)
        counts = [x.shape[1]] * len(x) if lengths is None else lengths.tolist()
        for row, target, length in zip(x, parameters, counts, strict=True):
            kept = Span(0, length) if wanted is None else wanted.widened(0, length)
            if kept.start < kept.stop:
                target[kept.slice] = self.encode(row[:length].float(), reach_frames, kept)
        mean, log_scale = parameters.transpose(1, 2).chunk(2, dim=1)
        mask = None if lengths is None else length_mask(lengths, content.shape[1]).to(x.dtype)
        return Prior(mean=mean, log_scale=log_scale, mask=mask)

    def encode(self, x: Tensor, reach: int | None, kept: Span) -> Tensor:
        """One row's embeddings (frames, channels) to the prior's parameters (frames kept, 2 * inter_channels)."""
        spans = [kept]
        for layer in reversed(self._layers):
            spans.append(layer.seen(spans[-1], reach, len(x)))
        seen = spans.pop()
        x = padded(x[seen.slice]).contiguous()
        for layer in self._layers:
            kept = spans.pop()
            x, seen = layer(x, reach, kept.shifted(-seen.start)), kept
        return self._projection(x)[:, : self._channels_out]


class _Coupling:
    def __init__(self, packing: Packing, coupling: Coupling, *, flipped: bool) -> None:
        first, wavenet = coupling.pre, coupling.enc
        gated, mixing = (
            [cast("nn.Conv1d", layer) for layer in layers] for layers in (wavenet.in_layers, wavenet.res_skip_layers)
        )
        channels = len(first.weight)
        self._library, self.flipped = packing.library, flipped
        self.condition = wavenet.cond_layer
        self._first = Convolution(packing, first.weight.flip(1) if flipped else first.weight, first.bias)
        self._gated = [Convolution(packing, spread(layer.weight, 2), spread(bias_of(layer), 2)) for layer in gated]
        self._biases = [bias_of(layer).detach().clone() for layer in gated]
        self._added = [
            Convolution(packing, layer.weight[:channels], bias_of(layer)[:channels]) for layer in mixing[:-1]
        ]
        self._moves = [
            Convolution(packing, weight, bias) for weight, bias in _moves(mixing, coupling.post, channels, flipped)
        ]

    def __call__(self, still: Tensor, moving: Tensor, condition: Tensor) -> None:
        """Undo it: change `moving` by `still`, both (frames, padded half); `condition` is (layers * 2 * channels,)."""
        x = self._first(still)
        wide, narrow = x.new_empty(len(x), 2 * x.shape[1]), torch.empty_like(x)
        offsets = condition.chunk(len(self._gated))
        for number, layer in enumerate(self._gated):
            offset = spread(self._biases[number] + offsets[number], 2)
            gate(self._library, layer.with_bias(offset)(x, wide), narrow)
            self._moves[number](narrow, moving, residual=moving)
            if number < len(self._added):
                self._added[number](narrow, x, residual=x)


def _moves(
    mixing: Sequence[nn.Conv1d], last: nn.Conv1d, channels: int, flipped: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Weight and bias from each layer's gate to its share in what the coupling adds.

    A layer's skip output goes through the last convolution, which has one tap as well: one product of both replaces
    them, and no sum is kept in between. Negative, for the inverse.
    """
    out, bias = -last.weight[:, :, 0].double(), -bias_of(last).double()
    if flipped:
        out, bias = out.flip(0), bias.flip(0)
    for number, layer in enumerate(mixing):
        weight, own = layer.weight[-channels:, :, 0].double(), bias_of(layer)[-channels:].double()
        yield (out @ weight).float()[:, :, None], (out @ own + (bias if number == 0 else 0)).float()


class InverseFlow:
    """A flow's inverse, from the prior's latent to the decoder's, ready to run."""

    def __init__(self, flow: Flow, packing: Packing) -> None:
        """Pack the weights; of the flow only what the speaker's embedding goes through is kept."""
        self._couplings = [
            _Coupling(packing, coupling, flipped=number % 2 == 0)
            for number, coupling in enumerate(reversed(flow.couplings))
        ]
        self._context_frames = flow.context_frames
        self.modules = [coupling.condition for coupling in self._couplings]

    def reverse(self, z_p: Tensor, mask: Tensor | None, g: Tensor) -> Tensor:
        """See `Synthesizer.reverse_flow`; a row's mask has to be ones, then zeros."""
        mask = z_p.new_ones(1, 1, z_p.shape[2]) if mask is None else mask
        mask, g = mask.expand(z_p.shape[0], -1, -1), g.expand(z_p.shape[0], -1, -1)
        conditions = [coupling.condition(g)[:, :, 0] for coupling in self._couplings]
        z = z_p.new_zeros(z_p.shape[0], z_p.shape[2], z_p.shape[1])
        for row, length in enumerate(mask[:, 0].sum(dim=1).long().tolist()):
            own = [condition[row] for condition in conditions]
            z[row, :length] = self.apply(z_p[row, :, :length].T.float(), own)
        return z.transpose(1, 2)

    def apply(self, z_p: Tensor, conditions: Sequence[Tensor]) -> Tensor:
        """One row's z_p (frames, channels) to z of the same shape; conditions by coupling, (layers * 2 * channels,)."""
        z = z_p.new_empty(z_p.shape)
        for block in Span(0, len(z_p)).tiles(BLOCK_FRAMES):
            wide = block.widened(self._context_frames, len(z_p))
            halves = [
                padded(half).clone(memory_format=torch.contiguous_format) for half in z_p[wide.slice].chunk(2, dim=1)
            ]
            for coupling, condition in zip(self._couplings, conditions, strict=True):
                still, moving = halves[::-1] if coupling.flipped else halves
                coupling(still, moving, condition)
            for half, target in zip(halves, z.chunk(2, dim=1), strict=True):
                target[block.slice] = half[block.shifted(-wide.start).slice, : target.shape[1]]
        return z
