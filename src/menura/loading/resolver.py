"""From a request's options to resident networks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from menura.checkpoints.rvc import load_voice
from menura.checkpoints.voice import build_synthesizer
from menura.errors import OptionError
from menura.kernels.cache import PackingCache
from menura.kernels.selftest import trusted_kernels
from menura.loading.pool import ModelKey, ModelPool
from menura.loading.request import VoiceModels
from menura.models.footprint import network_bytes
from menura.voices.assets import find_asset, packing_folder
from menura.voices.library import VoiceEntry, find_voice

if TYPE_CHECKING:
    import torch

    from menura.content.base import ContentEncoder
    from menura.f0.base import F0Estimator
    from menura.models.config import SynthesizerConfig
    from menura.models.synthesizer import Synthesizer
    from menura.options import ConversionOptions
    from menura.retrieval.base import FeatureIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedVoice:
    """The networks of a request, and which F0 method it came to."""

    entry: VoiceEntry
    models: VoiceModels
    f0_method: str | None


class Resolver:
    """Finds and loads what requests name, keeping it in a pool."""

    def __init__(self, *, home: Path, device: torch.device, pool: ModelPool) -> None:
        self._home, self._device, self._pool = home, device, pool

    def resolve(self, options: ConversionOptions) -> ResolvedVoice:
        """Load what is not yet resident.

        Raises:
            VoiceNotFoundError, CheckpointError, AssetMissingError, IndexFileError: with what to do.
            OptionError: the voice has no such speaker, or no known pitch to move to.
        """
        entry = find_voice(options.voice, self._home)
        synthesizer = self._synthesizer(entry)
        config = synthesizer.config
        if options.speaker_id >= config.n_speakers:
            raise OptionError(
                f"speaker_id: voice '{entry.name}' has speakers 0 to {config.n_speakers - 1}, not {options.speaker_id}."
            )
        if options.transpose == "auto" and config.has_f0 and entry.f0_median_hz is None:
            raise OptionError(
                f"transpose: voice '{entry.name}' has no card.json with its median (f0_median_hz); give semitones."
            )
        method = self._f0_method(options) if config.has_f0 else None
        estimator = self._f0(method) if method not in (None, "file") else None
        models = VoiceModels(
            synthesizer=synthesizer,
            encoder=self._encoder(config.content_encoder, config.version, options.compat),
            f0=estimator,
            index=self._index(options.index or entry.index_path, config.content_dim, options.index_rate),
            f0_median_hz=entry.f0_median_hz,
        )
        return ResolvedVoice(entry=entry, models=models, f0_method=method)

    def synthesizer_config(self, options: ConversionOptions) -> SynthesizerConfig:
        """The architecture of a request's voice. Raises VoiceNotFoundError, CheckpointError."""
        return self._synthesizer(find_voice(options.voice, self._home)).config

    def _synthesizer(self, entry: VoiceEntry) -> Synthesizer:
        key = ModelKey.of("voice", entry.path)
        return self._pool.get(key, lambda: self._load_synthesizer(entry.path), size_of=_voice_bytes)

    def _load_synthesizer(self, path: Path) -> Synthesizer:
        synthesizer = build_synthesizer(load_voice(path)).to(self._device)
        if self._device.type == "cpu":
            synthesizer.use_kernels(trusted_kernels(), PackingCache(packing_folder(self._home)))
            synthesizer.release_weights()
        return synthesizer

    def _encoder(self, name: str, version: str, compat: str) -> ContentEncoder:
        if name == "menura-starter":
            from menura.content.starter import WEIGHTS, StarterEncoder

            key = ModelKey.of("content", WEIGHTS)
            return self._pool.get(key, lambda: StarterEncoder.load(self._device), size_of=_own_bytes)
        from menura.content.contentvec import ContentVec, Projection

        path = find_asset(name, self._home)
        projection: Projection = "none" if version != "v1" else "layer9" if compat == "rvc" else "last"
        key = ModelKey.of("content", path, projection)
        return self._pool.get(key, lambda: ContentVec.load(path, self._device, projection), size_of=_own_bytes)

    def _f0_method(self, options: ConversionOptions) -> str:
        from menura.f0.registry import resolve_method

        return "file" if options.f0_file else resolve_method(options.f0, self._home)

    def _f0(self, method: str | None) -> F0Estimator:
        from menura.f0.registry import load_estimator, method_path

        assert method is not None
        path = method_path(method, self._home)
        key = ModelKey.of("f0", path)
        return self._pool.get(key, lambda: load_estimator(method, path, self._device), size_of=_own_bytes)

    def _index(self, path: Path | None, content_dim: int, index_rate: float) -> FeatureIndex | None:
        if path is None or index_rate == 0:
            return None
        from menura.retrieval.faiss_index import FaissIndex

        found = self._pool.get(ModelKey.of("index", path), lambda: FaissIndex.load(path), size_of=_own_bytes)
        found.check_dim(content_dim)
        return found


def _voice_bytes(network: Synthesizer) -> int:
    return network_bytes(network) + network.kernel_bytes


def _own_bytes(model: ContentEncoder | F0Estimator | FeatureIndex) -> int:
    return model.resident_bytes
