"""Trainings: experiments in the data folder, and a process that trains one of them at a time.

A training's folder is its experiment's; `recordings` and `training.json` lie in it beside the experiment's own files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import re
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from menura.audio.places import AUDIO_SUFFIXES
from menura.errors import ErrorDetails, MenuraError, TrainingError
from menura.options import CloneOptions, EngineOptions, TrainingOptions
from menura.server.problems import error_document
from menura.server.store import Audio, ConflictError, NotFoundError, Store
from menura.server.train_process import STOP
from menura.system.files import write_whole, writing
from menura.train.events import ENDS
from menura.train.experiment.folder import alone_in, checkpoint_paths
from menura.voices.assets import home_folder
from menura.voices.library import ImportRequest, VoiceEntry, free_name, import_voices

_log = logging.getLogger("menura")

_RECORD, _RECORDINGS, _ERRORS = "training.json", "recordings", "errors.log"
_ID = re.compile(r"[0-9a-f]{16}")
_STOPPING_S = 4.0
_DIED = ErrorDetails(kind="resource", problem="the training process was ended", advice="Start it again")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What the service keeps of a training beside the experiment."""

    id: str
    name: str
    created: float
    recordings: Sequence[Mapping[str, str]]
    """`id`, `name`, and the `file` that it is here."""
    options: Mapping[str, Any]
    audio_s: float = 0.0
    notes: Sequence[Mapping[str, Any]] = ()
    outcome: str = "new"
    """Of the last run: started (it is under way, or was killed), stopped, failed or done."""
    step: int = 0
    error: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is."""

    stage: str | None = None
    """loading, slices, features, training, voice; None where none is under way."""
    done: int = 0
    total: int = 0
    step_s: float | None = None


@dataclass(slots=True)
class _Run:
    record: Record
    process: subprocess.Popen[bytes]
    progress: Progress = field(default_factory=lambda: Progress(stage="loading"))
    stopping: bool = False

    def stop(self) -> None:
        self.stopping = True
        assert self.process.stdin is not None
        self.process.stdin.close()


class Trainings:
    """Use it as a context manager; `on_change` is called from any thread after the store was told."""

    def __init__(self, path: Path, engine: EngineOptions, store: Store, on_change: Callable[[str], None]) -> None:
        self._path, self._engine, self._store, self._on_change = path, engine, store, on_change
        self._home = home_folder(engine.home)
        self._waiting: dict[str, Mapping[str, Any]] = {}
        self._run: _Run | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="menura-trainings", daemon=True)

    def __enter__(self) -> Trainings:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closing, run = True, self._run
            self._changed.notify()
            if run is not None:
                run.stop()
        self._thread.join(_STOPPING_S)
        if run is not None:
            run.process.kill()
        self._thread.join()

    def folder(self, id: str) -> Path:
        """A training's folder. Raises NotFoundError; only an id that was made here names one."""
        if not _ID.fullmatch(id) or not (self._path / id / _RECORD).is_file():
            raise NotFoundError(None, f"no training {id[:80]!r}")
        return self._path / id

    def record(self, id: str) -> Record:
        """Raises NotFoundError."""
        return Record(**json.loads((self.folder(id) / _RECORD).read_bytes()))

    def records(self) -> list[Record]:
        """All, the newest first."""
        found = []
        for path in self._path.iterdir():
            with contextlib.suppress(NotFoundError, OSError):  # being made, or removed
                found.append(self.record(path.name))
        return sorted(found, key=lambda record: -record.created)

    def state(self, record: Record) -> tuple[str, Progress, str | None]:
        """The state, how far its run is, and the name of the training that it waits for."""
        with self._changed:
            run = self._run
            if run is not None and run.record.id == record.id:
                return "stopping" if run.stopping else "running", run.progress, None
            if record.id in self._waiting:
                return "queued", Progress(), run.record.name if run else None
            if record.outcome != "started" or not self._elsewhere(record.id):
                return "stopped" if record.outcome == "started" else record.outcome, Progress(), None
        stopping = (self._path / record.id / STOP).exists()
        return "stopping" if stopping else "running", self._told(record.id), None

    def create(
        self,
        name: str,
        recordings: Mapping[Path, Audio],
        rights: str,
        options: Mapping[str, Any],
        *,
        clone: bool = False,
    ) -> Record:
        """Make an experiment of recordings, and check everything that could stop it later; nothing runs yet.

        Raises:
            MenuraError: as `create_experiment`, or `create_clone`.
        """
        from menura.train.clone import create_clone
        from menura.train.create import create_experiment

        make = partial(create_clone, options=CloneOptions(**options)) if clone else None
        make = make or partial(create_experiment, options=TrainingOptions(**options))
        id = secrets.token_hex(8)
        folder = self._path / id
        dataset = folder / _RECORDINGS
        try:
            files = list(_linked(recordings, dataset))
            record = Record(id=id, name=name, created=time.time(), recordings=files, options=options)
            with self._naming(record):
                made = make(folder, dataset=dataset, rights=rights, home=self._home)
            notes = [error_document(self._named(note, record)) for note in made.notes]
            record = dataclasses.replace(record, audio_s=made.facts.total_s, notes=notes)
            self._save(record)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._tell(record)
        return record

    def start(self, id: str, options: Mapping[str, Any]) -> None:
        """Train, or go on, once no other training runs. Raises ConflictError if this one does."""
        record = self.record(id)
        with self._changed:
            self._check_idle(id)
            self._waiting[id] = options
            self._changed.notify()
        self._tell(record)

    def stop(self, id: str) -> None:
        """End a run after its current step; nothing happens where none is."""
        record = self.record(id)
        with self._changed:
            self._waiting.pop(id, None)
            if self._run is not None and self._run.record.id == id:
                self._run.stop()
            elif self._elsewhere(id):
                (self._path / id / STOP).touch()
        self._tell(record)

    def remove(self, id: str) -> None:
        """Delete a training with all its files. Raises ConflictError while it runs."""
        folder = self.folder(id)
        with self._changed:
            self._check_idle(id)
            (folder / _RECORD).unlink()
        shutil.rmtree(folder, ignore_errors=True)
        self._store.tell(id, "training", {"state": "removed"})
        self._on_change(id)

    def export(self, id: str, name: str) -> VoiceEntry:
        """Install what is trained so far as a voice, with its index.

        Raises:
            ConflictError: nothing is trained yet.
            MenuraError: the name is taken or impossible, or something can't be written.
        """
        from menura.train.voice import adopt_index, export_experiment, make_index

        folder = self.folder(id)
        free_name(name, self._home)
        if not checkpoint_paths(folder):
            raise ConflictError(None, "nothing is trained yet", "Start it first")
        with self._naming(self.record(id)):
            voice, index = export_experiment(folder)[0], adopt_index(folder) or make_index(folder)[0]
            result = next(import_voices(ImportRequest(source=voice, home=self._home, name=name, index=index)))
            if result.voice is None:
                assert result.error is not None
                raise result.error
            return result.voice

    def _check_idle(self, id: str) -> None:
        here = self._run is not None and self._run.record.id == id
        if here or id in self._waiting or self._elsewhere(id):
            raise ConflictError(None, "the training runs, or waits to", "Stop it first")

    def _elsewhere(self, id: str) -> bool:
        """Whether another process of the service trains it, or the run of one that was killed finishes its step."""
        try:
            with alone_in(self._path / id):
                return False
        except TrainingError:
            return True

    def _told(self, id: str) -> Progress:
        """What its own process told last."""
        events = self._store.events(0, job_id=id)
        told = events[-1].data if events else {}
        return Progress(**{part.name: told[part.name] for part in dataclasses.fields(Progress) if part.name in told})

    def _work(self) -> None:
        while self._next():
            pass

    def _next(self) -> bool:
        """Train what has waited longest; false at the end."""
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if self._closing:
                    return False
                self._run = self._begun()
            self._follow(self._run)
        except Exception:  # noqa: BLE001  (logged; the next one is still trained)
            _log.exception("a training was lost")
        return True

    def _begun(self) -> _Run:
        id = next(iter(self._waiting))
        options, folder = self._waiting.pop(id), self.folder(id)
        record = dataclasses.replace(self.record(id), outcome="started", error=None)
        self._save(record)
        engine = json.dumps(dataclasses.asdict(self._engine), default=str)
        command = [sys.executable, "-m", "menura.server.train_process", str(folder), json.dumps(options), engine]
        pipe = subprocess.PIPE
        with (folder / _ERRORS).open("ab") as errors:
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, start_new_session=True)
        return _Run(record, process)

    def _follow(self, run: _Run) -> None:
        """Pass on what a run tells, and keep how it ended."""
        outcome, step, error = "", run.record.step, _DIED
        try:
            with run.process as process:
                assert process.stdout is not None
                self._tell(run.record)
                for line in process.stdout:
                    told = json.loads(line)
                    if "stage" in told:
                        run.progress = Progress(**told)
                        self._tell(run.record)
                    elif "error" in told:
                        error = ErrorDetails(**told["error"])
                    else:
                        outcome = "done" if told["ended"] in ENDS else "stopped"
                        step = max(told["step"], step)
        finally:
            run.process.kill()
            outcome = outcome or ("stopped" if run.stopping and error is _DIED else "failed")
            document = error_document(self._named(error, run.record)) if outcome == "failed" else None
            record = dataclasses.replace(run.record, outcome=outcome, step=step, error=document)
            self._save(record)
            with self._changed:
                self._run = None
            self._tell(record)

    def _save(self, record: Record) -> None:
        write_whole(self._path / record.id / _RECORD, json.dumps(dataclasses.asdict(record)).encode())

    def _tell(self, record: Record) -> None:
        state, progress, _ = self.state(record)
        self._store.tell(record.id, "training", {"state": state, **dataclasses.asdict(progress)})
        self._on_change(record.id)

    def _named(self, details: ErrorDetails, record: Record) -> ErrorDetails:
        """With the user's names for recordings and training, and no place on this machine."""
        folder = self._path / record.id
        names = {str(folder): record.name, record.id: record.name, str(self._home): "MENURA_HOME"}
        for part in record.recordings:
            names |= dict.fromkeys((str(folder / _RECORDINGS / part["file"]), part["file"]), part["name"])
        known = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))
        texts = {key: getattr(details, key) for key in ("subject", "problem", "advice")}
        named = {key: text and known.sub(lambda found: names[found[0]], text) for key, text in texts.items()}
        return dataclasses.replace(details, **named)

    @contextlib.contextmanager
    def _naming(self, record: Record) -> Iterator[None]:
        try:
            yield
        except MenuraError as error:
            named = self._named(error.details, record)
            raise type(error)(named.subject, named.problem, named.advice, named.option) from None


def _linked(recordings: Mapping[Path, Audio], folder: Path) -> Iterator[Mapping[str, str]]:
    """Give recordings names of our own below a folder; they are the same files where the system can."""
    with writing(folder):
        folder.mkdir(parents=True)
        for number, (path, audio) in enumerate(recordings.items(), start=1):
            suffix = Path(audio.name).suffix.lower()
            file = f"{number:04}{suffix if suffix in AUDIO_SUFFIXES else '.wav'}"
            try:
                os.link(path, folder / file)
            except OSError:
                shutil.copyfile(path, folder / file)
            yield {"id": audio.id, "name": audio.name, "file": file}
