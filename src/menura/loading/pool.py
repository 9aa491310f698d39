"""Networks, voices and indexes that stay loaded between requests."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from menura.system.memory import available_memory_bytes

T = TypeVar("T")

_log = logging.getLogger("menura")

_SHARE_OF_FREE_MEMORY = 0.5


@dataclass(frozen=True, slots=True)
class ModelKey:
    """What makes a loaded model reusable: the file as it is now, and how it was loaded."""

    kind: str
    path: str
    size_bytes: int
    modified_ns: int
    variant: str

    @classmethod
    def of(cls, kind: str, path: Path, variant: str = "") -> ModelKey:
        """The key of a file or a folder of files on disk. Raises OSError."""
        files = sorted(f for f in path.iterdir() if f.is_file()) if path.is_dir() else [path]
        stats = [f.stat() for f in files]
        return cls(
            kind=kind,
            path=str(path.resolve()),
            size_bytes=sum(s.st_size for s in stats),
            modified_ns=max((s.st_mtime_ns for s in stats), default=0),
            variant=variant,
        )


class ModelPool:
    """Loads each model once; the least recently used leave when all together hold more bytes than the budget.

    The model asked for last always stays. One that leaves while a request uses it is freed when that request ends.

    Args:
        budget_bytes: for all models together; by default half of the memory that is free when the pool is made.
    """

    def __init__(self, budget_bytes: int | None = None) -> None:
        free = available_memory_bytes()
        self.budget_bytes = int(free * _SHARE_OF_FREE_MEMORY) if budget_bytes is None else budget_bytes
        self._models: OrderedDict[ModelKey, _Resident] = OrderedDict()
        self._loading: dict[ModelKey, threading.Lock] = {}
        self._lock = threading.Lock()
        self._loads: dict[tuple[str, str], int] = {}

    def get(self, key: ModelKey, load: Callable[[], T], size_of: Callable[[T], int]) -> T:
        """The model of a key, loaded now if it isn't resident: by one thread, while others that want it wait.

        Args:
            key: what it is.
            load: reads it; what this raises is raised, and nothing is kept.
            size_of: bytes that a loaded one holds.
        """
        with self._lock:
            if key in self._models:
                return cast("T", self._used(key))
            loading = self._loading.setdefault(key, threading.Lock())
        with loading:
            with self._lock:
                if key in self._models:
                    return cast("T", self._used(key))
            start = time.perf_counter()
            model = load()
            _log.info("loaded %s in %.2f s", _name(key.kind, key.path), time.perf_counter() - start)
            with self._lock:
                file = (key.kind, key.path)
                self._loads[file] = self._loads.get(file, 0) + 1
                self._models[key] = _Resident(model=model, size_bytes=size_of(model))
                self._loading.pop(key, None)
                self._evict()
            return model

    def loads(self) -> dict[str, int]:
        """How often each file was read, by kind and name; by its whole path where another has that name."""
        with self._lock:
            counts = dict(self._loads)
        names = {file: _name(*file) for file in counts}
        several = {name for name, files in Counter(names.values()).items() if files > 1}
        return {
            f"{file[0]}:{file[1]}" if names[file] in several else names[file]: count for file, count in counts.items()
        }

    def clear(self) -> None:
        """Forget all models; those in use are freed when their requests end."""
        with self._lock:
            self._models.clear()

    @property
    def resident_bytes(self) -> int:
        """What all resident models hold together."""
        with self._lock:
            return self._total()

    def _used(self, key: ModelKey) -> Any:
        self._models.move_to_end(key)
        return self._models[key].model

    def _evict(self) -> None:
        while len(self._models) > 1 and self._total() > self.budget_bytes:
            self._models.popitem(last=False)

    def _total(self) -> int:
        return sum(resident.size_bytes for resident in self._models.values())


def _name(kind: str, path: str) -> str:
    """Of a file as reports have it; one called after its kind (`wren/voice.safetensors`) goes by its folder."""
    file = Path(path)
    return f"{kind}:{file.parent.name if file.stem == kind else file.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Resident:
    model: Any
    size_bytes: int
