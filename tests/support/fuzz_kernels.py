"""Runs the kernels of a given library over random small shapes and compares with torch; meant to run under sanitizers.

usage: fuzz_kernels.py LIBRARY PATH SEED ROUNDS; with "overrun" for ROUNDS it reads a step too many, which has to fail
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from menura.kernels.cache import Packing
from menura.kernels.decoder import ChunkedBlocks, LayeredBlocks
from menura.kernels.hubert import Front
from menura.kernels.layers import Attention, Convolution, LastConvolution, SourceConvolution, Upsampling, gate
from menura.kernels.library import CallArguments, KernelLibrary, load_library
from menura.kernels.linear import native_product
from menura.kernels.packing import padded_channels
from menura.kernels.rmvpe import ImageConvolution, Recurrent
from menura.kernels.starter import PlaneConvolution, Widening, plane
from menura.models.source_filter import ConvNextBlock


def random_round(library: KernelLibrary, rng: np.random.Generator) -> None:
    into, out, steps = (int(rng.integers(1, high)) for high in (60, 60, 90))
    taps, dilation, rate = int(rng.integers(0, 10)) * 2 + 1, int(rng.integers(1, 7)), int(rng.integers(1, 12))
    torch.set_num_threads(int(rng.integers(1, 3)))
    x = torch.randn(steps, padded_channels(into))
    x[:, into:] = 0
    weight, bias = torch.randn(out, into, taps) / (into * taps) ** 0.5, torch.randn(out)
    residual = torch.zeros(steps, padded_channels(out))
    made = Convolution(Packing(library), weight, bias, dilation)(x, torch.empty_like(residual), 0.1, residual)
    signal = F.leaky_relu(x[:, :into].T[None], 0.1)
    wanted = F.conv1d(signal, weight, bias, padding=dilation * (taps - 1) // 2, dilation=dilation)[0].T
    torch.testing.assert_close(made[:, :out], wanted, rtol=0, atol=1e-4)

    taps = rate + int(rng.integers(0, 9))
    weight = torch.randn(into, out, taps) / 10
    made = Upsampling(Packing(library), weight, bias, rate, 0)(x, torch.empty(steps * rate, padded_channels(out)), 0.1)
    wanted = F.conv_transpose1d(signal, weight, bias, stride=rate)[0].T[: steps * rate]
    torch.testing.assert_close(made[:, :out], wanted, rtol=0, atol=1e-4)

    source = torch.randn(steps * rate)
    weight = torch.randn(out, 1, 2 * rate)
    SourceConvolution(library, weight, bias, rate, rate // 2)(source, made[:steps].contiguous())
    weight = torch.randn(1, into, 7) / 10
    made = LastConvolution(library, weight, None)(x, torch.empty(steps), 0.01)
    wanted = torch.tanh(F.conv1d(F.leaky_relu(x[:, :into].T[None]), weight, padding=3))[0, 0]
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-4)
    random_blocks(library, rng, x)
    random_image(library, rng)
    random_plane(library, rng)
    random_widening(library, rng)
    random_product(library, rng)
    random_sequences(library, rng)
    random_front(library, rng)
    attention_round(library, rng, steps)


def random_blocks(library: KernelLibrary, rng: np.random.Generator, x: Tensor) -> None:
    channels, counts = x.shape[1], [int(rng.integers(1, 3)) for _ in range(int(rng.integers(1, 4)))]
    torch.set_num_threads(int(rng.integers(1, 5)))  # as many chunks
    layers = [
        [
            [
                (torch.randn(channels, channels, taps) / (channels * taps) ** 0.5, int(rng.integers(1, 6)))
                for taps in rng.choice([1, 3, 7, 11], size=int(rng.integers(1, 3))).tolist()
            ]
            for _ in range(count)
        ]
        for count in counts
    ]
    packed = [[[Convolution(Packing(library), w, None, d) for w, d in step] for step in block] for block in layers]
    made = ChunkedBlocks(library, packed)(x, torch.empty_like(x), 0.1)
    wanted = LayeredBlocks(packed)(x, torch.empty_like(x), 0.1)
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-4)


def random_image(library: KernelLibrary, rng: np.random.Generator) -> None:
    into, out = (16 * int(rng.integers(1, high)) for high in (10, 13))
    images, height, width = (int(rng.integers(1, high)) for high in (3, 14, 14))
    x, residual = torch.randn(images, into, height, width), torch.randn(images, out, height, width)
    weight, bias = (torch.randn(out, into, 3, 3) / 30).to(rng.choice([torch.float32, torch.float16])), torch.randn(out)
    made = ImageConvolution(library, weight, None, bias)(x, residual)
    wanted = F.conv2d(x, weight.float(), bias, padding=1).relu() + residual
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-4)


def random_plane(library: KernelLibrary, rng: np.random.Generator) -> None:
    into, out, height, width = (int(rng.integers(1, high)) for high in (14, 14, 20, 90))
    taps, dilation = (int(rng.integers(0, 4)) * 2 + 1, int(rng.integers(0, 2)) * 2 + 1), int(rng.integers(1, 6))
    weight, bias, signal = torch.randn(out, into, *taps) / 9, torch.randn(out), torch.randn(into, height, width)
    x = plane(height, into, width)
    x[:, :, :width], x[:, :, width:] = signal.transpose(0, 1), 0
    made = PlaneConvolution(library, weight, bias, dilation)(x, width)
    padding = (taps[0] // 2 * dilation, taps[1] // 2)
    wanted = F.conv2d(signal[None], weight, bias, padding=padding, dilation=(dilation, 1)).relu()[0]
    torch.testing.assert_close(made[:, :, :width].transpose(0, 1), wanted, rtol=0, atol=1e-4)


def random_widening(library: KernelLibrary, rng: np.random.Generator) -> None:
    channels, taps, steps = 16 * int(rng.integers(1, 9)), int(rng.integers(0, 4)) * 2 + 1, int(rng.integers(1, 130))
    block, x = ConvNextBlock(channels, taps, 0.5).requires_grad_(False), torch.randn(1, steps, channels)
    filters, bias = block.dwconv.weight[:, 0].T, block.dwconv.bias
    assert bias is not None
    layer = Widening(library, (filters, bias), block.norm, (block.pwconv1, block.pwconv2), block.gamma)
    torch.testing.assert_close(layer(x), block(x), rtol=0, atol=1e-4)


def random_product(library: KernelLibrary, rng: np.random.Generator) -> None:
    into, out = (16 * int(rng.integers(1, 30)) for _ in range(2))
    rows, weight, bias = torch.randn(int(rng.integers(1, 400)), into), torch.randn(out, into), torch.randn(out)
    made = native_product(library, rows, weight / into**0.5, bias)
    torch.testing.assert_close(made, F.linear(rows, weight / into**0.5, bias), rtol=0, atol=1e-4)


def random_front(library: KernelLibrary, rng: np.random.Generator) -> None:
    widths = [16 * int(rng.integers(1, 6)) for _ in range(3)]
    taps, rate = int(rng.integers(1, 12)), int(rng.integers(1, 7))
    first, bias, samples = torch.randn(widths[0], taps), torch.randn(widths[0]), torch.randn(int(rng.integers(60, 700)))
    halving = (int(rng.integers(2, 4)) for _ in widths[1:])
    pairs = zip(widths[:-1], widths[1:], halving, strict=True)
    weights = [torch.randn(out, into, count) / (into * count) ** 0.5 for into, out, count in pairs]
    made = Front(library, rate, weights)(samples, first, bias)
    x = F.gelu(F.conv1d(samples[None, None], first[:, None], bias, stride=rate))
    for weight in weights:
        x = F.gelu(F.conv1d(x, weight, stride=2)) if x.shape[-1] >= weight.shape[2] else x[:, : weight.shape[0], :0]
        if not x.numel():
            return
    torch.testing.assert_close(made, x[0].T, rtol=0, atol=1e-4)


def random_sequences(library: KernelLibrary, rng: np.random.Generator) -> None:
    hidden, both = 16 * int(rng.integers(1, 9)), bool(rng.integers(2))
    gru = nn.GRU(3, hidden, batch_first=True, bidirectional=both).requires_grad_(False)
    x = torch.randn(int(rng.integers(1, 4)), int(rng.integers(1, 9)), 3)
    torch.testing.assert_close(Recurrent(library, gru)(x)[0], gru(x)[0], rtol=0, atol=1e-4)


def attention_round(library: KernelLibrary, rng: np.random.Generator, steps: int) -> None:
    heads, channels, window = int(rng.integers(1, 4)), 16 * int(rng.integers(1, 4)), int(rng.integers(0, 8))
    reach = None if rng.integers(2) else window + int(rng.integers(0, 60))
    near_keys, near_values = torch.randn(2, 2 * window + 1, channels) / channels
    attention = Attention(library, near_keys, torch.zeros_like(near_values), heads)
    x = torch.randn(steps, 3 * heads * channels)
    x[:, 2 * heads * channels :] = 1.0  # then any shares give their sum
    made = attention(x, torch.empty(steps, heads * channels), reach)
    torch.testing.assert_close(made, torch.ones_like(made), rtol=0, atol=1e-5)
    halves = torch.randn(steps, 2 * channels)
    wanted = torch.tanh(halves[:, :channels]) * torch.sigmoid(halves[:, channels:])
    torch.testing.assert_close(gate(library, halves, torch.empty(steps, channels)), wanted, rtol=0, atol=1e-5)


def overrun(library: KernelLibrary) -> None:
    layer = Convolution(Packing(library), torch.randn(16, 16, 3), None)
    x, output = torch.randn(40, 16), torch.empty(41, 16)
    call = CallArguments(
        input=x.data_ptr(), output=output.data_ptr(), steps_in=41, steps_out=41, slope=1.0, scale=1.0, threads=1
    )
    library.call("menura_convolve", layer.arguments, call)


def main() -> None:
    file, path, seed, rounds = sys.argv[1:]
    status = load_library(Path(file), path)
    assert status.library is not None, status.reason
    torch.manual_seed(int(seed))
    rng = np.random.default_rng(int(seed))
    if rounds == "overrun":
        overrun(status.library)
        return
    for _ in range(int(rounds)):
        random_round(status.library, rng)
    print("fine", path, rounds)  # noqa: T201


if __name__ == "__main__":
    main()
