"""Curves and sounds for TensorBoard. Needs the extra `curves` (tensorboard)."""

from __future__ import annotations

import io
import os
import socket
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from menura.system.files import append_whole, writing

if TYPE_CHECKING:
    from menura.types import FloatArray


class Curves:
    """Appends to one event file.

    Not by `SummaryWriter`: its thread would tell a full disk by a traceback, and leave half an event.
    """

    def __init__(self, folder: Path, *, begin_step: int = 0) -> None:
        """Begin a file.

        Raises:
            ImportError: the package tensorboard is not installed.
            ResourceError: here and from every function, where the disk is full or can't be written.
        """
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter
        from torch.utils.tensorboard import summary

        self._event, self._records = Event, RecordWriter
        self._summaries: Any = summary  # untyped
        self._path = folder / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        with writing(self._path):
            folder.mkdir(parents=True, exist_ok=True)
        self._append(file_version="brain.Event:2")
        # A session's start: readers forget what they have of its step and of later ones.
        self._append(step=begin_step + 1, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, values: dict[str, float], step: int) -> None:
        for tag, value in values.items():
            self._append(step=step, summary=self._summaries.scalar(tag, value))

    def sound(self, tag: str, samples: FloatArray, rate: int, step: int) -> None:
        self._append(step=step, summary=self._summaries.audio(tag, samples, rate))

    def _append(self, **fields: Any) -> None:
        buffer = io.BytesIO()
        self._records(buffer).write(self._event(wall_time=time.time(), **fields).SerializeToString())
        append_whole(self._path, buffer.getvalue())


def curves_available() -> bool:
    return find_spec("tensorboard") is not None


def open_curves(folder: Path, *, begin_step: int) -> Curves | None:
    return Curves(folder, begin_step=begin_step) if curves_available() else None
