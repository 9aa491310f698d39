"""From a request to resident networks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from menura.checkpoints.rvc import load_voice
from menura.checkpoints.voice import build_synthesizer
from menura.content.base import ContentEncoder
from menura.content.registry import load_encoder, projection_of
from menura.f0.base import F0Estimator
from menura.f0.registry import load_estimator
from menura.kernels.cache import PackingCache
from menura.kernels.linear import use_onednn
from menura.kernels.selftest import trusted_kernels
from menura.kernels.voice import NativeVoice, Voice
from menura.loading.pool import ModelKey, ModelPool
from menura.loading.request import Request
from menura.voices.assets import cache_folder

if TYPE_CHECKING:
    from menura.retrieval.faiss_index import FaissIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceModels:
    """The resident networks that one request uses."""

    synthesizer: Voice
    encoder: ContentEncoder
    f0: F0Estimator | None
    """None for a voice without F0, or where F0 is given."""
    index: FaissIndex | None


class Loader:
    """Loads what requests name onto a device; it stays loaded in the pool.

    Args:
        home: Menura's data folder, for the cache of packed weights.
        device: where the networks run.
    """

    def __init__(self, *, home: Path, device: torch.device) -> None:
        self.device, self.pool = device, ModelPool()
        self._home = home

    def load(self, request: Request) -> VoiceModels:
        """The networks of a request; what is resident isn't read again.

        Raises:
            CheckpointError, AssetMissingError, IndexFileError: with what to do.
        """
        path = request.voice.path
        return VoiceModels(
            synthesizer=self.pool.get(ModelKey.of("voice", path), lambda: self._load_voice(path)),
            encoder=self._encoder(request),
            f0=self._f0(request),
            index=self._index(request),
        )

    def _load_voice(self, path: Path) -> Voice:
        network = build_synthesizer(load_voice(path)).to(self.device)
        if self.device.type != "cpu":
            return network
        use_onednn(network.dec)
        library = trusted_kernels()
        if library is None:
            return network
        return NativeVoice(network, library, PackingCache(cache_folder(self._home) / "kernels"))

    def _encoder(self, request: Request) -> ContentEncoder:
        name, path = request.config.content_encoder, request.content_path
        projection = projection_of(request.config.version, request.options.compat)
        key = ModelKey.of("content", path, projection)
        return self.pool.get(key, lambda: load_encoder(name, path, self.device, projection))

    def _f0(self, request: Request) -> F0Estimator | None:
        method, path = request.f0_method, request.f0_path
        if method is None or path is None:
            return None
        return self.pool.get(ModelKey.of("f0", path), lambda: load_estimator(method, path, self.device))

    def _index(self, request: Request) -> FaissIndex | None:
        path = request.index_path
        if path is None:
            return None
        from menura.retrieval.faiss_index import FaissIndex

        index = self.pool.get(ModelKey.of("index", path), lambda: FaissIndex.load(path))
        index.check_dim(request.config.content_dim)
        return index
