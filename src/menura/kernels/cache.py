"""Packed weights on disk, mapped into memory: the second start of a voice packs nothing, and processes share its pages.

A file is a header of fixed size and the weights as float32, used only if size and checksum are those of the header.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from menura.errors import ResourceError
from menura.kernels.library import PATHS, VERSION, KernelLibrary
from menura.system.files import remove_abandoned, replacing

BUDGET_BYTES = 4 * 10**9
"""The least recently used files beyond this are removed."""

SMALLEST_BYTES = 64 * 10**6
"""Smaller voices are packed anew at each start."""

_SUFFIX = ".packed"
_HEADER_BYTES = 64
_BLOCK_BYTES = 1 << 20


class PackingError(ValueError):
    """A file doesn't hold the weights of the layers that read it."""


class Packing:
    """Gives layers their packed weights, in the order in which they ask."""

    def __init__(self, library: KernelLibrary, stored: Tensor | None = None) -> None:
        """Take the weights from `stored`, flat float32; None packs them."""
        self.library, self._stored = library, stored
        self.tensors: list[Tensor] = []
        """All weights taken so far."""

    def take(self, size: int, pack: Callable[[], Tensor]) -> Tensor:
        """The next layer's packed weights, `size` floats, made by `pack`. Raises PackingError if fewer are stored."""
        if self._stored is None:
            weights = pack()
        else:
            weights, self._stored = self._stored[:size], self._stored[size:]
        if weights.numel() != size:
            raise PackingError(f"{weights.numel()} packed weights for a layer of {size}")
        self.tensors.append(weights)
        return weights

    def finish(self) -> None:
        """Raise PackingError if more is stored than all layers took."""
        if self._stored is not None and self._stored.numel():
            raise PackingError("more packed weights than the layers have")


class PackingCache:
    """The files of one folder, which is made when it is needed."""

    def __init__(self, folder: Path, budget_bytes: int = BUDGET_BYTES) -> None:
        self._folder, self._budget_bytes = folder, budget_bytes

    def load(self, key: str, library: KernelLibrary) -> Packing | None:
        """What is stored under a key, mapped into memory; None if that is nothing, or damaged."""
        for pattern in ("*.tmp", ".*.part"):  # partial files of the last version and of this one
            remove_abandoned(self._folder.glob(pattern))
        file = self._folder / (key + _SUFFIX)
        try:
            return Packing(library, _mapped(file)) if file.is_file() else None
        except (OSError, ValueError):
            return None

    def store(self, key: str, tensors: Iterable[Tensor]) -> bool:
        """Write packed weights if they are large enough; False if they weren't written, which is no error."""
        flat = list(tensors)
        if sum(tensor.nbytes for tensor in flat) < SMALLEST_BYTES:
            return False
        try:
            with replacing(self._folder / (key + _SUFFIX)) as partial, partial.open("wb") as stream:
                _write(stream, flat)
            files, total = self._folder.glob("*" + _SUFFIX), 0
            for number, file in enumerate(sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)):
                total += file.stat().st_size
                if total > self._budget_bytes and number:
                    file.unlink(missing_ok=True)
        except (OSError, ResourceError):
            return False
        return True


def packing_key(library: KernelLibrary, description: str, weights: Mapping[str, Tensor]) -> str:
    """A hash of a network's weights, of what they don't show, such as strides, and of what they are packed for."""
    digest = hashlib.sha256(f"{VERSION} {PATHS[library.path]} {library.panel_channels} {description}".encode())
    for name, tensor in weights.items():
        digest.update(repr((name, tuple(tensor.shape))).encode())
        digest.update(_bytes(tensor.detach().contiguous()))
    return digest.hexdigest()[:32]


def _mapped(file: Path) -> Tensor:
    """A file's weights. Raises OSError, or ValueError if it is damaged."""
    with file.open("rb") as stream:
        header, checksum = stream.read(_HEADER_BYTES), 0
        while block := stream.read(_BLOCK_BYTES):
            checksum = zlib.crc32(block, checksum)
        size = stream.tell() - _HEADER_BYTES
        if size <= 0 or header != _header(size, checksum):
            raise ValueError("damaged")
        # Copy on write: torch wants memory that could be written, and nothing writes it.
        data = np.memmap(stream, dtype=np.float32, mode="c", offset=_HEADER_BYTES, shape=(size // 4,))
    with suppress(OSError):  # somebody else's file, or one that can't be written, serves as well
        os.utime(file)
    return torch.from_numpy(data)


def _write(stream: BinaryIO, tensors: list[Tensor]) -> None:
    checksum = 0
    for tensor in tensors:
        checksum = zlib.crc32(_bytes(tensor), checksum)
    stream.write(_header(sum(tensor.nbytes for tensor in tensors), checksum))
    stream.writelines(map(_bytes, tensors))


def _bytes(tensor: Tensor) -> memoryview:
    array: Any = tensor.numpy()
    return memoryview(array).cast("B")


def _header(size: int, checksum: int) -> bytes:
    """Padded to a cache line, where the weights begin."""
    return f"menura packed weights, {size} bytes, crc32 {checksum:08x}\n".encode().ljust(_HEADER_BYTES)
