"""Trains an experiment in a process of its own: `python -m menura.server.train_process FOLDER RUN ENGINE`.

RUN and ENGINE are options as JSON. It tells how far it is as lines of JSON, and stops after the current step when its
input is closed, as by its parent's end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from filelock import FileLock

from menura.errors import MenuraError, details_of
from menura.options import EngineOptions, RunOptions
from menura.train import events
from menura.train.experiment.folder import LOCK

STOP = "stop"
"""A file in the folder that ends a run after its current step, whichever process began it."""
_NICE = 15
"""Conversions go first."""
_TELL_S = 0.5
_WAIT_S = 60.0


class _Teller:
    def __init__(self, stop: Path) -> None:
        self._stop = stop
        self.cancel, self._told_s = threading.Event(), 0.0
        self._started: events.Started | None = None
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)  # what a library prints is no line of ours

    def say(self, **fields: Any) -> None:
        print(json.dumps(fields), file=self._out, flush=True)

    def stop(self, *_: object) -> None:
        """A step is finished and kept; what else is under way is done again next time."""
        self.cancel.set()
        if self._started is None:
            sys.exit()

    def __call__(self, event: events.TrainingEvent) -> None:
        if isinstance(event, events.Preparing):
            self._progress(event.stage, event.done, event.total)
        elif isinstance(event, events.Started):
            self._started, self._begun_s = event, time.monotonic()
            self.say(stage="training", done=event.step, total=event.last_step)
        elif isinstance(event, events.Stepped) and self._started is not None:
            pace_s = (time.monotonic() - self._begun_s) / (event.step - self._started.step)
            self._progress("training", event.step, self._started.last_step, step_s=round(pace_s, 4))
        elif isinstance(event, events.Trained):
            self._started = None
            self.say(stage="voice")

    def _progress(self, stage: str, done: int, total: int, **further: float) -> None:
        if done == total or time.monotonic() - self._told_s > _TELL_S:
            self._told_s = time.monotonic()
            self.say(stage=stage, done=done, total=total, **further)
            if self._stop.exists():
                self.stop()


def _end_with_input() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main(folder: str, options: str, engine: str) -> None:
    """Train, and say how it ended."""
    stop = Path(folder) / STOP
    tell = _Teller(stop)
    signal.signal(signal.SIGTERM, tell.stop)
    threading.Thread(target=_end_with_input, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(_NICE)
    with contextlib.suppress(OSError, NotImplementedError), FileLock(Path(folder) / LOCK, timeout=_WAIT_S):
        stop.unlink(missing_ok=True)  # the run of a service that was killed has finished its step
    run, machine = RunOptions(**json.loads(options)), EngineOptions(**json.loads(engine))
    try:
        from menura.train.session import TrainingSession

        finished = TrainingSession(Path(folder), run, machine, on_event=tell, cancel=tell.cancel).run()
        tell.say(ended=finished.reason, step=finished.step)
    except SystemExit:
        tell.say(ended="cancelled", step=0)
    except (MenuraError, OSError, MemoryError) as error:
        tell.say(error=dataclasses.asdict(details_of(error)))


if __name__ == "__main__":
    main(*sys.argv[1:])
