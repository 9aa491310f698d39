"""Makes src/menura/assets/f0/swift.safetensors from the model.onnx of the package swift-f0 0.3.0.

usage: python -m recipes.swift.convert MODEL.onnx OUT.safetensors

An ONNX file is a protocol buffer; the little of that format which is needed is read here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors.torch import save_file

_GRAPH, _TENSOR, _NODE = 7, 5, 1
_DTYPES = {1: np.float32, 6: np.int32, 7: np.int64, 11: np.float64}
_BLOCKS = 6
_CONVOLUTIONS = (
    "first",
    *(f"blocks.{block}.{half}" for block in range(_BLOCKS) for half in ("one", "other")),
    *("narrow", "summary", "pitch", "voicing_first", "voicing_last"),
)
"""In the order of the graph's nodes."""
_SPECTROGRAMS = {1024: ("v41", "v123", "v124"), 2048: ("v161", "v241", "v242"), 512: ("v262", "v342", "v343")}
"""The tensors of each: window, places in the flattened filter bank, values there."""


def converted(model: bytes) -> dict[str, torch.Tensor]:
    """The weights of an ONNX file under the names of `menura.models.swift.SwiftF0`."""
    graph = next(value for field, value in _fields(model) if field == _GRAPH)
    tensors, convolutions = {}, []
    for field, value in _fields(cast("bytes", graph)):
        if field == _TENSOR:
            name, array = _tensor(cast("bytes", value))
            tensors[name] = torch.from_numpy(array)
        elif field == _NODE and (node := list(_fields(cast("bytes", value)))) and (4, b"Conv") in node:
            convolutions.append([cast("bytes", text).decode() for part, text in node if part == 1])
    result = {}
    for name, (_, weight, bias) in zip(_CONVOLUTIONS, convolutions, strict=True):
        result |= {f"{name}.weight": tensors[weight], f"{name}.bias": tensors[bias]}
    for size, names in _SPECTROGRAMS.items():
        parts = zip(("window", "places", "values"), names, strict=True)
        result |= {f"{part}_{size}": tensors[name] for part, name in parts}
    return result


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a message; what has a length comes as bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if key & 7 == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        length, at = (8 if key & 7 == 1 else 4, at) if key & 7 in (1, 5) else _varint(data, at)
        yield key >> 3, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 128:
            return value, at


def _tensor(message: bytes) -> tuple[str, np.ndarray]:
    fields = list(_fields(message))
    shape = [cast("int", value) for field, value in fields if field == 1]
    others = {field: value for field, value in fields if field in (2, 8, 9)}
    array = np.frombuffer(cast("bytes", others[9]), _DTYPES[cast("int", others[2])])
    return cast("bytes", others[8]).decode(), array.reshape(shape).copy() if shape else array.copy()


if __name__ == "__main__":
    save_file(converted(Path(sys.argv[1]).read_bytes()), sys.argv[2])
