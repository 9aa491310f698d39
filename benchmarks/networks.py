"""The networks around the decoder, whole and their costliest parts, by torch and on the kernels in turn.

RMVPE and HuBERT have seeded weights of the real sizes, made in memory; the text encoder and the flow are the voice's.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.full_size import contentvec_weights, rmvpe_weights
from benchmarks.onnx import ONNX, layers_session
from benchmarks.turns import take_turns
from menura.content.contentvec import ContentVec
from menura.content.registry import STARTER_WEIGHTS
from menura.f0.networks import threads_that_gain
from menura.f0.registry import SWIFT_WEIGHTS
from menura.kernels import hubert, rmvpe, starter
from menura.kernels.layers import Attention
from menura.kernels.library import KernelLibrary
from menura.kernels.linear import native_product, onednn_product, onednn_works
from menura.kernels.voice import Voice
from menura.models.config import small_config
from menura.models.hubert import Hubert, HubertConfig
from menura.models.rmvpe import N_MELS, Rmvpe, RmvpeConfig
from menura.models.source_filter import SourceFilter
from menura.models.swift import SwiftF0
from menura.models.synthesizer import PITCH_BINS
from menura.models.whisper_encoder import WhisperContentEncoder
from menura.pipeline.windows import Windowing
from menura.units import FRAME_RATE_HZ

TORCH = "torch"
"""As Menura uses it where there are no kernels."""
ONEDNN = "oneDNN"
"""Its product for linear layers, inside torch."""
_ENCODER_RATE_HZ = 16_000
_LOUDNESS = 0.1

Network = TypeVar("Network")
Variant = Callable[[], Tensor]
Libraries = Mapping[str, KernelLibrary]
"""The compiled kernels by their variant's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisSizes:
    """Of the networks that aren't the voice's; the defaults are the published ones'."""

    rmvpe: RmvpeConfig = field(default_factory=RmvpeConfig)
    hubert: HubertConfig = field(default_factory=HubertConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """How to measure."""

    threads: tuple[int, ...]
    seconds: float
    """Of audio that a network is given."""
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRow:
    """A network or a part of one by one means, with one number of threads."""

    network: str
    variant: str
    threads: int
    best_ms: float
    """For a second of audio."""
    of_torch: float
    """Time by torch's in the same turns, best by best."""
    largest_difference: float
    """From torch's result, in parts of its largest value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is measured: every variant gives the same."""

    network: str
    seconds: float
    """Of audio."""
    variants: dict[str, Variant]
    """Torch's first."""


def measure_networks(
    voices: Mapping[str, Voice], sizes: AnalysisSizes, libraries: Libraries, turns: Turns
) -> list[NetworkRow]:
    """Time everything that there are kernels for beside the decoder.

    Args:
        voices: one voice by variant: `TORCH`, and using the kernels of each of `libraries`.
        sizes: of the other networks.
        libraries: the compiled kernels by variant.
        turns: how to measure.
    """
    rows: list[NetworkRow] = []
    for subject in _subjects(voices, sizes, libraries, turns.seconds):
        for threads in turns.threads:
            torch.set_num_threads(threads)
            rows += _rows(subject, threads, turns.rounds)
    return rows


def _subjects(
    voices: Mapping[str, Voice], sizes: AnalysisSizes, libraries: Libraries, seconds: float
) -> Iterator[Subject]:
    """One network after the other, made when its turn comes: no more than one is in memory beside the voice."""
    yield from _rmvpe(sizes.rmvpe, libraries, seconds)
    yield from _hubert(sizes.hubert, libraries, seconds)
    yield from _attention(sizes.hubert, libraries)
    yield _linear(sizes.hubert, libraries)
    yield from _prior(voices, seconds)
    yield from _starter(libraries, seconds)


@torch.inference_mode()
def _rows(subject: Subject, threads: int, rounds: int) -> list[NetworkRow]:
    wanted = subject.variants[TORCH]()
    full_scale = float(wanted.abs().max())
    differences = {name: float((run() - wanted).abs().max()) / full_scale for name, run in subject.variants.items()}
    taken = take_turns(subject.variants, rounds)
    return [
        NetworkRow(
            network=subject.network,
            variant=name,
            threads=threads,
            best_ms=took.best_s / subject.seconds * 1e3,
            of_torch=took.best_s / taken[TORCH].best_s,
            largest_difference=differences[name],
        )
        for name, took in taken.items()
    ]


def _subject(name: str, seconds: float, networks: Mapping[str, Network], run: Callable[[Network], Tensor]) -> Subject:
    """The same of each network."""
    variants = {variant: functools.partial(run, network) for variant, network in networks.items()}
    return Subject(network=name, seconds=seconds, variants=dict(variants))


def _random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _rmvpe(config: RmvpeConfig, libraries: Libraries, seconds: float) -> Iterator[Subject]:
    weights = rmvpe_weights(config)
    networks = {name: Rmvpe.from_tensors(weights, config) for name in (TORCH, *libraries)}
    for name, library in libraries.items():
        rmvpe.use_kernels(networks[name], library)
    mel = torch.randn(1, N_MELS, round(FRAME_RATE_HZ * seconds), generator=_random()) * 3 - 5  # as sound's is
    with torch.inference_mode():
        features = networks[TORCH].features(mel)

    def states(network: Rmvpe) -> Tensor:
        with threads_that_gain(network):
            states: Tensor = network.gru(features)[0]
            return states

    def salience(network: Rmvpe) -> Tensor:
        made = network.features(mel)
        with threads_that_gain(network):
            return network.salience(made)

    yield _subject("RMVPE", seconds, networks, salience)
    yield _subject("RMVPE's U-Net", seconds, networks, lambda network: network.features(mel))
    yield _subject("RMVPE's recurrent layer", seconds, networks, states)


def _hubert(config: HubertConfig, libraries: Libraries, seconds: float) -> Iterator[Subject]:
    weights = contentvec_weights(config)
    networks = {name: Hubert.from_tensors(weights, config) for name in (TORCH, *libraries)}
    for name, library in libraries.items():
        hubert.use_kernels(networks[name], library)
    samples = torch.randn(1, round(_ENCODER_RATE_HZ * seconds), generator=_random()) * _LOUDNESS
    statistics = networks[TORCH].window_statistics(samples)
    last = config.num_hidden_layers

    def hidden(network: Hubert) -> Tensor:
        states: Tensor = network(samples, layers=[last], statistics=statistics)[0]
        return states

    yield _subject("HuBERT", seconds, networks, hidden)
    yield _subject("HuBERT's front", seconds, networks, lambda network: network.features(samples, statistics))


def _starter(libraries: Libraries, seconds: float) -> Iterator[Subject]:
    """SwiftF0 from its spectra on, and the starter pack's encoder and vocoder, the latter up to its filters."""
    random, frames = _random(), round(FRAME_RATE_HZ * seconds)
    swift = SwiftF0.from_tensors(load_file(str(SWIFT_WEIGHTS)), 50.0, 1400.0)
    estimators = {TORCH: swift} | {name: starter.NativeSwift(swift, library) for name, library in libraries.items()}
    spectra = torch.randn(1, 3, 128, max(1, round(frames / 1.6)), generator=random) * 3 - 5
    yield _subject("SwiftF0's convolutions", seconds, estimators, lambda network: network.heard(spectra)[0])

    weights = {name: value.float() for name, value in load_file(str(STARTER_WEIGHTS)).items()}
    encoder = WhisperContentEncoder(n_directions=weights["speaker_directions"].shape[1]).requires_grad_(False)
    encoder.load_state_dict(weights)
    samples = torch.randn(1, round(_ENCODER_RATE_HZ * seconds), generator=random) * _LOUDNESS
    encoders = _moved(encoder, libraries, starter.use_encoder_kernels)
    yield _subject("starter encoder", seconds, encoders, lambda network: network(samples))

    config = small_config(24_000, 1)
    vocoder = SourceFilter(config, training=False).requires_grad_(False)
    for parameter in vocoder.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=random) * max(1, parameter[0].numel()) ** -0.5)
    z, g = (
        torch.randn(1, *shape, generator=random)
        for shape in ((config.inter_channels, frames), (config.gin_channels, 1))
    )
    vocoders = _moved(vocoder, libraries, starter.use_vocoder_kernels)
    yield _subject("starter vocoder's filters", seconds, vocoders, lambda network: network.filters(z, g))


def _moved(
    network: Network, libraries: Libraries, use_kernels: Callable[[Network, KernelLibrary], None]
) -> dict[str, Network]:
    """The network by torch, and copies that use the kernels."""
    networks = {name: copy.deepcopy(network) for name in (TORCH, *libraries)}
    for name, library in libraries.items():
        use_kernels(networks[name], library)
    return networks


def _attention(config: HubertConfig, libraries: Libraries) -> Iterator[Subject]:
    """One layer's, without its projections, in a long recording's window: it grows with the square of that."""
    seconds, frames = _long_window(config)
    width, heads = config.hidden_size, config.num_attention_heads
    projected = torch.randn(frames, 3 * width, generator=_random())
    separate = [part.contiguous()[None] for part in projected.chunk(3, dim=1)]

    def by_torch() -> Tensor:
        query, key, value = (part.view(1, frames, heads, -1).transpose(1, 2) for part in separate)
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)[0]

    def natively(library: KernelLibrary) -> Variant:
        nothing = torch.zeros(1, width // heads)
        attention = Attention(library, nothing, nothing, heads)
        return lambda: attention(projected, torch.empty(frames, width), None)

    variants = {TORCH: by_torch} | {name: natively(library) for name, library in libraries.items()}
    yield Subject(network=f"HuBERT's attention, a layer, {seconds:g} s", seconds=seconds, variants=variants)


def _linear(config: HubertConfig, libraries: Libraries) -> Subject:
    """One layer's six products in a long recording's window, one after the other, by whatever library there is."""
    seconds, frames = _long_window(config)
    width, wide = config.hidden_size, config.intermediate_size
    sizes = [*[(width, width)] * 4, (width, wide), (wide, width)]
    random, layers = _random(), nn.Sequential(*(nn.Linear(*size) for size in sizes)).requires_grad_(False)
    for parameter in layers.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=random) * parameter.shape[-1] ** -0.5)
    x = torch.randn(frames, width, generator=random)
    variants: dict[str, Variant] = {TORCH: lambda: layers(x)}
    weights = [(layer.weight, layer.bias) for layer in layers if isinstance(layer, nn.Linear)]

    def one_by_one(product: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Variant:
        return lambda: functools.reduce(lambda y, layer: product(y, *layer), weights, x)

    if onednn_works():
        variants[ONEDNN] = one_by_one(onednn_product)
    for name, library in libraries.items():
        variants[name] = one_by_one(functools.partial(native_product, library))
    session = layers_session(layers, x)
    if session is not None:
        variants[ONNX] = session
    return Subject(network=f"HuBERT's linear layers, a layer, {seconds:g} s", seconds=seconds, variants=variants)


def _long_window(config: HubertConfig) -> tuple[float, int]:
    """Seconds and HuBERT's frames of a window in a long recording."""
    seconds = (ContentVec.core_frames + 2 * ContentVec.context_frames) / FRAME_RATE_HZ
    return seconds, config.frame_count(round(_ENCODER_RATE_HZ * seconds))


def _prior(voices: Mapping[str, Voice], seconds: float) -> Iterator[Subject]:
    config, random, frames = voices[TORCH].config, _random(), round(FRAME_RATE_HZ * seconds)
    content = torch.randn(1, frames, config.content_dim, generator=random)
    pitch = torch.randint(1, PITCH_BINS, (1, frames), generator=random) if config.has_f0 else None
    lengths, mask = torch.tensor([frames]), torch.ones(1, 1, frames)
    z_p = torch.randn(1, config.inter_channels, frames, generator=random)

    def encode(voice: Voice) -> Tensor:
        prior = voice.encode(content, pitch, lengths, Windowing().attention_frames)
        return torch.cat((prior.mean, prior.log_scale))

    def inverse(voice: Voice) -> Tensor:
        return voice.reverse_flow(z_p, mask, voice.condition(torch.tensor([0])))

    yield _subject("text encoder", seconds, voices, encode)
    yield _subject("inverse flow", seconds, voices, inverse)
