"""Pages of memory that are mapped from files, given back while nobody needs them."""

from __future__ import annotations

import ctypes
import mmap
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_PAGE_BYTES = mmap.PAGESIZE
_DONT_NEED = 4
"""MADV_DONTNEED of Linux, the only system on which any pages are found."""

_FILE_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+p \S+ \S+ [1-9][0-9]* ", re.MULTILINE)
"""Of /proc/self/maps: a range of the process's own whose inode isn't 0, so that a file is behind it."""


class MappedPages:
    """The pages that weights mapped from files lie on; tensors elsewhere have none.

    For weights that nothing ever changes: what was written to such a page would be lost. They stay alive with this
    object, so that the pages can't become somebody else's. Pages that were given back stay in the system's cache of
    files, as long as nothing else needs the memory, and come back when they are touched: the weights of one network
    needn't count while another one works.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        weights = [tensor for tensor in tensors if tensor.device.type == "cpu" and tensor.numel()]
        self._kept = [tensor.untyped_storage() for tensor in weights]
        spans = [(t.data_ptr(), t.data_ptr() + t.numel() * t.element_size()) for t in weights]
        self._spans = _whole_pages(spans, _file_mappings()) if spans else []

    def release(self) -> None:
        """Give them back. Takes milliseconds, and reading them again tens of them for hundreds of megabytes."""
        for first, last in self._spans:
            ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _DONT_NEED)


def _file_mappings() -> list[tuple[int, int]]:
    """Ranges of addresses that files are mapped to; none where the system doesn't say."""
    try:
        text = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [(int(match[1], 16), int(match[2], 16)) for match in _FILE_MAPPING.finditer(text)]


def _whole_pages(spans: list[tuple[int, int]], mappings: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges of the whole pages within those of the spans that lie in a mapping."""
    mapped = [(a, b) for a, b in spans if any(low <= a and b <= high for low, high in mappings)]
    pages = [(-(-a // _PAGE_BYTES) * _PAGE_BYTES, b // _PAGE_BYTES * _PAGE_BYTES) for a, b in mapped]
    return [(first, last) for first, last in pages if first < last]
