"""A voice on the compiled kernels."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from menura.kernels.cache import Packing, PackingCache, PackingError, packing_key
from menura.kernels.decoder import Decoder
from menura.kernels.encoder import Encoder
from menura.kernels.flow import InverseFlow
from menura.kernels.library import KernelLibrary
from menura.models.footprint import tensor_bytes
from menura.models.spans import Span
from menura.models.synthesizer import TILE_FRAMES, Synthesizer
from menura.models.vocoders import HifiGanBase
from menura.system.pages import MappedPages
from menura.types import Prior

LONG_PASS_FRAMES = 300
"""After a pass of so many frames the packed weights are left to the system's cache of files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What there are kernels for."""

    encoder: Encoder
    flow: InverseFlow
    decoder: Decoder | None
    """None for other vocoders than HiFi-GAN's kinds."""
    packed: list[Tensor]


class NativeVoice:
    """A `Voice` on the CPU. It keeps only those parts of the network that it doesn't have packed."""

    def __init__(self, network: Synthesizer, library: KernelLibrary, cache: PackingCache | None = None) -> None:
        """Pack the weights, or take them packed from the cache.

        Args:
            network: an inference network in float32 on the CPU, whose weights stay as they are.
            library: whose kernels will run.
            cache: where packed weights are kept from start to start; None packs them anew.
        """
        self.config, self.device = network.config, torch.device("cpu")
        self.needs_noise = network.needs_noise
        self.flow_context_frames = network.flow_context_frames
        self.decode_context_frames = network.decode_context_frames
        parts = _cached(network, library, cache) if cache is not None else _packed(network, library, Packing())
        self._encoder, self._flow, self._decoder = parts.encoder, parts.flow, parts.decoder
        self._speakers = network.emb_g
        self._excitation = network.dec.m_source if network.config.has_f0 else None
        self._vocoder = network.dec if parts.decoder is None else None
        self._packed = parts.packed
        self._pages = MappedPages(parts.packed)

    @property
    def resident_bytes(self) -> int:
        """Memory of all weights."""
        decoder = [self._vocoder] if self._decoder is None else [self._decoder.condition, self._excitation]
        kept: list[nn.Module | None] = [self._speakers, *self._encoder.modules, *self._flow.modules, *decoder]
        weights = (module.state_dict().values() for module in kept if module is not None)
        return tensor_bytes(chain(self._packed, *weights))

    def condition(self, speaker_id: Tensor) -> Tensor:
        """See `Synthesizer.condition`."""
        embedding: Tensor = self._speakers(speaker_id)
        return embedding[:, :, None]

    def encode(
        self, content: Tensor, f0_coarse: Tensor | None, lengths: Tensor, reach_frames: int | None = None
    ) -> Prior:
        """See `Synthesizer.encode`."""
        return self._encoder.prior(content, f0_coarse, lengths, reach_frames)

    def reverse_flow(self, z_p: Tensor, mask: Tensor, g: Tensor) -> Tensor:
        """See `Synthesizer.reverse_flow`; a row's mask has to be ones, then zeros."""
        return self._flow.reverse(z_p, mask, g)

    def source(self, f0_hz: Tensor, phase_cycles: Tensor, noise: Tensor | None, noise_scale: float) -> Tensor:
        """See `Synthesizer.source`."""
        assert self._excitation is not None, "a voice without F0"
        excitation: Tensor = self._excitation(f0_hz, phase_cycles, noise, noise_scale)
        return excitation

    @torch.inference_mode()
    def decode_tiled(self, z: Tensor, g: Tensor, source: Tensor | None, core: tuple[int, int]) -> Tensor:
        """See `Synthesizer.decode_tiled`."""
        if self._decoder is not None:
            sound = self._decoder.tiled(z, g, source, Span(*core))
        else:
            assert self._vocoder is not None
            sound = self._vocoder.tiled(z, g, source, Span(*core), TILE_FRAMES)[:, 0]
        if len(z) * (core[1] - core[0]) >= LONG_PASS_FRAMES:
            self._pages.release()
        return sound


def _packed(network: Synthesizer, library: KernelLibrary, packing: Packing) -> _Parts:
    """All parts. Raises PackingError if the packing is of other layers."""
    decoder = Decoder(library, network.dec, packing) if isinstance(network.dec, HifiGanBase) else None
    encoder, flow = Encoder(library, network.enc_p, packing), InverseFlow(library, network.flow, packing)
    packing.finish()
    return _Parts(encoder=encoder, flow=flow, decoder=decoder, packed=packing.tensors)


def _cached(network: Synthesizer, library: KernelLibrary, cache: PackingCache) -> _Parts:
    key = packing_key(library, repr(network.config), network.state_dict())
    parts = _stored(network, library, cache, key)
    if parts is None:
        parts = _packed(network, library, Packing())
        if cache.store(key, parts.packed):
            # From now on what was stored: other processes share it, and it needn't be in memory all the time.
            parts = _stored(network, library, cache, key) or parts
    return parts


def _stored(network: Synthesizer, library: KernelLibrary, cache: PackingCache, key: str) -> _Parts | None:
    packing = cache.load(key)
    if packing is None:
        return None
    try:
        return _packed(network, library, packing)
    except PackingError:
        return None
