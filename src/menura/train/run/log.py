"""What a run leaves to be looked at: losses as lines of JSON, TensorBoard's curves, previews."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import socket
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from menura.errors import AssetMissingError
from menura.plots import Sound, draw_sounds
from menura.system.files import append_whole, writing
from menura.train.events import Stepped, Validated
from menura.train.experiment.folder import LOG, LOGS
from menura.train.experiment.settings import write_atomically
from menura.train.run.validation import Preview
from menura.types import FloatArray


def curves_available() -> bool:
    return find_spec("tensorboard") is not None


class TrainingLog:
    """Of one run; it goes on where an earlier one was stopped, whose steps after its last checkpoint it forgets."""

    def __init__(self, folder: Path, *, begin_step: int) -> None:
        self._folder = folder
        if (path := folder / LOG).is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            write_atomically(path, "".join(f"{line}\n" for line in lines if _is_kept(line, begin_step)).encode())
        self.curves = Curves(folder / LOGS, begin_step=begin_step) if curves_available() else None

    def log(self, stepped: Stepped, validated: Validated | None) -> None:
        row = dataclasses.asdict(stepped)
        if validated is not None:
            row |= {"validation_mel": validated.mel, "best_step": validated.best_step}
        append_whole(self._folder / LOG, (json.dumps(row) + "\n").encode())
        if self.curves is not None:
            kinds = {name: "gradient_norm" if "gradient" in name else "loss" for name in stepped.losses}
            values = {f"{kinds[name]}/{name}": value for name, value in stepped.losses.items()}
            values |= {"learning_rate": stepped.learning_rate, "seconds_per_step": stepped.seconds}
            self.curves.scalars(values | ({"validation/mel": validated.mel} if validated else {}), stepped.step)

    def previews(self, shown: Sequence[Preview], step: int, rate: int) -> None:
        """Sounds, beside the curves too; and the recording above, the voice below, where matplotlib is installed."""
        folder = self._folder / LOGS / "previews"
        for number, item in enumerate(shown):
            for stem, samples in ((f"{step:08d}", item.made), ("recording", item.real)):
                buffer = io.BytesIO()
                soundfile.write(buffer, np.clip(samples, -1, 1), rate, format="FLAC")
                write_atomically(folder / f"{stem}.{number}.flac", buffer.getvalue())
            real = Sound(title=f"{item.speaker}: the recording", samples=item.real, rate=rate)
            made = Sound(title=f"the voice at step {step}", samples=item.made, rate=rate)
            with contextlib.suppress(AssetMissingError):
                write_atomically(folder / f"{step:08d}.{number}.png", draw_sounds([real, made]))
            if self.curves is not None:
                name = f"{number}_{item.speaker}{'_learnt' if item.learnt else ''}"
                self.curves.sound(f"made/{name}", item.made, rate, step)
                self.curves.sound(f"real/{name}", item.real, rate, step)


def _is_kept(line: str, step: int) -> bool:
    """Whether a line of the log is of a step that was saved; one that a kill cut short isn't."""
    try:
        return int(json.loads(line)["step"]) <= step
    except (ValueError, KeyError, TypeError):
        return False


class Curves:
    """Appends to one event file. `SummaryWriter` would tell a full disk by a traceback, and leave half an event."""

    def __init__(self, folder: Path, *, begin_step: int = 0) -> None:
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
