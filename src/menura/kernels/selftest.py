"""The kernels have to prove themselves before they are used: wrong sound is worse than slow sound."""

from __future__ import annotations

import warnings
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from menura.kernels.attention import Attention, gate
from menura.kernels.conv2d import ImageConvolution
from menura.kernels.convolution import Convolution, Epilogue, LastConvolution, SourceConvolution, Upsampling
from menura.kernels.hubert_front import Front
from menura.kernels.library import KernelLibrary, Mode, kernel_status, kernels
from menura.kernels.recurrent import Recurrent

LARGEST_ERROR = 2e-5
"""Of a layer's largest output."""

_SLOPE = 0.1


@cache
def trusted_kernels() -> KernelLibrary | None:
    """The library if there is one and it computes what torch does, tried once a process (some milliseconds).

    Warns (RuntimeWarning) and gives None where it doesn't.
    """
    library = kernels()
    if library is None:
        return None
    try:
        error = largest_error(library)
    except (MemoryError, ValueError) as problem:
        _say_distrust(str(problem))
        return None
    if error > LARGEST_ERROR:
        _say_distrust(f"wrong by {error:.1e}")
        return None
    return library


def kernels_in_words() -> str:
    """Which compiled path runs and why, or why none does."""
    status = kernel_status()
    if status.library is None:
        return f"torch's: {status.reason}"
    with warnings.catch_warnings(record=True) as problems:
        warnings.simplefilter("always")
        trusted = trusted_kernels()
    if trusted is None:
        return "; ".join(str(problem.message) for problem in problems) or "torch's: the self-test failed"
    threads = "" if status.library.shares_threads else "; on one thread, torch's OpenMP runtime wasn't found"
    return f"{status.reason}{threads}"


def largest_error(library: KernelLibrary) -> float:
    """Difference from torch in float64 over one layer of every kind, in parts of each one's largest output."""
    random = torch.Generator().manual_seed(20)
    errors = [
        *(
            _convolution_error(library, random, taps, dilation)
            for taps, dilation in ((1, 1), (3, 1), (3, 5), (5, 1), (7, 3), (11, 1))
        ),
        _upsampling_error(library, random),
        _source_error(library, random),
        _last_error(library, random),
        _image_error(library, random, torch.float32),
        _image_error(library, random, torch.float16),
        _front_error(library, random),
        _recurrent_error(library, random),
        *(_attention_error(library, random, reach) for reach in (None, 60)),
        _gate_error(library, random),
    ]
    return max(errors)


def _say_distrust(problem: str) -> None:
    warnings.warn(
        f"The compiled convolution kernels don't work here ({problem}); torch's are used, slower. Please report this.",
        RuntimeWarning,
        stacklevel=3,
    )


def _normal(random: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=random)


def _error(made: Tensor, wanted: Tensor) -> float:
    error = float((made.double() - wanted).abs().max() / wanted.abs().max())
    return error if error == error else float("inf")


def _convolution_error(library: KernelLibrary, random: torch.Generator, taps: int, dilation: int) -> float:
    channels, steps = 48, 131
    weight, bias = _normal(random, channels, channels, taps) / (channels * taps) ** 0.5, _normal(random, channels)
    x, residual, mean = (_normal(random, steps, channels) for _ in range(3))
    layer = Convolution.of(library, weight, bias, dilation)
    made = layer(x, mean.clone(), _SLOPE, Epilogue(mode=Mode.ADD_TO_MEAN, residual=residual, scale=0.5))
    padding = dilation * (taps - 1) // 2
    sums = F.conv1d(_activated(x), weight.double(), bias.double(), padding=padding, dilation=dilation)[0].T
    return _error(made, mean.double() + 0.5 * (sums + residual.double()))


def _upsampling_error(library: KernelLibrary, random: torch.Generator) -> float:
    weight, bias, x = _normal(random, 32, 16, 16) / 10, _normal(random, 16), _normal(random, 29, 32)
    made = Upsampling.of(library, weight, bias, 10, 3)(x, torch.empty(290, 16), _SLOPE)
    return _error(made, F.conv_transpose1d(_activated(x), weight.double(), bias.double(), stride=10, padding=3)[0].T)


def _source_error(library: KernelLibrary, random: torch.Generator) -> float:
    weight, bias, source = _normal(random, 16, 1, 8) / 3, _normal(random, 16), _normal(random, 120)
    x = _normal(random, 30, 16)
    made = SourceConvolution.of(library, weight, bias, 4, 2)(source, x.clone())
    sums = F.conv1d(source.double()[None, None], weight.double(), bias.double(), stride=4, padding=2)[0].T
    return _error(made, x.double() + sums)


def _last_error(library: KernelLibrary, random: torch.Generator) -> float:
    weight, x = _normal(random, 1, 32, 7) / 20, _normal(random, 50, 32)
    made = LastConvolution.of(library, weight, None)(x, torch.empty(50), _SLOPE)
    return _error(made, torch.tanh(F.conv1d(_activated(x), weight.double(), padding=3))[0, 0])


def _image_error(library: KernelLibrary, random: torch.Generator, dtype: torch.dtype) -> float:
    weight, scale, bias = (_normal(random, 32, 48, 3, 3) / 20).to(dtype), _normal(random, 32), _normal(random, 32)
    x, residual = _normal(random, 2, 48, 7, 9), _normal(random, 2, 32, 7, 9)
    made = ImageConvolution.of(library, weight, scale, bias)(x, residual)
    sums = F.conv2d(x.double(), weight.double(), padding=1) * scale.double()[:, None, None]
    return _error(made, (sums + bias.double()[:, None, None]).relu() + residual.double())


def _front_error(library: KernelLibrary, random: torch.Generator) -> float:
    first, bias, samples = _normal(random, 32, 10) / 3, _normal(random, 32), _normal(random, 900)
    weights = [_normal(random, 32, 32, taps) / (32 * taps) ** 0.5 for taps in (3, 3, 2)]
    made = Front.of(library, 5, weights)(samples, first, bias)
    x = F.gelu(F.conv1d(samples.double()[None, None], first.double()[:, None], bias.double(), stride=5))
    for weight in weights:
        x = F.gelu(F.conv1d(x, weight.double(), stride=2))
    return _error(made, x[0].T)


def _recurrent_error(library: KernelLibrary, random: torch.Generator) -> float:
    gru = nn.GRU(5, 80, batch_first=True, bidirectional=True).requires_grad_(False)
    for parameter in gru.parameters():
        parameter.copy_(_normal(random, *parameter.shape) / 4)
    x = _normal(random, 2, 9, 5)
    made = Recurrent.of(library, gru)(x)
    return _error(made, gru.double()(x.double())[0])


def _attention_error(library: KernelLibrary, random: torch.Generator, reach: int | None) -> float:
    heads, channels, window, steps = 2, 32, 4, 147
    near_keys, near_values = (_normal(random, 2 * window + 1, channels) for _ in range(2))
    x = _normal(random, steps, 3 * heads * channels)
    made = Attention.of(library, near_keys, near_values, heads)(x, torch.empty(steps, heads * channels), reach)
    query, key, value = x.double().view(steps, 3, heads, channels).permute(1, 2, 0, 3)
    distance = torch.arange(steps)[None] - torch.arange(steps)[:, None]
    near = (distance + window).clamp(0, 2 * window)
    is_near = (distance.abs() <= window)[..., None].double()
    keys, values = (vectors.double()[near] * is_near for vectors in (near_keys, near_values))
    scores = (query @ key.transpose(1, 2) + torch.einsum("hqc,qkc->hqk", query, keys)) * channels**-0.5
    if reach is not None:
        scores = scores.masked_fill(distance.abs() > reach, -torch.inf)
    shares = scores.softmax(dim=-1)
    sums = shares @ value + torch.einsum("hqk,qkc->hqc", shares, values)
    return _error(made, sums.transpose(0, 1).reshape(steps, -1))


def _gate_error(library: KernelLibrary, random: torch.Generator) -> float:
    x = _normal(random, 70, 96) * 4
    first, second = x.double().chunk(2, dim=1)
    return _error(gate(library, x, torch.empty(70, 48)), torch.tanh(first) * torch.sigmoid(second))


def _activated(x: Tensor) -> Tensor:
    """(steps, channels) through the leaky ReLU, as (1, channels, steps) in float64."""
    return F.leaky_relu(x.double().T[None], _SLOPE)
