"""The service's converting thread, in this process."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from menura.options import EngineOptions
from menura.pipeline.engine import Engine, Event
from menura.server.folder import DataFolder
from menura.server.runner import Runner
from menura.server.store import Job, NewJob, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"sqlite:///{tmp_path / 'menura.db'}")


def job_of(store: Store, folder: DataFolder, talk: Path, names: list[str]) -> str:
    """A job of the same recording under several names."""
    inputs = []
    for number, name in enumerate(names):
        id = f"{number:064x}"
        shutil.copy(talk, folder.audio(id))
        inputs.append(store.add_audio(id, name, 1, {}))
    job, _ = store.create(NewJob(kind="convert", voice="tiny", options={}, inputs=inputs))
    return job.id


def ended(store: Store, id: str) -> Job:
    deadline = time.monotonic() + 60
    while (job := store.job(id)).state in ("queued", "running"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return job


def test_what_brings_the_engine_down_is_given_up_and_the_rest_goes_on(
    store: Store, home: Path, talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Engine.step

    def fragile(self: Engine) -> list[Event]:
        if any(live.ticket.recording.name == "poison" for live in self._live):
            raise RuntimeError("device-side assert")
        return step(self)

    monkeypatch.setattr(Engine, "step", fragile)
    folder = DataFolder(tmp_path / "data", 2**20)
    with Runner(store, folder, EngineOptions(home=home), 3600.0, lambda *_: None) as runner:
        job = ended(store, job_of(store, folder, talk, ["a", "poison", "b", "c"]))
        assert runner.alive
    assert {item.name: item.state for item in job.items} == {
        "a": "done",
        "poison": "failed",
        "b": "done",
        "c": "done",
    }
    assert job.items[1].error is not None
    assert "device-side assert" in job.items[1].error["problem"]
    store.close()
