"""Networks, voices and indexes that stay loaded between requests."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, cast

from menura.system.memory import available_memory_bytes

_log = logging.getLogger("menura")

_SHARE_OF_FREE_MEMORY = 0.5


class Resident(Protocol):
    """A model that knows how much memory it takes."""

    @property
    def resident_bytes(self) -> int: ...


T = TypeVar("T", bound=Resident)


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
        files = [f for f in path.iterdir() if f.is_file()] if path.is_dir() else [path]
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
        self._models: OrderedDict[ModelKey, Resident] = OrderedDict()
        self._loading: defaultdict[ModelKey, threading.Lock] = defaultdict(threading.Lock)
        self._lock = threading.Lock()
        self._loads: Counter[tuple[str, str]] = Counter()

    def get(self, key: ModelKey, load: Callable[[], T]) -> T:
        """The model of a key, loaded now if it isn't resident: by one thread, while others that want it wait.

        What `load` raises is raised, and nothing is kept.
        """
        with self._lock:
            loading = self._loading[key]
        with loading:
            with self._lock:
                if key in self._models:
                    self._models.move_to_end(key)
                    return cast("T", self._models[key])
            start_s = time.perf_counter()
            model = load()
            _log.info("loaded %s in %.2f s", _name(key.kind, key.path), time.perf_counter() - start_s)
            with self._lock:
                self._loads[key.kind, key.path] += 1
                self._models[key] = model
                while len(self._models) > 1 and self._total_bytes() > self.budget_bytes:
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

    @property
    def resident_bytes(self) -> int:
        """What all resident models hold together."""
        with self._lock:
            return self._total_bytes()

    def _total_bytes(self) -> int:
        return sum(model.resident_bytes for model in self._models.values())


def _name(kind: str, path: str) -> str:
    """Of a file as reports have it; one called after its kind (`wren/voice.safetensors`) goes by its folder."""
    file = Path(path)
    return f"{kind}:{file.parent.name if file.stem == kind else file.name}"
