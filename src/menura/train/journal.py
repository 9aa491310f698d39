"""What a run leaves to be looked at: losses as lines of JSON, TensorBoard's curves, previews of held-out slices."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from menura.system.files import append_whole
from menura.train.folders import LOGS
from menura.train.held_out import Preview
from menura.train.pictures import mel_picture, png
from menura.train.spec import write_atomically
from menura.train.tensorboard import EventWriter

if TYPE_CHECKING:
    from menura.train.loop import StepReport

LOG = "losses.jsonl"
PREVIEWS = "previews"


class Journal:
    """Of one run; it goes on where an earlier one was stopped.

    Raises:
        ResourceError: from every function, where the disk is full or can't be written.
    """

    def __init__(self, folder: Path, *, begin_step: int) -> None:
        """Open the logs of an experiment, and forget what an earlier run logged after its last checkpoint.

        Args:
            folder: the experiment's.
            begin_step: steps that are done.
        """
        self._folder = folder
        _truncate(folder / LOG, begin_step)
        self._events = EventWriter(folder / LOGS, begin_step=begin_step)

    def log(self, result: StepReport) -> None:
        """A step."""
        append_whole(self._folder / LOG, (json.dumps(dataclasses.asdict(result)) + "\n").encode())
        values = {
            f"{'gradient_norm' if 'gradient' in name else 'loss'}/{name}": value
            for name, value in result.losses.items()
        }
        values |= {"learning_rate": result.learning_rate, "seconds_per_step": result.seconds}
        if result.held_out is not None:
            values["held_out/mel"] = result.held_out
        self._events.scalars(values, result.step)

    def previews(self, shown: Sequence[Preview], step: int, rate: int) -> None:
        """Held-out slices: the real one above, the voice's below, as sound and picture."""
        for number, item in enumerate(shown):
            pixels = mel_picture([item.real, item.made], rate)
            tag = f"{number}_{item.speaker}{'_learnt' if item.learnt else ''}"
            self._events.picture(f"mel/{tag}", pixels, step)
            self._events.sound(f"made/{tag}", item.made, rate, step)
            self._events.sound(f"real/{tag}", item.real, rate, step)
            write_atomically(self._folder / LOGS / PREVIEWS / f"{step:08d}.{number}.png", png(pixels))


def _truncate(path: Path, step: int) -> None:
    """Keep the lines up to a step: a run that was killed logged more than it saved, perhaps half a line."""
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = "".join(f"{line}\n" for line in lines if _step_of(line) <= step)
    write_atomically(path, kept.encode())


def _step_of(line: str) -> float:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
