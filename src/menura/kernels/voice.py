"""A voice on the compiled kernels."""

from __future__ import annotations

from itertools import chain
from typing import TypeAlias

import torch
from torch import Tensor, nn

from menura.kernels.cache import Packing, PackingCache, PackingError, packing_key
from menura.kernels.decoder import Decoder
from menura.kernels.library import KernelLibrary
from menura.kernels.prior import Encoder, InverseFlow
from menura.kernels.starter import use_vocoder_kernels
from menura.models.layers import Span
from menura.models.source_filter import SourceFilter
from menura.models.synthesizer import TILE_FRAMES, Synthesizer
from menura.models.vocoders import HifiGan
from menura.models.weights import tensor_bytes
from menura.system.memory import MappedPages

LONG_PASS_FRAMES = 300
"""After a pass of so many frames the packed weights are left to the system's cache of files."""


class NativeVoice:
    """`Synthesizer`'s twin on the CPU, with its methods. It keeps only what it doesn't have packed of the network."""

    def __init__(self, network: Synthesizer, library: KernelLibrary, cache: PackingCache | None = None) -> None:
        """Pack the weights of an inference network in float32 on the CPU, or take them packed from the cache."""
        self.config, self.device = network.config, torch.device("cpu")
        self.needs_noise = network.needs_noise
        self.flow_context_frames = network.flow_context_frames
        self.decode_context_frames = network.decode_context_frames
        key = packing_key(library, repr(network.config), network.state_dict()) if cache else ""
        if cache is None or not self._pack(network, cache.load(key, library)):
            self._pack(network, Packing(library))
            if cache is not None and cache.store(key, self._packed):
                # From now on what was stored: other processes share it, and it needn't be in memory all the time.
                self._pack(network, cache.load(key, library))
        self.encode, self.reverse_flow = self._encoder.prior, self._flow.reverse
        self._speakers = network.emb_g
        self._excitation = network.dec.m_source if network.config.has_f0 else None
        self._vocoder = network.dec if self._decoder is None else None
        if isinstance(network.dec, SourceFilter):
            use_vocoder_kernels(network.dec, library)
        self._pages = MappedPages(self._packed)

    def _pack(self, network: Synthesizer, packing: Packing | None) -> bool:
        """Make the parts that there are kernels for; False where the packing is none, or of other layers."""
        if packing is None:
            return False
        try:
            decoder = Decoder(network.dec, packing) if isinstance(network.dec, HifiGan) else None
            encoder, flow = Encoder(network.enc_p, packing), InverseFlow(network.flow, packing)
            packing.finish()
        except PackingError:
            return False
        self._encoder, self._flow, self._decoder, self._packed = encoder, flow, decoder, packing.tensors
        return True

    @property
    def resident_bytes(self) -> int:
        """Memory of all weights."""
        decoder = [self._vocoder] if self._decoder is None else [self._decoder.condition, self._excitation]
        kept: list[nn.Module | None] = [self._speakers, *self._encoder.modules, *self._flow.modules, *decoder]
        weights = (module.state_dict().values() for module in kept if module is not None)
        return tensor_bytes(chain(self._packed, *weights))

    def condition(self, speaker_id: Tensor) -> Tensor:
        embedding: Tensor = self._speakers(speaker_id)
        return embedding[:, :, None]

    def source(self, f0_hz: Tensor, phase_cycles: Tensor, noise: Tensor | None, noise_scale: float) -> Tensor:
        assert self._excitation is not None, "a voice without F0"
        excitation: Tensor = self._excitation(f0_hz, phase_cycles, noise, noise_scale)
        return excitation

    @torch.inference_mode()
    def decode_tiled(self, z: Tensor, g: Tensor, source: Tensor | None, core: tuple[int, int]) -> Tensor:
        if self._decoder is not None:
            sound = self._decoder.tiled(z, g, source, Span(*core))
        else:
            assert self._vocoder is not None
            sound = self._vocoder.tiled(z, g, source, Span(*core), TILE_FRAMES)[:, 0]
        if len(z) * (core[1] - core[0]) >= LONG_PASS_FRAMES:
            self._pages.release()
        return sound


Voice: TypeAlias = Synthesizer | NativeVoice
"""A loaded voice as the pipeline uses it."""
