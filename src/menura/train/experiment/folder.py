"""An experiment's folder: what it holds, one run at a time in it, finding and removing experiments. Loads no torch."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from menura.errors import TrainingError
from menura.system.files import remove_abandoned, writing
from menura.train.experiment.settings import EXPERIMENT_FILE, load_experiment

BEGIN = "begin"
"""The weights that training begins with."""
SLICES = "slices"
FEATURES = "features"
LOGS = "logs"
VOICE = "voice"
"""The exported voice: weights, index, card."""
LOG = "losses.jsonl"
LOCK = ".lock"
CHECKPOINT = "checkpoint.pt"
BEST = "best.pt"

_UNFINISHED = ".*.part"
_TAIL_BYTES = 1 << 16
_OWN_FILES = (EXPERIMENT_FILE, "prepared.json", "report.txt", "report.png", LOG, BEST, "checkpoint*.pt")


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other runs out; file systems without locks, and folders that can't be written, keep nobody out."""
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise TrainingError(folder, "another run is using this experiment", "Wait for it, or stop it") from error
    except (OSError, NotImplementedError):
        pass  # what is written next says what is wrong with the folder
    try:
        yield
    finally:
        lock.release()


def remove_unfinished(folder: Path) -> None:
    """Delete what killed runs left half-written, while no other is at work; voices may be exported beside a run."""
    below = [folder / name for name in (BEGIN, SLICES, FEATURES, LOGS) if not (folder / name).is_symlink()]
    remove_abandoned(itertools.chain(folder.glob(_UNFINISHED), *(place.rglob(_UNFINISHED) for place in below)))


def checkpoint_paths(folder: Path) -> list[Path]:
    """The checkpoints that are there, newest first."""
    older = [path for path in folder.glob("checkpoint.*.pt") if path.suffixes[0][1:].isdecimal()]
    numbered = sorted(older, key=lambda path: int(path.suffixes[0][1:]))
    return [path for path in (folder / CHECKPOINT, *numbered) if path.is_file()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    folder: Path
    step: int = 0
    """The last one that was logged, of `steps` as planned."""
    steps: int = 0
    exported: bool = False
    size_bytes: int = 0
    problem: str | None = None
    """Why it can't be read."""


def find_experiments(folder: Path) -> list[Summary]:
    """The folder itself if it is an experiment's, and experiments directly below it, by name."""
    below = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return [_summary(path) for path in (folder, *below) if (path / EXPERIMENT_FILE).is_file()]


def _summary(folder: Path) -> Summary:
    size_bytes, step = size_of(folder), 0
    try:
        steps = load_experiment(folder).schedule.steps
    except TrainingError as error:
        return Summary(folder=folder, size_bytes=size_bytes, problem=error.problem)
    with suppress(OSError, ValueError, LookupError, TypeError), (folder / LOG).open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        step = int(json.loads(file.read().splitlines()[-1])["step"])
    exported = any((folder / VOICE).glob("*.safetensors"))
    return Summary(folder=folder, step=step, steps=steps, exported=exported, size_bytes=size_bytes)


def remove_experiment(folder: Path, *, checkpoints_only: bool = False) -> tuple[int, list[Path]]:
    """Delete an experiment, or only its checkpoints: the exported voice then still converts, but can't be trained on.

    Returns:
        Bytes freed, and what stays in its folder as it isn't Menura's, such as recordings that lie there.
    """
    if not (folder / EXPERIMENT_FILE).exists():
        raise TrainingError(folder, "no experiment here")
    names = (BEST, "checkpoint*.pt") if checkpoints_only else (*_OWN_FILES, BEGIN, SLICES, FEATURES, LOGS, VOICE)
    with alone_in(folder):
        own = [path for name in names for path in folder.glob(name)]
        freed_bytes = sum(map(size_of, own))
        for path in own:
            with writing(path):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    if checkpoints_only:
        return freed_bytes, []
    with suppress(OSError):
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()
    return freed_bytes, sorted(folder.iterdir()) if folder.is_dir() else []


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; links are not followed."""
    if path.is_symlink():
        return 0
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())
