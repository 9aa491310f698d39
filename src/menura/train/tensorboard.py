"""Event files that TensorBoard reads, written directly: its package is needed for looking at them only.

A file is a row of records (length, its checksum, bytes, their checksum), each a protocol buffer `Event` of TensorFlow's
event.proto and summary.proto.
"""

from __future__ import annotations

import io
import os
import socket
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from menura.system.files import append_whole, writing
from menura.train.pictures import png

if TYPE_CHECKING:
    import numpy.typing as npt

    from menura.types import FloatArray

_POLYNOMIAL = 0x82F63B78
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def _table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _table()


def crc32c(data: bytes) -> int:
    """Castagnoli's checksum."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _TABLE[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


def _masked(data: bytes) -> bytes:
    value = crc32c(data)
    return struct.pack("<I", (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, value: bytes | str | float | int) -> bytes:
    """A field of a message: text and bytes with their length, int as varint, float in 32 bits."""
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return _number(number << 3 | _BYTES) + _number(len(value)) + value
    if isinstance(value, int):
        return _number(number << 3 | _VARINT) + _number(value)
    return _number(number << 3 | _FIXED32) + struct.pack("<f", value)


class EventWriter:
    """Appends to one event file."""

    def __init__(self, folder: Path, *, begin_step: int = 0) -> None:
        """Begin a file.

        Args:
            folder: made if needed.
            begin_step: steps that are done; what earlier files say of later ones is void.

        Raises:
            ResourceError: here and from every function, where the disk is full or can't be written.
        """
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._path = folder / name
        with writing(self._path):
            folder.mkdir(parents=True, exist_ok=True)
        self._append(_field(3, "brain.Event:2"))
        # A session's start: readers forget what they have of its step and of later ones.
        self._append(_field(2, begin_step + 1) + _field(7, _field(1, 1)))

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Curves: one point of each."""
        self._summary([_field(1, tag) + _field(2, float(value)) for tag, value in values.items()], step)

    def picture(self, tag: str, pixels: npt.NDArray[np.uint8], step: int) -> None:
        """A picture (rows, columns, 3)."""
        rows, columns, _ = pixels.shape
        image = _field(1, rows) + _field(2, columns) + _field(3, 3) + _field(4, png(pixels))
        self._summary([_field(1, tag) + _field(4, image)], step)

    def sound(self, tag: str, samples: FloatArray, rate: int, step: int) -> None:
        """A sound (samples,)."""
        buffer = io.BytesIO()
        soundfile.write(buffer, np.clip(samples, -1, 1), rate, format="WAV", subtype="PCM_16")
        audio = _field(1, float(rate)) + _field(2, 1) + _field(3, len(samples))
        audio += _field(4, buffer.getvalue()) + _field(5, "audio/wav")
        self._summary([_field(1, tag) + _field(6, audio)], step)

    def _summary(self, values: list[bytes], step: int) -> None:
        self._append(_field(2, step) + _field(5, b"".join(_field(1, value) for value in values)))

    def _append(self, event: bytes) -> None:
        event = _number(1 << 3 | _FIXED64) + struct.pack("<d", time.time()) + event
        length = struct.pack("<Q", len(event))
        append_whole(self._path, length + _masked(length) + event + _masked(event))
