"""The kernels have to prove themselves before they are used: wrong sound is worse than slow sound."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cache
from math import inf, isnan

import torch
from torch import Tensor

from menura.kernels.library import KernelLibrary, kernel_status
from menura.kernels.voice import NativeVoice, Voice
from menura.models.config import rvc_config
from menura.models.synthesizer import Synthesizer
from menura.models.weights import without_weights

LARGEST_ERROR = 2e-5
"""Of the largest value of what a voice's part gives."""
_FRAMES = 70
_CONFIG = replace(
    rvc_config("v2", 40_000, 1, content="", has_f0=True, vocoder="HiFi-GAN"),
    inter_channels=32,
    hidden_channels=32,
    filter_channels=64,
    n_layers=1,
    resblock_kernel_sizes=(3, 5, 7),
    resblock_dilation_sizes=((1,), (3,), (5,)),
    upsample_rates=(10, 2),
    upsample_initial_channel=160,
    upsample_kernel_sizes=(20, 4),
    gin_channels=16,
    content_dim=16,
)
"""Wide and narrow stages, and every algorithm for convolutions."""


@cache
def trusted_kernels() -> KernelLibrary | None:
    """The library if there is one and a small voice sounds the same by it, tried once a process (some milliseconds).

    Warns (RuntimeWarning) and gives None where it doesn't.
    """
    library = kernel_status().library
    problem = "" if library is None else _problem(library)
    if problem:
        warnings.warn(f"{problem} Please report this.", RuntimeWarning, stacklevel=2)
    return None if problem else library


def kernels_in_words() -> str:
    """Which compiled path runs and why, or why none does."""
    status = kernel_status()
    if status.library is None:
        return f"torch's: {status.reason}"
    threads = "" if status.library.shares_threads else "; on one thread, torch's OpenMP runtime wasn't found"
    return _problem(status.library) or f"{status.reason}{threads}"


def _problem(library: KernelLibrary) -> str:
    """What the self-test finds wrong; '' for nothing."""
    try:
        error = largest_error(library)
    except (MemoryError, ValueError) as failure:
        found = str(failure)
    else:
        if error <= LARGEST_ERROR:
            return ""
        found = f"wrong by {error:.1e}"
    return f"The compiled kernels don't work here ({found}); PyTorch's are used, which are slower."


@torch.inference_mode()
def largest_error(library: KernelLibrary) -> float:
    """Difference from torch in float64 over a small voice's parts, relative to each one's largest output."""
    random = torch.Generator().manual_seed(20)
    with without_weights():
        network = Synthesizer(_CONFIG)
    weights = {  # signals stay near 1
        name: torch.randn(weight.shape, generator=random) / max(1, weight[0].numel()) ** 0.5
        for name, weight in network.state_dict().items()
    }
    network.load_state_dict(weights, assign=True)
    network.requires_grad_(False).eval()
    native = NativeVoice(network, library)
    content, z, g = (torch.randn(1, *shape, generator=random) for shape in ((_FRAMES, 16), (32, _FRAMES), (16, 1)))
    coarse, mask = torch.randint(256, (1, _FRAMES), generator=random), torch.ones(1, 1, _FRAMES)
    source = torch.randn(1, 1, _FRAMES * _CONFIG.frame_samples, generator=random)

    def parts(voice: Voice, dtype: torch.dtype) -> list[Tensor]:
        latent, speaker = z.to(dtype), g.to(dtype)
        return [
            voice.encode(content.to(dtype), coarse, torch.tensor([_FRAMES]), 20).mean,
            voice.reverse_flow(latent, mask.to(dtype), speaker),
            voice.decode_tiled(latent, speaker, source.to(dtype), (3, _FRAMES - 3)),
        ]

    outputs = parts(native, torch.float32)
    network.double()  # and with it what the native voice shares
    pairs = zip(outputs, parts(network, torch.float64), strict=True)
    errors = [float((output.double() - expected).abs().max() / expected.abs().max()) for output, expected in pairs]
    return inf if any(map(isnan, errors)) else max(errors)
