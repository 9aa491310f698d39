"""An experiment's folder: what it holds, one run at a time in it, finding and removing experiments. Loads no torch."""

from __future__ import annotations

import itertools
import json
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
_OWN_FILES = (
    EXPERIMENT_FILE, "prepared.json", "report.txt", "report.png", LOG, LOCK, BEST, "checkpoint*.pt",
)  # fmt: skip


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other runs out: two would overwrite each other's checkpoints. Ends with this process, however that ends.

    File systems without locks, and folders that can't be written, keep nobody out.
    """
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
    """Delete what killed runs of an experiment left half-written. Only call it while no other run is at work there.

    Voices stay out of it: they can be exported beside a run.
    """
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
    """The last one that was logged."""
    steps: int = 0
    """As planned; 0 where the experiment can't be read."""
    exported: bool = False
    size_bytes: int = 0
    problem: str | None = None
    """Why it can't be read."""


def find_experiments(folder: Path) -> list[Summary]:
    """The folder itself if it is an experiment's, and experiments directly below it, by name."""
    below = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return [_summary(path) for path in (folder, *below) if (path / EXPERIMENT_FILE).is_file()]


def _summary(folder: Path) -> Summary:
    try:
        steps = load_experiment(folder).schedule.steps
    except TrainingError as error:
        return Summary(folder=folder, size_bytes=size_of(folder), problem=error.problem)
    return Summary(
        folder=folder,
        step=_logged_step(folder / LOG),
        steps=steps,
        exported=any((folder / VOICE).glob("*.safetensors")),
        size_bytes=size_of(folder),
    )


def _logged_step(path: Path) -> int:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            lines = file.read(_TAIL_BYTES).splitlines()
        return int(json.loads(lines[-1])["step"])
    except (OSError, ValueError, LookupError, TypeError):
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    size_bytes: int
    kept: tuple[Path, ...]
    """What isn't Menura's, and so still there."""


def remove_experiment(folder: Path, *, checkpoints_only: bool = False) -> Removed:
    """Delete an experiment, or only its checkpoints: the exported voice then still converts, but can't be trained on.

    Other files in its folder stay, such as recordings that lie there.
    """
    if not (folder / EXPERIMENT_FILE).exists():
        raise TrainingError(folder, "no experiment here")
    names = (BEST, "checkpoint*.pt") if checkpoints_only else (*_OWN_FILES, BEGIN, SLICES, FEATURES, LOGS, VOICE)
    with alone_in(folder):
        own = [path for name in names for path in folder.glob(name)]
        freed = sum(size_of(path) for path in own)
        for path in own:
            with writing(path):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
    if checkpoints_only:
        return Removed(size_bytes=freed, kept=())
    with suppress(OSError):
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()
    return Removed(size_bytes=freed, kept=tuple(sorted(folder.iterdir())) if folder.is_dir() else ())


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; links are not followed."""
    if path.is_symlink():
        return 0
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())
