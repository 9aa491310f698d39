"""Networks, voices and indexes that stay loaded between requests."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

T = TypeVar("T")


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
    """Loads each model once; the least recently used leave when there are too many."""

    def __init__(self, capacity: int = 8) -> None:
        self._capacity = capacity
        self._models: OrderedDict[ModelKey, Any] = OrderedDict()
        self._lock = threading.RLock()
        self._loads: dict[str, int] = {}

    def get(self, key: ModelKey, load: Callable[[], T]) -> T:
        """The model of a key, loaded now if it isn't resident (by one thread, others wait)."""
        with self._lock:
            if key not in self._models:
                model = load()
                name = f"{key.kind}:{Path(key.path).name}"
                self._loads[name] = self._loads.get(name, 0) + 1
                self._models[key] = model
            self._models.move_to_end(key)
            while len(self._models) > self._capacity:
                self._models.popitem(last=False)
            return cast("T", self._models[key])

    def loads(self) -> dict[str, int]:
        """How often each file was read, by kind and name."""
        with self._lock:
            return dict(self._loads)
