"""What the voice networks share: weight-normed convolutions, attention, WaveNet, residual blocks, stretches of signals.

Attribute names are RVC's checkpoint names. Layers have weight norm (Salimans & Kingma, 2016) for training only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

LEAKY_SLOPE = 0.1
"""Slope of HiFi-GAN's leaky ReLU below zero (Kong et al., 2020)."""
_QUERY_BLOCK = 256
"""Queries whose scores are held at once where attention has a reach."""


def maybe_weight_norm(layer: nn.Module, *, training: bool) -> nn.Module:
    """The layer with weight norm over its first axis for training; as it is for inference."""
    return weight_norm(layer) if training else layer


@dataclass(frozen=True, slots=True)
class Span:
    """Steps [start, stop) of some signal."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def widened(self, steps: int, length: int) -> Span:
        """With that many more on each side, as far as a signal of that length goes."""
        return Span(max(0, self.start - steps), min(length, self.stop + steps))

    def shifted(self, steps: int) -> Span:
        return Span(self.start + steps, self.stop + steps)

    def scaled(self, factor: int) -> Span:
        """The same time at a rate that is higher by a factor."""
        return Span(self.start * factor, self.stop * factor)

    @property
    def slice(self) -> slice:
        return slice(self.start, self.stop)

    def tiles(self, steps: int) -> Iterator[Span]:
        """Its parts, of at most so many steps each."""
        for start in range(self.start, self.stop, steps):
            yield Span(start, min(start + steps, self.stop))


def samples_of(source: Tensor | None, steps: Span, step_samples: int) -> Tensor | None:
    """The part of a (..., samples) signal that belongs to some steps; None stays None."""
    return None if source is None else source[..., steps.scaled(step_samples).slice]


class TimeConv(nn.Conv1d):
    """Convolution over time of (batch, channels, samples) or (batch, channels, 1, samples).

    In the latter form, with channels innermost in memory, oneDNN's take 0.7 of the time of conv1d on a CPU.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 3:
            return super().forward(x)
        stride, padding, dilation = (1, self.stride[0]), (0, int(self.padding[0])), (1, self.dilation[0])
        return F.conv2d(x, self.weight.unsqueeze(2), self.bias, stride, padding, dilation)


class TimeConvTranspose(nn.ConvTranspose1d):
    """Upsampling over time of either form."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        if x.dim() == 3:
            return super().forward(x, output_size)
        stride, padding, more = (1, self.stride[0]), (0, int(self.padding[0])), (0, self.output_padding[0])
        return F.conv_transpose2d(x, self.weight.unsqueeze(2), self.bias, stride, padding, more)


def same_padding(kernel_size: int, dilation: int = 1) -> int:
    """Zeros on each side that keep an odd-sized convolution's length."""
    return dilation * (kernel_size - 1) // 2


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """The signal where the mask is 1; all of it where there is none."""
    return x if mask is None else x * mask


def length_mask(lengths: Tensor, frames: int) -> Tensor:
    """Lengths (batch,) to a mask (batch, 1, frames) float32 of the frames that exist."""
    positions = torch.arange(frames, device=lengths.device)
    return (positions < lengths[:, None]).to(torch.float32)[:, None, :]


class ChannelNorm(nn.Module):
    """Layer norm over the channels of (batch, channels, frames)."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.gamma, self.beta, self.eps = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels)), eps

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, frames) to the same shape."""
        normed = F.layer_norm(x.transpose(1, 2), self.gamma.shape, self.gamma, self.beta, self.eps)
        return normed.transpose(1, 2)


class RelativeAttention(nn.Module):
    """Self-attention with learned embeddings of the distances up to a window (Shaw et al., 2018), as in VITS."""

    def __init__(self, channels: int, n_heads: int, window: int, p_dropout: float) -> None:
        super().__init__()
        self.n_heads, self.head_dim, self.window, self.p_dropout = n_heads, channels // n_heads, window, p_dropout
        self.conv_q, self.conv_k, self.conv_v, self.conv_o = (nn.Conv1d(channels, channels, 1) for _ in range(4))
        self.emb_rel_k, self.emb_rel_v = (nn.Parameter(torch.empty(1, 2 * window + 1, self.head_dim)) for _ in "kv")
        for embedding in (self.emb_rel_k, self.emb_rel_v):
            nn.init.normal_(embedding, 0.0, self.head_dim**-0.5)
        for conv in (self.conv_q, self.conv_k, self.conv_v):
            nn.init.xavier_uniform_(conv.weight)

    def forward(self, x: Tensor, mask: Tensor | None, reach: int | None = None) -> Tensor:
        """(batch, channels, frames) to the same shape; mask (batch, 1, frames) is 1 where a frame exists.

        `reach`: frames on each side that a frame attends to, at least `window`; None for all.
        """
        frames = x.shape[-1]
        # Keys and values get rows on both sides, so that each block of queries sees an equally long stretch of them
        # and the band of near distances is a plain strided view of the scores.
        side = self.window if reach is None else max(self.window, min(reach, frames))
        limited = reach is not None and reach < frames
        query = self._heads(self.conv_q(x)) * self.head_dim**-0.5
        key = F.pad(self._heads(self.conv_k(x)), (0, 0, side, side))
        value = F.pad(self._heads(self.conv_v(x)), (0, 0, side, side))
        full = mask is None or (mask.device.type == "cpu" and bool(mask.all()))  # a GPU would have to be waited for
        gone = None if mask is None or full else F.pad(mask, (side, side), value=1.0)[:, :, None, :] == 0
        step = _QUERY_BLOCK if limited else frames
        parts = []
        for start in range(0, frames, step):
            rows = slice(start, min(start + step, frames))
            # Positions among the padded keys: those in reach that exist, and `window` more, where the band may end.
            low, high = max(start, side - self.window), min(rows.stop + 2 * side, side + frames + self.window)
            scores = query[:, :, rows] @ key[:, :, low:high].transpose(-2, -1)
            nearest = start + side - self.window - low
            self._band(scores, nearest).add_(query[:, :, rows] @ self.emb_rel_k.transpose(-2, -1))
            scores[..., : max(0, side - low)] = -torch.inf
            scores[..., side + frames - low :] = -torch.inf
            if limited:
                _mask_corners(scores, side, low - start)
            if gone is not None:
                scores.masked_fill_(gone[..., low:high] & (scores > -torch.inf), -1e4)
            weights = F.dropout(torch.softmax(scores, dim=-1), self.p_dropout, self.training)
            parts.append(weights @ value[:, :, low:high] + self._band(weights, nearest) @ self.emb_rel_v)
        out = torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]
        merged: Tensor = self.conv_o(out.transpose(2, 3).reshape(x.shape))
        return merged

    def _heads(self, x: Tensor) -> Tensor:
        batch, _, frames = x.shape
        return x.view(batch, self.n_heads, self.head_dim, frames).transpose(2, 3)

    def _band(self, scores: Tensor, nearest: int) -> Tensor:
        """View as (batch, heads, rows, 2 w + 1) by distance; `nearest` is the key at distance -w of the first row."""
        batch, heads, rows, keys = scores.shape
        strides = (heads * rows * keys, rows * keys, keys + 1, 1)
        return scores.as_strided((batch, heads, rows, 2 * self.window + 1), strides, nearest)


def _mask_corners(scores: Tensor, reach: int, skipped: int) -> None:
    """Take the two triangles beyond `reach` out of a block of scores, whose key 0 is `reach - skipped` before row 0."""
    rows = scores.shape[2]
    early, late = scores[..., : max(0, rows - skipped)], scores[..., 2 * reach - skipped :]
    square = scores.new_ones(rows, max(early.shape[-1], late.shape[-1]), dtype=torch.bool)
    early.masked_fill_(square[:, : early.shape[-1]].tril(-1 - skipped), -torch.inf)
    late.masked_fill_(square[:, : late.shape[-1]].triu(1), -torch.inf)


class ConvFeedForward(nn.Module):
    """Two convolutions with a ReLU between."""

    def __init__(self, channels: int, filter_channels: int, kernel_size: int, p_dropout: float) -> None:
        super().__init__()
        self.p_dropout, self.padding = p_dropout, ((kernel_size - 1) // 2, kernel_size // 2)
        self.conv_1 = nn.Conv1d(channels, filter_channels, kernel_size)
        self.conv_2 = nn.Conv1d(filter_channels, channels, kernel_size)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, channels, frames) to the same shape."""
        h = torch.relu(self.conv_1(F.pad(masked(x, mask), self.padding)))
        h = F.dropout(h, self.p_dropout, self.training)
        return masked(self.conv_2(F.pad(masked(h, mask), self.padding)), mask)


class WaveNet(nn.Module):
    """Gated convolutions with skip connections and a global condition (van den Oord et al., 2016)."""

    def __init__(self, channels: int, kernel_size: int, n_layers: int, gin_channels: int, *, training: bool) -> None:
        super().__init__()
        self.n_layers, padding = n_layers, same_padding(kernel_size)
        self.context_frames = n_layers * padding
        """Frames on each side that a frame depends on."""
        make = partial(maybe_weight_norm, training=training)
        self.in_layers = nn.ModuleList(
            make(nn.Conv1d(channels, 2 * channels, kernel_size, padding=padding)) for _ in range(n_layers)
        )
        self.res_skip_layers = nn.ModuleList(
            make(nn.Conv1d(channels, 2 * channels if i < n_layers - 1 else channels, 1)) for i in range(n_layers)
        )
        self.cond_layer = make(nn.Conv1d(gin_channels, 2 * channels * n_layers, 1))

    def forward(self, x: Tensor, mask: Tensor | None, g: Tensor) -> Tensor:
        """Sum of the layers' skip outputs (batch, channels, frames); x as well, g is (batch, gin_channels, 1)."""
        conditions = self.cond_layer(g).chunk(self.n_layers, dim=1)
        skip_sum: Tensor | None = None
        for i, condition in enumerate(conditions):
            tanh_half, sigmoid_half = (self.in_layers[i](x) + condition).chunk(2, dim=1)
            out = self.res_skip_layers[i](torch.tanh(tanh_half) * torch.sigmoid(sigmoid_half))
            if i < self.n_layers - 1:
                residual, out = out.chunk(2, dim=1)
                x = masked(x + residual, mask)
            skip_sum = out if skip_sum is None else skip_sum + out
        assert skip_sum is not None
        return masked(skip_sum, mask)


class ResidualBlock(nn.Module):
    """HiFi-GAN's dilated convolutions in steps: what a step gives is added to its input.

    Of kind "1" a step has two, the first dilated, of the lighter "2" a dilated one; "mrf" is "1" under the names of
    Applio's MRF HiFi-GAN.
    """

    def __init__(
        self,
        kind: str,
        channels: int,
        kernel_size: int,
        dilations: tuple[int, ...],
        *,
        training: bool,
        slope: float = LEAKY_SLOPE,
    ) -> None:
        super().__init__()
        self.kind, self.slope = kind, slope
        self.context_samples = sum(
            same_padding(kernel_size, d) + (kind != "2") * same_padding(kernel_size) for d in dilations
        )
        """Samples on each side that a sample depends on."""

        def make(dilation: int = 1) -> nn.Module:
            padding = same_padding(kernel_size, dilation)
            conv = TimeConv(channels, channels, kernel_size, dilation=dilation, padding=padding)
            nn.init.normal_(conv.weight, 0.0, 0.01)
            return maybe_weight_norm(conv, training=training)

        if kind == "mrf":
            self.layers = nn.ModuleList(nn.ModuleDict({"conv1": make(d), "conv2": make()}) for d in dilations)
        elif kind == "2":
            self.convs = nn.ModuleList(make(d) for d in dilations)
        else:
            self.convs1 = nn.ModuleList(make(d) for d in dilations)
            self.convs2 = nn.ModuleList(make() for _ in dilations)

    def steps(self) -> list[tuple[nn.Module, ...]]:
        """The convolutions between one addition and the next, with a leaky ReLU before each."""
        if self.kind == "mrf":
            return [tuple(layer.children()) for layer in self.layers]
        return list(zip(self.convs)) if self.kind == "2" else list(zip(self.convs1, self.convs2, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, [1,] samples) to the same shape; `x` is left as it was."""
        for first, *others in self.steps():
            h = first(F.leaky_relu(x, self.slope))
            for conv in others:
                # In place on fresh convolution outputs only: a quarter less memory traffic, and safe for autograd.
                h = conv(F.leaky_relu(h, self.slope, inplace=True))
            x = h.add_(x)
        return x
