"""What starter voices are made with, on the compiled kernels: SwiftF0, their content encoder and their vocoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from menura.kernels.cache import Packing
from menura.kernels.layers import Attention, Convolution, bias_of
from menura.kernels.library import (
    CHANNEL_MULTIPLE,
    PLANE_GROUP,
    Algorithm,
    CallArguments,
    KernelLibrary,
    PlaneCallArguments,
    PlaneLayerArguments,
    WideningLayerArguments,
    address,
)
from menura.kernels.packing import pack_convolution
from menura.models.source_filter import ConvNextBlock, SourceFilter
from menura.models.swift import LAST_BANDS, PITCHES, Block, SwiftF0
from menura.models.whisper_encoder import Block as EncoderBlock
from menura.models.whisper_encoder import WhisperContentEncoder

_PITCH_STEP, _AROUND = 32, 16
"""Rows of planes are multiples of so many floats, and so many zeros lie around a plane."""


def plane(height: int, channels: int, width: int) -> Tensor:
    """(height, channels, pitch) without content, with room for `width` places in a row and zeros after them."""
    pitch = (width // _PITCH_STEP + 1) * _PITCH_STEP
    memory = torch.empty(height * channels * pitch + 2 * _AROUND)
    memory[:_AROUND] = memory[-_AROUND:] = 0
    return memory[_AROUND:-_AROUND].view(height, channels, pitch)


class PlaneConvolution:
    """leaky_relu(convolution + bias + residual) of planes, "same" size."""

    def __init__(
        self, library: KernelLibrary, weight: Tensor, bias: Tensor, dilation: int = 1, slope: float = 0.0
    ) -> None:
        """Pack weights (channels_out, channels_in, rows, places); the dilation is of rows."""
        out, channels_in, high, wide = weight.shape
        missing = -out % PLANE_GROUP
        groups = F.pad(weight, (0, 0, 0, 0, 0, 0, 0, missing)).view(-1, PLANE_GROUP, channels_in, high, wide)
        self._library, self._bias = library, F.pad(bias, (0, missing))
        self._weight = groups.permute(0, 3, 2, 4, 1).contiguous()
        self._arguments = PlaneLayerArguments(
            weights=address(self._weight),
            bias=address(self._bias),
            channels_in=channels_in,
            channels_out=out,
            high=high,
            wide=wide,
            dilation=dilation,
            slope=slope,
        )

    def __call__(self, x: Tensor, width: int, residual: Tensor | None = None) -> Tensor:
        """A plane of so many places to a plane, of the residual's shape if there is one."""
        output = plane(len(x), self._arguments.channels_out, width)
        if x.shape[2] != output.shape[2] or (residual is not None and residual.shape != output.shape):
            raise ValueError(f"the kernel takes an input and a residual that go with {tuple(output.shape)}")
        call = PlaneCallArguments(
            input=address(x, self._arguments.channels_in),
            output=address(output),
            residual=None if residual is None else address(residual),
            height=len(x),
            width=width,
            pitch=output.shape[2],
        )
        self._library.call("menura_convolve_plane", self._arguments, call)
        return output


class NativeSwift(SwiftF0):
    """SwiftF0 with its two-dimensional convolutions on the kernels."""

    def __init__(self, model: SwiftF0, library: KernelLibrary) -> None:
        nn.Module.__init__(self)
        for name, buffer in model.named_buffers():
            self.register_buffer(name, buffer)
        self.voicing_first, self.voicing_last = model.voicing_first, model.voicing_last

        def packed(layer: nn.Conv2d) -> PlaneConvolution:
            assert layer.bias is not None
            return PlaneConvolution(library, layer.weight, layer.bias, layer.dilation[0])

        self._first, self._narrow = packed(model.first), packed(model.narrow)
        blocks = [block for block in model.blocks if isinstance(block, Block)]
        self._blocks = [(packed(block.one), packed(block.other)) for block in blocks]
        # One convolution for the two last ones, which see the same: the scores' tap is the summary's middle one.
        weight = torch.cat([model.summary.weight, F.pad(model.pitch.weight, (0, 0, 2, 2))])
        bias = torch.cat([bias_of(model.summary), bias_of(model.pitch)])
        self._last = PlaneConvolution(library, weight, bias, slope=1.0)

    def heard(self, spectra: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.stack([self._row(row) for row in spectra])
        return both[:, -1].transpose(1, 2), both[:, :-1]

    def _row(self, spectra: Tensor) -> Tensor:
        """(windows, bands, frames) to (summary and scores, pitches, frames)."""
        windows, bands, frames = spectra.shape
        x = plane(bands, windows, frames)
        x[:, :, :frames], x[:, :, frames:] = spectra.transpose(0, 1), 0
        x = self._first(x, frames)
        for number, (one, other) in enumerate(self._blocks):
            x = x[:LAST_BANDS] if number == len(self._blocks) - 1 else x
            x = other(one(x, frames), frames, residual=x)
        x = self._narrow(x[: PITCHES + 1], frames)  # its last row would see a band that isn't there
        return self._last(x[:PITCHES], frames)[:, :, :frames].transpose(0, 1)


class Widening(nn.Module):
    """Adds to a signal what filters over time, a layer norm, a wide layer with GELU and one back make of it."""

    def __init__(
        self,
        library: KernelLibrary,
        filters: tuple[Tensor, Tensor],
        norm: nn.LayerNorm,
        layers: tuple[nn.Linear, nn.Linear],
        shares: Tensor | None = None,
    ) -> None:
        """Pack filters (taps, channels) and their bias (channels,); the layers' result is multiplied by the shares."""
        super().__init__()
        first, second = layers
        scale = torch.ones_like(second.bias) if shares is None else shares

        def packed(matrix: Tensor) -> Tensor:
            return pack_convolution(matrix[:, :, None], Algorithm.DIRECT, library.panel_channels)

        tensors = {
            "filters": filters[0],
            "filter_bias": filters[1],
            "widening": packed(first.weight.double() * norm.weight),
            "wide_bias": first.bias.double() + first.weight.double() @ norm.bias.double(),
            "narrowing": packed(second.weight.double() * scale[:, None]),
            "bias": second.bias.double() * scale,
        }
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.detach().float().contiguous())
        wide, channels = first.weight.shape
        self._library, self._arguments = (
            library,
            WideningLayerArguments(
                **{name: address(self.get_buffer(name)) for name in tensors},
                channels=channels,
                wide=wide,
                taps=len(filters[0]),
                epsilon=norm.eps,
            ),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, steps, channels) to the same shape."""
        x = x.contiguous()
        output = torch.empty_like(x)
        for row, made in zip(x, output, strict=True):
            call = CallArguments(
                input=address(row, self._arguments.channels),
                output=address(made),
                steps_in=len(row),
                steps_out=len(row),
            )
            self._library.call("menura_widen", self._arguments, call)
        return output


class Filters(nn.Module):
    """A "same" convolution over time in the place of a Conv1d."""

    def __init__(self, conv: nn.Conv1d, library: KernelLibrary) -> None:
        super().__init__()
        self._layer = Convolution(Packing(library), conv.weight.detach(), bias_of(conv).detach())
        self.register_buffer("packed", self._layer.weights)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels_in, steps) to (batch, channels_out, steps), whose channels are innermost in memory."""
        return torch.stack([self._layer(row.T.contiguous()) for row in x]).transpose(1, 2)


class NativeEncoderBlock(nn.Module):
    """A transformer block of the content encoder."""

    def __init__(self, block: EncoderBlock, library: KernelLibrary) -> None:
        super().__init__()
        packing, channels = Packing(library), len(block.out.weight)
        self._norm, nothing = block.attn_norm, torch.zeros(1, channels // block.n_heads)
        self._projections, self._output = (
            Convolution(packing, layer.weight.detach()[:, :, None], layer.bias.detach())
            for layer in (block.qkv, block.out)
        )
        self._attend = Attention(library, nothing, nothing, block.n_heads)
        unfiltered = torch.ones(1, channels), torch.zeros(channels)
        self._wide = Widening(library, unfiltered, block.mlp_norm, (block.mlp_in, block.mlp_out))
        for name, layer in ("projections", self._projections), ("output", self._output):
            self.register_buffer(name, layer.weights)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, vectors, dim) to the same shape."""
        x = x.contiguous()
        normed, mixed = self._norm(x), torch.empty_like(x)
        for row, residual, made in zip(normed, x, mixed, strict=True):
            attended = self._attend(self._projections(row), torch.empty_like(row), None)
            self._output(attended, made, residual=residual)
        wide: Tensor = self._wide(mixed)
        return wide


def use_vocoder_kernels(vocoder: SourceFilter, library: KernelLibrary) -> None:
    """Move the layers that the kernels support to them. For an inference network on the CPU; safe to repeat."""
    if _fits(vocoder.conv_pre):
        vocoder.register_module("conv_pre", Filters(vocoder.conv_pre, library))
    for blocks in (vocoder.blocks, vocoder.fine_blocks):
        for number, block in enumerate(blocks):
            if isinstance(block, ConvNextBlock) and _fits(block.pwconv1):
                filters = block.dwconv.weight[:, 0].T, bias_of(block.dwconv)
                layers = block.pwconv1, block.pwconv2
                blocks[number] = Widening(library, filters, block.norm, layers, block.gamma)


def use_encoder_kernels(model: WhisperContentEncoder, library: KernelLibrary) -> None:
    """As the vocoder's."""
    if _fits(model.conv_1):
        model.register_module("conv_1", Filters(model.conv_1, library))
    for number, block in enumerate(model.blocks):
        if isinstance(block, EncoderBlock) and _fits(block.qkv) and len(block.out.weight) % (16 * block.n_heads) == 0:
            model.blocks[number] = NativeEncoderBlock(block, library)


def _fits(layer: nn.Module) -> bool:
    """Whether it is a layer of torch's of as many channels as the kernels take."""
    weight = layer.weight if isinstance(layer, (nn.Conv1d, nn.Linear)) else torch.empty(1, 1)
    return not any(channels % CHANNEL_MULTIPLE for channels in weight.shape[:2])
