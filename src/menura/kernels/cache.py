"""Packed weights on disk, mapped into memory: the second start of a voice packs nothing, and processes share its pages.

A file is in the safetensors format, so that anybody can look into it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from menura.errors import ResourceError
from menura.kernels.library import VERSION, KernelLibrary
from menura.system.files import remove_abandoned, replacing

BUDGET_BYTES = 4 * 10**9
"""The least recently used files beyond this are removed."""

SMALLEST_BYTES = 64 * 10**6
"""What is smaller is packed again faster than it is worth keeping."""

_SUFFIX = ".packed"
_HEADER_LENGTH_BYTES = 8
_LONGEST_HEADER_BYTES = 10**6
_ALIGNMENT_BYTES = 64


class Packing:
    """Gives layers their packed weights, in the order in which they ask."""

    def __init__(self) -> None:
        self.made: list[Tensor] = []

    def take(self, make: Callable[[], Tensor]) -> Tensor:
        """The next layer's weights: those that `make` gives, or the same from a file."""
        weights = make()
        self.made.append(weights)
        return weights


class MappedPacking(Packing):
    """Weights from a file of the cache."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self._tensors = iter(tensors)

    def take(self, make: Callable[[], Tensor]) -> Tensor:
        """See Packing."""
        return next(self._tensors)


class PackingCache:
    """The files of one folder."""

    def __init__(self, folder: Path, budget_bytes: int = BUDGET_BYTES) -> None:
        """Nothing is written before `keep`.

        Args:
            folder: made when needed.
            budget_bytes: what all files together may take.
        """
        self._folder, self._budget_bytes = folder, budget_bytes

    def open(self, library: KernelLibrary, layers: Iterable[tuple[Tensor, int]]) -> tuple[str, Packing]:
        """A key for layers' weights as they come from a checkpoint, and their packing: from disk where it is kept.

        Args:
            library: that the weights are packed for.
            layers: (weights, stride) of each, in the order in which they will ask for their packing.
        """
        key = packing_key(library, layers)
        return key, self.mapped(key) or Packing()

    def mapped(self, key: str) -> MappedPacking | None:
        """What is kept under a key, mapped into memory; None if nothing whole is."""
        try:
            return MappedPacking(_mapped(self._folder / (key + _SUFFIX)))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, key: str, packing: Packing) -> None:
        """Write what was packed, if it is worth it. A folder that can't be written is no error: it is packed anew."""
        if sum(t.numel() * t.element_size() for t in packing.made) < SMALLEST_BYTES:
            return
        with contextlib.suppress(OSError, ResourceError):
            with replacing(self._folder / (key + _SUFFIX)) as partial, partial.open("wb") as file:
                file.write(_header(packing.made))
                for tensor in packing.made:
                    file.write(tensor.numpy().tobytes())
            self._make_room()

    def clean(self) -> int:
        """Remove everything: bytes freed. Raises OSError."""
        remove_abandoned(self._folder.glob(".*.part"))
        return sum(_remove(file) for file in self._files())

    def _files(self) -> list[Path]:
        """The newest use first."""
        files = self._folder.glob("*" + _SUFFIX) if self._folder.is_dir() else ()
        return sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)

    def _make_room(self) -> None:
        remove_abandoned(self._folder.glob(".*.part"))
        total = 0
        for number, file in enumerate(self._files()):
            total += file.stat().st_size
            if total > self._budget_bytes and number:
                _remove(file)


def packing_key(library: KernelLibrary, layers: Iterable[tuple[Tensor, int]]) -> str:
    """A hash of weights and strides, of the layout and of the path they are packed for."""
    digest = hashlib.sha256(f"{VERSION} {library.path_name} {library.panel_channels}".encode())
    for tensor, stride in layers:
        digest.update(repr((tuple(tensor.shape), stride)).encode())
        array: Any = tensor.detach().contiguous().numpy()
        digest.update(memoryview(array).cast("B"))
    return digest.hexdigest()[:32]


def _mapped(file: Path) -> list[Tensor]:
    """All tensors of a file. Raises OSError, ValueError or KeyError for one that isn't whole."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(_HEADER_LENGTH_BYTES), "little")
        if not 0 < length <= _LONGEST_HEADER_BYTES:
            raise ValueError("no header")
        header = json.loads(stream.read(length))
        size = os.fstat(stream.fileno()).st_size
    begin = _HEADER_LENGTH_BYTES + length
    spans = [header[str(number)]["data_offsets"] for number in range(len(header))]
    if begin + max(last for _, last in spans) != size:
        raise ValueError("cut off")
    # Copy on write: torch wants memory that could be written, and nothing writes it.
    data = np.memmap(file, dtype=np.uint8, mode="c", offset=0)
    with contextlib.suppress(OSError):  # somebody else's file, or one that can't be written, serves as well
        os.utime(file)
    return [torch.from_numpy(data[begin + first : begin + last].view(np.float32)) for first, last in spans]


def _header(tensors: list[Tensor]) -> bytes:
    """What safetensors puts before flat float32 tensors; data begin at a line of the processor's cache."""
    entries, first = {}, 0
    for number, tensor in enumerate(tensors):
        last = first + tensor.numel() * tensor.element_size()
        entries[str(number)] = {"dtype": "F32", "shape": [tensor.numel()], "data_offsets": [first, last]}
        first = last
    text = json.dumps(entries, separators=(",", ":")).encode("ascii")
    text += b" " * (-(len(text) + _HEADER_LENGTH_BYTES) % _ALIGNMENT_BYTES)
    return len(text).to_bytes(_HEADER_LENGTH_BYTES, "little") + text


def _remove(file: Path) -> int:
    size = file.stat().st_size
    file.unlink(missing_ok=True)
    return size
