"""The compiled kernels against torch in float64."""

from __future__ import annotations

import copy
import dataclasses
import gc
import runpy
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from menura.kernels import library, packing
from menura.kernels import selftest as trust
from menura.kernels.cache import Packing
from menura.kernels.decoder import ChunkedBlocks, LayeredBlocks
from menura.kernels.hubert import Front
from menura.kernels.layers import Convolution, LastConvolution, SourceConvolution, Upsampling, gate
from menura.kernels.library import Algorithm, Mode
from menura.kernels.rmvpe import ImageConvolution, Recurrent
from menura.kernels.voice import NativeVoice
from menura.models.config import SynthesizerConfig
from menura.models.synthesizer import Synthesizer
from support.kernels import LAYER_TOLERANCE, assert_close, built, largest_product, normal, paths
from support.tiny import tiny_config

SLOPE = 0.1


def activated(x: Tensor, slope: float = SLOPE) -> Tensor:
    return F.leaky_relu(x.double().T[None], slope)


def padded(x: Tensor) -> Tensor:
    """(steps, channels) with zeros up to a multiple of 16 channels."""
    return F.pad(x, (0, -x.shape[1] % 16))


@pytest.mark.parametrize("size", packing.FOURIER_SIZES.values())
@pytest.mark.parametrize("taps", [3, 5, 7, 11, 15])
def test_minimal_filtering_matrices(taps: int, size: int) -> None:
    rng = np.random.default_rng(taps)
    weight, x = rng.standard_normal(taps), rng.standard_normal(size)
    wanted = np.correlate(x, weight, mode="valid")
    g = packing.fourier_weights(taps, size) @ weight
    spectrum = np.fft.rfft(x)
    a, b = spectrum.real, spectrum.imag
    real, imaginary = np.empty_like(a), np.zeros_like(b)
    real[0], real[-1] = a[0] * g[0], a[-1] * g[1]
    for k in range(1, len(a) - 1):
        first, second, third = (a[k] + b[k]) * g[3 * k - 1], a[k] * g[3 * k], b[k] * g[3 * k + 1]
        real[k], imaginary[k] = first - third, first + second
    made = np.fft.irfft(real + 1j * imaginary) * size
    np.testing.assert_allclose(made[: len(wanted)], wanted, atol=1e-12)


@pytest.mark.parametrize(("count", "taps"), packing.TOOM_COOK_SIZES)
def test_toom_cook_matrices(count: int, taps: int) -> None:
    made = packing.toom_cook(count, taps, packing.TOOM_COOK_POINTS)
    rng = np.random.default_rng(0)
    weight, x = rng.standard_normal(taps), rng.standard_normal(8)
    outputs = made.outputs @ ((made.weights @ weight) * (made.inputs @ x))
    np.testing.assert_allclose(outputs, np.correlate(x, weight, mode="valid"), atol=1e-12)
    with pytest.raises(ValueError, match="7 different points"):
        packing.toom_cook(count, taps, packing.TOOM_COOK_POINTS[:-1])


def test_header_is_what_the_script_makes() -> None:
    header = Path(library.__file__).parent / "cpp" / "toom_cook_matrices.h"
    script = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "toom_cook_header.py"))
    assert header.read_text(encoding="utf-8") == script["toom_cook_header"]()


@pytest.mark.parametrize(
    ("taps", "channels", "count"),
    [
        (1, 16, 1),
        (3, 16, 8),
        (5, 16, 8),
        (7, 16, 47),
        (7, 64, 47),
        (11, 32, 47),
        (11, 48, 95),
        (15, 128, 95),
        (11, 144, 47),
        (17, 64, 17),
    ],
)
def test_best_algorithm(taps: int, channels: int, count: int) -> None:
    """Told by how many matrices there are: one for each product that a tile takes."""
    packed = Convolution(Packing(built(paths()[0])), normal(0, channels, 16, taps), None).weights
    assert packed.numel() == count * 16 * channels


@settings(max_examples=200, deadline=None)
@given(
    path=st.sampled_from(paths()),
    channels=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    taps=st.integers(0, 12).map(lambda n: 2 * n + 1),
    dilation=st.integers(1, 12),
    steps=st.integers(0, 400),
    mode=st.sampled_from(Mode),
    algorithm=st.sampled_from([None, None, Algorithm.DIRECT, *packing.FOURIER_SIZES]),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_convolution(
    path: str,
    channels: tuple[int, int],
    taps: int,
    dilation: int,
    steps: int,
    mode: Mode,
    algorithm: Algorithm | None,
    threads: int,
    seed: int,
) -> None:
    into, out = channels
    weight, bias = normal(seed, out, into, taps) / (into * taps) ** 0.5, normal(seed + 1, out)
    x, residual, before = normal(seed + 2, steps, into), normal(seed + 3, steps, out), normal(seed + 4, steps, out)
    if algorithm in packing.FOURIER_SIZES and taps > 16:
        algorithm = None
    layer = Convolution(Packing(built(path)), weight, bias, dilation, algorithm)
    output = padded(before).contiguous()
    before_threads = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        layer(padded(x), output, SLOPE, padded(residual), mode, 0.3)
    finally:
        torch.set_num_threads(before_threads)
    reach = dilation * (taps - 1) // 2
    wanted = torch.zeros(0, out, dtype=torch.float64)
    if steps:
        wanted = F.conv1d(activated(x), weight.double(), bias.double(), padding=reach, dilation=dilation)[0].T
    if mode != Mode.STORE:
        wanted = wanted + residual
    if mode in (Mode.START_MEAN, Mode.ADD_TO_MEAN):
        wanted = wanted * 0.3 + (before if mode == Mode.ADD_TO_MEAN else 0)
    assert_close(output[:, :out], wanted, largest_product(weight, x), bias, residual)
    assert not output[:, out:].any()


@settings(max_examples=100, deadline=None)
@given(
    path=st.sampled_from(paths()),
    channels=st.tuples(st.integers(1, 20), st.integers(1, 20)).map(lambda pair: (16 * pair[0], 16 * pair[1])),
    shape=st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(0, 40)),
    dtype=st.sampled_from([torch.float32, torch.float16]),
    residual=st.booleans(),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_image_convolution(
    path: str,
    channels: tuple[int, int],
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    residual: bool,
    threads: int,
    seed: int,
) -> None:
    (into, out), (images, height, width) = channels, shape
    weight = (normal(seed, out, into, 3, 3) / (9 * into) ** 0.5).to(dtype)
    scale, bias, x = normal(seed + 1, out), normal(seed + 2, out), normal(seed + 3, images, into, height, width)
    added = normal(seed + 4, images, out, height, width) if residual else None
    before, kept = torch.get_num_threads(), None if added is None else added.clone()
    torch.set_num_threads(threads)
    try:
        made = ImageConvolution(built(path), weight, scale, bias)(x, added)
    finally:
        torch.set_num_threads(before)
    wanted = torch.zeros(images, out, height, width, dtype=torch.float64)
    if wanted.numel():
        wanted = F.conv2d(x.double(), weight.double(), padding=1) * scale.double()[:, None, None]
    wanted = (wanted + bias.double()[:, None, None]).relu()
    assert_close(made, wanted if added is None else wanted + added, bias, scale * largest_product(weight, x))
    assert kept is None or added is None or torch.equal(kept, added)


@pytest.mark.parametrize("path", paths())
def test_images_keep_to_themselves(path: str) -> None:
    layer = ImageConvolution(built(path), normal(0, 32, 32, 3, 3), None, normal(1, 32))
    x = normal(2, 3, 32, 6, 5)
    together = layer(x)
    for number in range(3):
        assert torch.allclose(layer(x[number : number + 1])[0], together[number], rtol=0, atol=1e-5)


@pytest.mark.parametrize("path", paths())
def test_what_is_no_number_stays_none(path: str) -> None:
    """Broken weights have to be noticed, not to sound plausible."""
    x = normal(0, 1, 16, 8, 8)
    x[0, 3, 4, 4] = torch.nan
    image = ImageConvolution(built(path), normal(1, 16, 16, 3, 3), None, normal(2, 16))(x)
    assert image[0, :, 3:6, 3:6].isnan().all()
    samples = normal(3, 50)
    samples[20] = torch.nan
    assert Front(built(path), 5, [normal(4, 16, 16, 3)])(samples, normal(5, 16, 10), normal(6, 16)).isnan().any()
    gru = nn.GRU(3, 16, batch_first=True).requires_grad_(False)
    signal = normal(7, 1, 6, 3)
    signal[0, 2] = torch.nan
    states = Recurrent(built(path), gru)(signal)[0]
    assert states[0, 2:].isnan().all()
    assert not states[0, :2].isnan().any()
    halves = normal(8, 4, 32)
    halves[1] = torch.nan
    assert gate(built(path), halves, torch.empty(4, 16)).isnan().any(dim=1).tolist() == [False, True, False, False]


def test_other_tensors_are_refused() -> None:
    library_, x = built(paths()[0]), normal(0, 2, 16, 5, 5)
    layer = ImageConvolution(library_, normal(1, 16, 16, 3, 3), None, normal(2, 16))
    for wrong in (x.double(), x.half(), x[:, :8], torch.cat([x, x], dim=1)):
        with pytest.raises(ValueError, match="kernel"):
            layer(wrong)
    with pytest.raises(ValueError, match="residual"):
        layer(x, x[:1])
    line = Convolution(Packing(library_), normal(3, 16, 16, 3), None)
    for rows in (torch.zeros(9, 32), torch.zeros(9, 16, dtype=torch.bfloat16), torch.zeros(16, 9).T):
        with pytest.raises(ValueError, match="kernel"):
            line(rows, torch.zeros(9, 16))
    with pytest.raises(ValueError, match="residual"):
        line(torch.zeros(9, 16), torch.zeros(9, 16), 1.0, torch.zeros(8, 16))


def test_only_some_images_layers_fit() -> None:
    fits = {
        shape: ImageConvolution.fits(torch.empty(shape)) for shape in ((16, 32, 3, 3), (16, 1, 3, 3), (16, 16, 1, 1))
    }
    assert fits == {(16, 32, 3, 3): True, (16, 1, 3, 3): False, (16, 16, 1, 1): False}


@settings(max_examples=80, deadline=None)
@given(
    path=st.sampled_from(paths()),
    widths=st.lists(st.integers(1, 20).map(lambda n: 16 * n), min_size=1, max_size=3),
    taps=st.lists(st.integers(2, 3), min_size=2, max_size=2),
    first=st.tuples(st.integers(1, 12), st.integers(1, 7)),
    samples=st.integers(0, 1500),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_front(
    path: str,
    widths: list[int],
    taps: list[int],
    first: tuple[int, int],
    samples: int,
    threads: int,
    seed: int,
) -> None:
    (kernel, rate), pairs = first, list(zip(widths[:-1], widths[1:], taps, strict=False))
    weights = [normal(seed + n, out, into, k) / (into * k) ** 0.5 for n, (into, out, k) in enumerate(pairs)]
    signal, weight, bias = normal(seed, samples), normal(seed + 5, widths[0], kernel), normal(seed + 6, widths[0])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        made = Front(built(path), rate, weights)(signal, weight, bias)
    finally:
        torch.set_num_threads(before)
    wanted = torch.zeros(1, widths[0], 0, dtype=torch.float64)
    if samples >= kernel:
        wanted = F.gelu(F.conv1d(signal.double()[None, None], weight.double()[:, None], bias.double(), stride=rate))
    for layer in weights:
        enough = wanted.shape[-1] >= layer.shape[2]
        wanted = (
            F.gelu(F.conv1d(wanted, layer.double(), stride=2))
            if enough
            else torch.zeros(1, layer.shape[0], 0, dtype=torch.float64)
        )
    assert_close(made, wanted[0].T, bias, largest_product(weight, signal))


def test_only_some_fronts_fit() -> None:
    def fits(out: int, into: int, taps: int, rate: int) -> bool:
        return Front.fits([torch.empty(out, into, taps)], [rate])

    assert fits(32, 16, 3, 2)
    assert fits(32, 16, 2, 2)
    assert not any((fits(32, 16, 4, 2), fits(32, 16, 3, 3), fits(24, 16, 3, 2), fits(32, 8, 3, 2)))


@settings(max_examples=60, deadline=None)
@given(
    path=st.sampled_from(paths()),
    hidden=st.integers(1, 20).map(lambda n: 16 * n),
    both=st.booleans(),
    shape=st.tuples(st.integers(0, 4), st.integers(0, 30)),
    loudness=st.sampled_from([0.0, 1.0, 30.0, 1e4]),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_recurrent(
    path: str, hidden: int, both: bool, shape: tuple[int, int], loudness: float, threads: int, seed: int
) -> None:
    gru = nn.GRU(7, hidden, batch_first=True, bidirectional=both).requires_grad_(False)
    for number, parameter in enumerate(gru.parameters()):
        parameter.copy_(normal(seed + number, *parameter.shape) / hidden**0.5)
    x = normal(seed, *shape, 7) * loudness
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        made = Recurrent(built(path), gru)(x)[0]
    finally:
        torch.set_num_threads(before)
    wanted = torch.zeros(*shape, hidden * (1 + both), dtype=torch.float64)
    if wanted.numel():
        wanted = gru.double()(x.double())[0]
    # States are at most 1, and what a strong input's rounding does to them grows with it.
    assert torch.allclose(made.double(), wanted, rtol=0, atol=LAYER_TOLERANCE * max(1.0, loudness / 30))


def test_only_some_recurrent_layers_fit() -> None:
    layers = nn.GRU(3, 32, batch_first=True), nn.GRU(3, 6, batch_first=True), nn.GRU(3, 32), nn.GRU(3, 32, 2)
    assert [Recurrent.fits(layer) for layer in layers] == [True, False, False, False]


@pytest.mark.parametrize("path", paths())
@pytest.mark.parametrize(
    ("channels", "taps", "dilation"), [(256, 11, 5), (512, 7, 1), (128, 3, 3), (384, 5, 1), (768, 3, 1)]
)
def test_wide_convolutions(path: str, channels: int, taps: int, dilation: int) -> None:
    weight, bias = normal(1, channels, channels, taps) / (channels * taps) ** 0.5, normal(2, channels)
    x = normal(3, 777, channels)
    made = Convolution(Packing(built(path)), weight, bias, dilation)(x, torch.empty_like(x), SLOPE)
    reach = dilation * (taps - 1) // 2
    wanted = F.conv1d(activated(x), weight.double(), bias.double(), padding=reach, dilation=dilation)[0].T
    assert_close(made, wanted)


@settings(max_examples=60, deadline=None)
@given(
    path=st.sampled_from(paths()),
    channels=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    rate=st.integers(1, 12),
    longer=st.integers(0, 15),
    cut=st.integers(0, 12),
    steps=st.integers(1, 130),
    seed=st.integers(0, 2**16),
)
def test_upsampling(
    path: str, channels: tuple[int, int], rate: int, longer: int, cut: int, steps: int, seed: int
) -> None:
    (into, out), taps = channels, rate + longer
    weight, bias, x = normal(seed, into, out, taps) / 10, normal(seed + 1, out), normal(seed + 2, steps, into)
    padding = min(cut, rate)
    layer = Upsampling(Packing(built(path)), weight, bias, rate, padding)
    made = layer(padded(x), torch.full((steps * rate, -(-out // 16) * 16), torch.nan), SLOPE)
    full = F.conv_transpose1d(activated(x), weight.double(), bias.double(), stride=rate)[0].T
    full = torch.cat([full, bias.double().expand(padding, out)])  # what no input reaches
    assert_close(made[:, :out], full[padding : padding + steps * rate], largest_product(weight, x), bias)
    assert made.isfinite().all()


@settings(max_examples=60, deadline=None)
@given(
    path=st.sampled_from(paths()),
    channels=st.integers(1, 70),
    stride=st.integers(1, 50),
    steps=st.integers(1, 150),
    seed=st.integers(0, 2**16),
)
def test_source(path: str, channels: int, stride: int, steps: int, seed: int) -> None:
    taps = 1 if stride == 1 else 2 * stride - stride % 2
    padding = (taps - stride) // 2
    weight, bias = normal(seed, channels, 1, taps) / taps**0.5, normal(seed + 1, channels)
    source, x = normal(seed + 2, steps * stride), normal(seed + 3, steps, channels)
    made = SourceConvolution(built(path), weight, bias, stride, padding)(source, padded(x).contiguous())
    sums = F.conv1d(source.double()[None, None], weight.double(), bias.double(), stride=stride, padding=padding)
    assert_close(made[:, :channels], x.double() + sums[0].T[:steps], x, largest_product(weight, source), bias)


@settings(max_examples=40, deadline=None)
@given(
    path=st.sampled_from(paths()),
    channels=st.integers(1, 70),
    taps=st.sampled_from([1, 3, 7, 15]),
    steps=st.integers(0, 150),
    biased=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_last(path: str, channels: int, taps: int, steps: int, biased: bool, seed: int) -> None:
    weight, bias = normal(seed, 1, channels, taps) / (channels * taps) ** 0.5, normal(seed + 1, 1) if biased else None
    x = normal(seed + 2, steps, channels)
    made = LastConvolution(built(path), weight, bias)(padded(x), torch.empty(steps), 0.01)
    if steps:
        double = None if bias is None else bias.double()
        assert_close(made, torch.tanh(F.conv1d(activated(x, 0.01), weight.double(), double, padding=taps // 2))[0, 0])


@settings(max_examples=40, deadline=None)
@given(
    path=st.sampled_from(paths()),
    channels=st.sampled_from([16, 32, 48, 64]),
    steps=st.sampled_from([1, 2, 59, 130, 1100]),
    shapes=st.lists(
        st.lists(
            st.lists(st.tuples(st.sampled_from([1, 3, 5, 7, 11]), st.integers(1, 5)), min_size=1, max_size=2),
            min_size=1,
            max_size=3,
        ),
        min_size=1,
        max_size=3,
    ),
    threads=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_chunked_blocks(
    path: str, channels: int, steps: int, shapes: list[list[list[tuple[int, int]]]], threads: int, seed: int
) -> None:
    """Any residual blocks; a chunk may be shorter than what its layers see around it."""
    lib, x = built(path), normal(seed, steps, channels)
    layers = [
        [[(normal(seed + t, channels, channels, t) / (2 * channels * t) ** 0.5, d) for t, d in step] for step in block]
        for block in shapes
    ]
    packed = [
        [[Convolution(Packing(lib), w, normal(seed, channels), d) for w, d in step] for step in block]
        for block in layers
    ]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        made = ChunkedBlocks(lib, packed)(x, torch.empty_like(x), SLOPE)
        layered = LayeredBlocks(packed)(x, torch.empty_like(x), SLOPE)
    finally:
        torch.set_num_threads(before)
    outputs = []
    for block in layers:
        y = x.double().T[None]
        for step in block:
            carried = y
            for w, d in step:
                y = F.conv1d(
                    F.leaky_relu(y, SLOPE),
                    w.double(),
                    normal(seed, channels).double(),
                    padding=d * (w.shape[2] // 2),
                    dilation=d,
                )
            y = y + carried
        outputs.append(y)
    wanted = torch.stack(outputs).mean(dim=0)[0].T
    assert_close(made, wanted, torch.stack(outputs))
    assert_close(layered, wanted, torch.stack(outputs))


def test_what_chunked_blocks_refuse() -> None:
    lib = built(paths()[0])
    layer = Convolution(Packing(lib), normal(0, 16, 16, 3), None)
    wide = Convolution(Packing(lib), normal(0, 32, 32, 3), None)
    x = normal(0, 40, 16)
    blocks = ChunkedBlocks(lib, [[[layer]]])
    assert blocks(x[:0], x[:0].clone(), SLOPE).shape == (0, 16)
    with pytest.raises(ValueError, match="an output of shape"):
        blocks(x, torch.empty(41, 16), SLOPE)
    with pytest.raises(ValueError, match="doesn't take"):
        blocks(x, x, SLOPE)
    with pytest.raises(ValueError, match="doesn't take"):
        ChunkedBlocks(lib, [[[layer, layer, layer]]])(x, torch.empty_like(x), SLOPE)
    with pytest.raises(ValueError, match="doesn't take"):
        ChunkedBlocks(lib, [[[layer, wide]]])(x, torch.empty_like(x), SLOPE)
    with pytest.raises(ValueError, match="channels"):
        blocks(normal(0, 40, 32), torch.empty(40, 32), SLOPE)


@pytest.mark.parametrize("path", paths())
def test_threads_change_nothing(path: str) -> None:
    x, weight = normal(0, 3001, 64), normal(1, 64, 64, 7) / 20
    layer, before, made = Convolution(Packing(built(path)), weight, None, 3), torch.get_num_threads(), []
    for threads in (1, 2, 3, 2):
        torch.set_num_threads(threads)
        made.append(layer(x, torch.empty_like(x), SLOPE))
    torch.set_num_threads(before)
    assert all(torch.equal(made[0], other) for other in made[1:])


def test_what_the_kernels_refuse() -> None:
    chosen, weight = built(paths()[0]), normal(0, 16, 16, 3)
    layer, x = Convolution(Packing(chosen), weight, None), normal(1, 10, 16)
    with pytest.raises(ValueError, match="menura_convolve"):
        layer(x, torch.empty(9, 16))
    with pytest.raises(ValueError, match="menura_convolve"):
        layer(x, torch.empty(10, 16), 1.0, None, Mode.ADD_RESIDUAL)
    for algorithm in packing.FOURIER_SIZES:
        with pytest.raises(ValueError, match="menura_convolve"):
            Convolution(Packing(chosen), normal(0, 16, 16, 17), None, 1, algorithm)(x, torch.empty(10, 16))
    for taps, algorithm in ((5, Algorithm.TOOM_COOK_6_3), (3, Algorithm.TOOM_COOK_4_5)):
        wrong = Convolution(Packing(chosen), normal(0, 16, 16, taps), None, 1, Algorithm.DIRECT)
        wrong.arguments.algorithm = algorithm
        with pytest.raises(ValueError, match="menura_convolve"):
            wrong(x, torch.empty(10, 16))


CONFIGS = {
    "nsf": dataclasses.replace(tiny_config(), upsample_initial_channel=96),
    "no F0": tiny_config(has_f0=False),
    "mrf": dataclasses.replace(tiny_config(), vocoder="MRF HiFi-GAN"),
    "resblock 2": dataclasses.replace(
        tiny_config(), resblock="2", resblock_kernel_sizes=(3, 5, 7), resblock_dilation_sizes=((1, 2), (2, 6), (3, 12))
    ),
    "odd rates": tiny_config(rates=(7, 5, 3)),
}


@pytest.mark.parametrize("path", paths())
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_whole_decoder(path: str, config: SynthesizerConfig) -> None:
    torch.manual_seed(3)
    net = Synthesizer(config).requires_grad_(False).eval()
    native = NativeVoice(copy.deepcopy(net), built(path))
    frames, hop = 260, config.frame_samples
    z, g = normal(4, 2, config.inter_channels, frames), normal(5, 2, config.gin_channels, 1)
    source = normal(6, 2, 1, frames * hop) * 0.1 if config.has_f0 else None
    whole = net.double().decode(z.double(), g.double(), None if source is None else source.double())
    for core in ((0, frames), (0, 3), (97, 213), (frames - 1, frames), (50, 250)):
        made = native.decode_tiled(z, g, source, core)
        wanted = whole[:, core[0] * hop : core[1] * hop]
        assert torch.allclose(made.double(), wanted, rtol=0, atol=2e-6)
    by_torch = net.float()
    assert torch.allclose(
        by_torch.decode_tiled(z, g, source, (97, 213)).double(), whole[:, 97 * hop : 213 * hop], atol=2e-6
    )


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_parts_of_the_first_stage_meet(config: SynthesizerConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    net = Synthesizer(config).requires_grad_(False).eval()
    frames, hop = 260, config.frame_samples
    z, g = normal(4, 1, config.inter_channels, frames), normal(5, 1, config.gin_channels, 1)
    source = normal(6, 1, 1, frames * hop) * 0.1 if config.has_f0 else None
    native = NativeVoice(net, built(paths()[0]))
    whole = native.decode_tiled(z, g, source, (2, 255))
    for part in (5, 64, 101):
        monkeypatch.setattr("menura.kernels.decoder.FIRST_STAGE_FRAMES", part)
        assert torch.allclose(native.decode_tiled(z, g, source, (2, 255)), whole, rtol=0, atol=2e-6)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_network_is_not_kept(config: SynthesizerConfig) -> None:
    net = Synthesizer(config).requires_grad_(False).eval()
    native = NativeVoice(net, built(paths()[0]))
    gone = [weakref.ref(part) for part in (net, net.enc_p, net.flow, net.dec, net.dec.conv_pre)]
    kept = weakref.ref(net.emb_g)
    packed = native.resident_bytes
    del net
    gc.collect()
    assert not any(part() for part in gone)
    assert kept() is not None
    assert 0 < native.resident_bytes == packed
    z, g = normal(4, 1, config.inter_channels, 40), normal(5, 1, config.gin_channels, 1)
    source = normal(6, 1, 1, 40 * config.frame_samples) * 0.1 if config.has_f0 else None
    assert native.decode_tiled(z, g, source, (3, 30)).isfinite().all()


def test_a_library_that_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "largest_error", lambda _: 1.0)
    trust.trusted_kernels.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match=r"wrong by 1\.0e\+00"):
            assert trust.trusted_kernels() is None
    finally:
        trust.trusted_kernels.cache_clear()


@pytest.mark.parametrize("path", paths())
def test_self_test_passes(path: str) -> None:
    assert trust.largest_error(built(path)) < 3e-6
