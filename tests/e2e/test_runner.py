"""The service's converting thread, in this process."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from menura.errors import DeviceError
from menura.options import EngineOptions
from menura.pipeline.engine import Engine, Event
from menura.pipeline.execute import Executor
from menura.server.api.system import get_ready
from menura.server.folder import DataFolder
from menura.server.runner import Runner, _merged
from menura.server.store import Change, Claim, Job, NewJob, Store, StoredItem
from menura.system.files import parts_folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"sqlite:///{tmp_path / 'menura.db'}")


def job_of(store: Store, folder: DataFolder, talk: Path, names: list[str], poison: Path | None = None) -> str:
    """A job of the same recording under several names; another one is called 'poison'."""
    inputs = []
    for number, name in enumerate(names):
        id = f"{number:064x}"
        shutil.copy(poison if poison and name == "poison" else talk, folder.audio(id))
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
            raise RuntimeError("a fault")
        return step(self)

    monkeypatch.setattr(Engine, "step", fragile)
    folder = DataFolder(tmp_path / "data", 2**20)
    with Runner(store, folder, EngineOptions(home=home), 3600.0, lambda *_, **__: None) as runner:
        job = ended(store, job_of(store, folder, talk, ["a", "poison", "b", "c"]))
        assert runner.alive
    assert {item.name: item.state for item in job.items} == {
        "a": "done",
        "poison": "failed",
        "b": "done",
        "c": "done",
    }
    assert job.items[1].error is not None
    assert "a fault" in job.items[1].error["problem"]
    store.close()


@pytest.fixture
def long_job(store: Store, long_talk: Path, tmp_path: Path) -> tuple[DataFolder, str, Path]:
    """The folder, a job of two minutes in parts of 20 s, and where its parts are kept."""
    folder = DataFolder(tmp_path / "data", 2**30)
    samples, rate = soundfile.read(long_talk, stop=120 * 16_000)
    soundfile.write(folder.audio("0" * 64), samples, rate, format="FLAC")
    audio = store.add_audio("0" * 64, "long", 1, {})
    options = {"part_length": 20, "format": "wav"}
    job, _ = store.create(NewJob(kind="convert", voice="tiny", options=options, inputs=[audio]))
    return folder, job.id, parts_folder(folder.result(job.id, 0, "wav"))


def until_parts_are_done(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while len(list(folder.glob("*.sound-*-facts"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_service_that_begins_again_goes_on_after_the_last_part(
    store: Store, home: Path, long_job: tuple[DataFolder, str, Path]
) -> None:
    folder, id, parts = long_job
    with Runner(store, folder, EngineOptions(home=home), 3600.0, lambda *_, **__: None):
        until_parts_are_done(parts)
    assert store.job(id).state == "queued"
    folder.sweep(*store.known(), most_samples=0)
    with Runner(store, folder, EngineOptions(home=home), 3600.0, lambda *_, **__: None):
        job = ended(store, id)
    assert job.items[0].result is not None
    assert job.items[0].result["parts_resumed"] >= 2
    assert [path.name for path in parts.parent.iterdir()] == ["0.wav"]
    store.close()


@pytest.mark.parametrize("running", [True, False])
def test_parts_of_what_is_cancelled_go(
    store: Store, home: Path, long_job: tuple[DataFolder, str, Path], running: bool
) -> None:
    folder, id, parts = long_job
    with Runner(store, folder, EngineOptions(home=home), 3600.0, lambda *_, **__: None):
        until_parts_are_done(parts)
        if running:
            store.cancel(id)
            deadline = time.monotonic() + 60
            while store.job(id).state != "cancelled":
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert not parts.exists()
    if not running:
        store.cancel(id)
        folder.sweep(*store.known(), most_samples=0)
        assert not parts.exists()
    store.close()


@pytest.fixture
def poison(tmp_path: Path) -> Path:
    """A recording that is longer than others."""
    soundfile.write(tmp_path / "poison.wav", np.zeros(5 * 16_000, dtype=np.float32) + 0.01, 16_000)
    return tmp_path / "poison.wav"


def failing_at_the_longest(patch: pytest.MonkeyPatch) -> None:
    begin = Executor.begin

    def fragile(self: Executor, requests: Any) -> Any:
        if any(request.frames > 400 for request in requests):
            raise DeviceError(None, "the GPU has stopped working", "Start again")
        return begin(self, requests)

    patch.setattr(Executor, "begin", fragile)


def test_a_gpu_that_stops_working_ends_the_service_and_what_does_it_twice_is_given_up(
    store: Store, home: Path, talk: Path, poison: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_at_the_longest(monkeypatch)
    folder = DataFolder(tmp_path / "data", 2**20)
    id = job_of(store, folder, talk, ["poison", "a", "b"], poison)
    states: list[dict[str, str]] = []
    for _ in range(4):  # as whoever supervises the service starts it again
        with Runner(store, folder, EngineOptions(home=home), 3600.0, lambda *_, **__: None) as runner:
            deadline = time.monotonic() + 60
            while runner.alive and store.job(id).state in ("queued", "running"):
                assert time.monotonic() < deadline
                time.sleep(0.05)
        answer = get_ready(SimpleNamespace(runner=runner, closing=threading.Event()))  # type: ignore[arg-type]
        assert answer.status_code == 503
        assert (b"has stopped working" in answer.body) == (runner.lost is not None)
        states.append({item.name: item.state for item in store.job(id).items})
        if runner.lost is None:
            break
    assert [state["poison"] for state in states] == ["queued", "failed", "failed"]
    assert states[-1] == {"poison": "failed", "a": "done", "b": "done"}
    error = store.job(id).items[0].error
    assert error is not None
    assert (error["kind"], error["problem"]) == ("device", "the GPU has stopped working")
    store.close()


SERVE = """
import sys, time
from menura.cli.main import main
from menura.errors import DeviceError
from menura.server.runner import Runner, _merged

def turn(self):
    time.sleep(2)
    raise DeviceError(None, "the GPU has stopped working", "Start again")

Runner._turn = turn
main(["serve", "--port", "0", "--data", sys.argv[1]])
"""


def test_the_process_ends_with_one_line_and_says_that_it_failed(place: Path) -> None:
    command = [sys.executable, "-c", SERVE, str(place / "data")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[3]
        assert httpx.get(f"{address}readyz").json() == {"status": "ok"}
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    lines = said.splitlines()
    assert lines[-1] == "menura: the GPU has stopped working. Start again."
    assert not any("Traceback" in line for line in lines)


def test_what_has_ended_is_not_running_again() -> None:
    item = StoredItem(
        job_id="a",
        position=0,
        audio_id="",
        name="",
        state="running",
        audio_s=None,
        audio_done_s=0.0,
        begun=None,
        result=None,
        error=None,
    )
    begun, late = Change(item=item, audio_s=5.0, begun=1.0), Change(item=item, audio_done_s=2.0)
    done = Change(item=item, state="done", audio_done_s=5.0, result={"format": "wav"})
    (merged,) = _merged([begun, done, late])
    assert (merged.state, merged.begun, merged.audio_s, merged.audio_done_s) == ("done", 1.0, 5.0, 5.0)
    assert merged.result == done.result
    assert _merged([begun, late])[0].state == "running"


def test_an_unexpected_error_as_a_recording_is_begun_fails_it_alone(
    store: Store, home: Path, talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = Runner._submit

    def fragile(self: Runner, claim: Claim, request: Any) -> None:
        if claim.item.name == "poison":
            raise TypeError("an option of another version")
        submit(self, claim, request)

    monkeypatch.setattr(Runner, "_submit", fragile)
    folder = DataFolder(tmp_path / "data", 2**20)
    with Runner(store, folder, EngineOptions(home=home), 3600.0, lambda *_, **__: None) as runner:
        job = ended(store, job_of(store, folder, talk, ["a", "poison", "b"]))
        assert runner._held() == []
    assert {item.name: item.state for item in job.items} == {"a": "done", "poison": "failed", "b": "done"}
    store.close()


def test_a_service_that_was_stopped_blames_nothing_for_the_first_failure_of_its_gpu(
    store: Store, home: Path, talk: Path, poison: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = DataFolder(tmp_path / "data", 2**20)
    id = job_of(store, folder, talk, ["poison", "a"], poison)
    store.claim(2, each=2)
    store.give_back()  # as a service does that is stopped
    failing_at_the_longest(monkeypatch)
    with Runner(store, folder, EngineOptions(home=home), 3600.0, lambda *_, **__: None) as runner:
        deadline = time.monotonic() + 60
        while runner.alive:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert runner.lost is not None
    assert store.job(id).items[0].state == "queued"
    assert [claim.blamed for claim in store.claim(2, each=2) if claim.item.name == "poison"] == [True]
    store.close()
