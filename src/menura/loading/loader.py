"""From a request to resident networks, which stay loaded between requests."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar, cast
from weakref import WeakValueDictionary

import torch

from menura.checkpoints.voice import build_synthesizer, load_voice
from menura.content.registry import ContentEncoder, load_encoder, projection_of
from menura.errors import OptionError
from menura.f0.registry import F0Estimator, Refinement, load_estimator
from menura.kernels.cache import PackingCache
from menura.kernels.linear import use_onednn
from menura.kernels.selftest import trusted_kernels
from menura.kernels.voice import NativeVoice, Voice
from menura.loading.request import ModelKey, Request
from menura.system.gpu import device_errors
from menura.system.memory import enough_memory, free_bytes, free_memory, is_out_of_memory
from menura.voices.assets import cache_folder

if TYPE_CHECKING:
    from menura.retrieval.faiss_index import FaissIndex
    from menura.retrieval.torch_index import TorchIndex

_log = logging.getLogger("menura")
_SHARE_OF_FREE_MEMORY = 0.5
_CPU = torch.device("cpu")


Resident: TypeAlias = "Voice | ContentEncoder | F0Estimator | FaissIndex | TorchIndex"
T = TypeVar("T", bound=Resident)


class ModelPool:
    """Loads each model once; the least recently used, but for the last, leave when all hold more bytes than the budget.

    By default that is half of the memory that is free on the device now. They all leave when one finds no memory, which
    is then tried again. What a request still uses is freed when it ends, and found here until then.
    """

    def __init__(self, budget_bytes: int | None = None, device: torch.device = _CPU) -> None:
        self._device = device
        self.budget_bytes = int(free_bytes(device) * _SHARE_OF_FREE_MEMORY) if budget_bytes is None else budget_bytes
        self._models: OrderedDict[ModelKey, Resident] = OrderedDict()
        self._used: WeakValueDictionary[ModelKey, Resident] = WeakValueDictionary()
        self._loading: defaultdict[ModelKey, threading.Lock] = defaultdict(threading.Lock)
        self._lock = threading.RLock()
        self._loads: Counter[tuple[str, str]] = Counter()

    def get(self, key: ModelKey, load: Callable[[], T]) -> T:
        """The model of a key, loaded now if it isn't resident: by one thread, while others that want it wait.

        Raises ResourceError where there isn't enough memory, and what `load` does.
        """
        with self._lock:
            loading = self._loading[key]
        with loading:
            with self._lock:
                if (known := self._used.get(key)) is not None:
                    return self._kept(key, cast("T", known))
            start_s = time.perf_counter()
            model = self._loaded(load)
            _log.info("loaded %s in %.2f s", _name(key.kind, key.path), time.perf_counter() - start_s)
            with self._lock:
                self._loads[key.kind, key.path] += 1
                return self._kept(key, model)

    def _loaded(self, load: Callable[[], T]) -> T:
        try:
            return load()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        with self._lock:  # only here, where the error no longer holds what was allocated
            self._models.clear()
        free_memory(self._device)
        with enough_memory("Close other programs, or use another {device}"):
            return load()

    def _kept(self, key: ModelKey, model: T) -> T:
        """The model, now the one used last."""
        self._models[key] = self._used[key] = model
        self._models.move_to_end(key)
        while len(self._models) > 1 and self.resident_bytes > self.budget_bytes:
            self._models.popitem(last=False)
        return model

    def loads(self) -> dict[str, int]:
        """How often each file was read, by kind and name; by its whole path where another has that name."""
        with self._lock:
            counts = dict(self._loads)
        files_of = Counter(_name(*file) for file in counts)
        return {
            name if files_of[name := _name(kind, path)] == 1 else f"{kind}:{path}": count
            for (kind, path), count in counts.items()
        }

    def clear(self) -> None:
        """Forget all models; those in use are freed when their requests end."""
        with self._lock:
            self._models.clear()
            self._used.clear()

    @property
    def resident_bytes(self) -> int:
        with self._lock:
            return sum(model.resident_bytes for model in self._models.values())


def _name(kind: str, path: str) -> str:
    """Of a file as reports have it; one called after its kind (`wren/voice.safetensors`) goes by its folder."""
    file = Path(path)
    return f"{kind}:{file.parent.name if file.stem == kind else file.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceModels:
    """The resident networks that one request uses."""

    synthesizer: Voice
    encoder: ContentEncoder
    f0: F0Estimator | None
    """None for a voice without F0, or where F0 is given."""
    index: FaissIndex | TorchIndex | None


class Loader:
    """Loads what requests name onto a device; it stays loaded in the pool, its packed weights in a cache in `home`."""

    def __init__(self, *, home: Path, device: torch.device, compile: bool = False, half: bool = False) -> None:
        """`compile` has decoders compiled: OptionError where that isn't done for the device. `half`: see `in_half`."""
        if compile and device.type != "cuda":  # what CPUs run is compiled already
            raise OptionError(None, f"decoders are compiled for GPUs, and the device is {device}", option="compile")
        self.device, self.pool = device, ModelPool(device=device)
        self._home, self._compile, self._half = home, compile, half
        self._precision = "fp16" if half else "fp32"
        self._refined: WeakValueDictionary[tuple[int, Refinement], F0Estimator] = WeakValueDictionary()
        """By the estimator that each refines, so that requests share passes."""

    def load(self, request: Request) -> VoiceModels:
        """The networks of a request.

        Raises CheckpointError, AssetMissingError, IndexFileError, ResourceError, or DeviceError.
        """
        with device_errors(self.device):
            return self._load(request)

    def _load(self, request: Request) -> VoiceModels:
        voice, content, config = request.voice.path, request.content_path, request.config
        projection = projection_of(config.version, request.options.compat)
        return VoiceModels(
            synthesizer=self.pool.get(ModelKey.of("voice", voice, self._precision), lambda: self._load_voice(voice)),
            encoder=self.pool.get(
                ModelKey.of("content", content, f"{projection} {self._precision}"),
                lambda: load_encoder(config.content_encoder, content, self.device, projection, half=self._half),
            ),
            f0=self._f0(request),
            index=self._index(request.index_path, config.content_dim),
        )

    def _load_voice(self, path: Path) -> Voice:
        network = build_synthesizer(load_voice(path))
        if self._half:
            network.use_half()
        network.to(self.device)
        if self._compile:
            network.compile_decoder()
        if self.device.type != "cpu":
            return network
        use_onednn(network.dec)
        if (library := trusted_kernels()) is None:
            return network
        return NativeVoice(network, library, PackingCache(cache_folder(self._home) / "kernels"))

    def _f0(self, request: Request) -> F0Estimator | None:
        method, path, refinement = request.f0_method, request.f0_path, Refinement.of(request.options)
        if method is None or path is None:
            return None
        key = ModelKey.of("f0", path, self._precision)
        estimator = self.pool.get(key, lambda: load_estimator(method, path, self.device, half=self._half))
        if refinement == Refinement():
            return estimator
        from menura.f0.refined import RefinedEstimator

        return self._refined.setdefault((id(estimator), refinement), RefinedEstimator(estimator, refinement))

    def _index(self, path: Path | None, content_dim: int) -> FaissIndex | TorchIndex | None:
        if path is None:
            return None
        index = self.pool.get(ModelKey.of("index", path), lambda: self._load_index(path))
        index.check_dim(content_dim)
        return index

    def _load_index(self, path: Path) -> FaissIndex | TorchIndex:
        from menura.retrieval.faiss_index import FaissIndex
        from menura.retrieval.torch_index import TorchIndex

        index = FaissIndex.load(path)
        return index if self.device.type == "cpu" else TorchIndex(index, self.device)
