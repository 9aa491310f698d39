"""Who converts what on a cluster, whatever becomes of its actors; these here are no real ones."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from menura.errors import CancelledError, OptionError
from menura.jobs import remote
from menura.jobs.scheduler import Lost, Message, Ready, Task
from menura.loading import Request, resolve
from menura.loading.loader import Loader
from menura.options import ConversionOptions, EngineOptions
from menura.pipeline.engine import Advanced, Begun, Event, Fairness, Share, Ticket
from menura.pipeline.output import FileSink, MemorySink
from menura.pipeline.recording import FileRecording
from menura.types import FileResult, Progress, State, failed_result

Act = Callable[[Task], list[Message]]


class FakeActor:
    """Says what `act` makes of a task, at once; cancelled, it says that."""

    def __init__(self, act: Act) -> None:
        self._act, self._said = act, deque[Message]([Ready()])
        self.process: int | None = None
        self.answer: str | None = "load"
        self.actor = self.cancel = self  # .actor.cancel.remote(number)

    def begin(self, _method: str, _number: int, task: Task) -> None:
        self.answer = "carry_out"
        self._said += self._act(task)

    def receive(self) -> Message:
        message = self._said.popleft()
        if isinstance(message, Ready):
            self.process = 1
        if not isinstance(message, Progress):
            self.answer = None
        return message

    def remote(self, _number: int) -> None:
        self._said.append(failed_result("", CancelledError(None, "cancelled").details))

    @property
    def speaks(self) -> bool:
        return bool(self._said)


class FakeCluster:
    """So many actors of each connection; `act` says what they make of tasks."""

    def __init__(self, act: Act, count: int = 1) -> None:
        self.act, self.count, self.there = act, count, True
        self.refusals: list[OptionError] = []
        self.started = self.connections = 0
        self.closed: list[FakeActor] = []

    @contextmanager
    def connect(self, *_: Any) -> Iterator[tuple[FakeCluster, int]]:
        if self.refusals:
            raise self.refusals.pop()
        self.connections, self.there = self.connections + 1, True
        yield self, self.count

    def start(self, _number: int) -> FakeActor:
        self.started += 1
        return FakeActor(lambda task: self.act(task))

    def wait(self, links: Sequence[FakeActor], timeout_s: float) -> list[FakeActor]:
        if not any(link.speaks for link in links):
            time.sleep(min(timeout_s, 0.01))
        return [link for link in links if link.speaks]

    def reachable(self) -> bool:
        return self.there

    def close(self, links: Sequence[FakeActor], *, gently: bool) -> None:
        self.closed += links


def progress(done_s: float) -> Progress:
    return Progress(file="", files_begun=1, files_done=0, files=1, audio_done_s=done_s, audio_s=30.0, wall_s=0.0)


def done(task: Task) -> list[Message]:
    result = FileResult(input=task.recording.name, output=task.output, state=State.DONE, audio_s=30.0)
    return [progress(0.0), progress(30.0), result]


class Jobs:
    """What is submitted to the engine, and how it ended."""

    def __init__(self, request: Request, folder: Path) -> None:
        self._request, self._folder, self.fairness = request, folder, Fairness()
        self.ended: dict[str, FileResult] = {}
        self.events: list[Event] = []
        self.engine: remote.RemoteEngine

    def on_end(self, ticket: Ticket, result: FileResult) -> None:
        self.ended[ticket.recording.name] = result

    def submit(self, name: str, share: Share) -> Ticket:
        sink = FileSink(self._folder / f"{name}.wav")
        return self.engine.submit(FileRecording(Path("talk.wav"), label=name), self._request, sink, share=share)

    def run(self) -> None:
        deadline = time.monotonic() + 20
        while not self.engine.idle:
            self.events += self.engine.step()
            assert time.monotonic() < deadline


@pytest.fixture
def start(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[FakeCluster], Jobs]]:
    monkeypatch.setattr(remote, "_AGAIN_S", 0.01)
    monkeypatch.setattr(remote, "_PROBE_S", 0.05)
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "60")
    with ExitStack() as stack:

        def begin(cluster: FakeCluster) -> Jobs:
            monkeypatch.setattr(remote, "actors_of", cluster.connect)
            jobs = Jobs(resolve(ConversionOptions(voice="tiny"), home), tmp_path)
            networks = Loader(home=home, device=torch.device("cpu"))
            jobs.engine = remote.RemoteEngine(networks, jobs.on_end, "local", EngineOptions(home=home), 1)
            stack.callback(jobs.engine.close)
            return jobs

        yield begin


def test_the_job_that_had_least_goes_first(start: Callable[[FakeCluster], Jobs]) -> None:
    order: list[str] = []
    begun = threading.Event()

    def act(task: Task) -> list[Message]:
        order.append(task.recording.name)
        begun.wait(5)  # until all have been submitted
        return done(task)

    jobs = start(FakeCluster(act))
    first, second = Share(jobs.fairness), Share(jobs.fairness)
    for number in range(3):
        jobs.submit(f"a{number}", first)
    jobs.submit("b0", second)
    begun.set()
    jobs.run()
    assert order == ["a0", "b0", "a1", "a2"]
    assert [(type(event), event.ticket.recording.name) for event in jobs.events[:2]] == [
        (Begun, "a0"),
        (Advanced, "a0"),
    ]
    assert first.turn == 4  # 90 s of sound


def test_what_ends_three_actors_is_given_up(start: Callable[[FakeCluster], Jobs], tmp_path: Path) -> None:
    def act(task: Task) -> list[Message]:
        if task.recording.name != "poison":
            return done(task)
        (tmp_path / ".poison.wav.0123abcd.part").write_text("half")
        return [progress(0.0), Lost("signal 9")]

    cluster = FakeCluster(act)
    jobs = start(cluster)
    share = Share(jobs.fairness)
    jobs.submit("poison", share)
    jobs.submit("good", share)
    jobs.run()
    assert jobs.ended["good"].state is State.DONE
    error = jobs.ended["poison"].error
    assert error is not None
    assert (error.kind, error.problem) == ("resource", "its worker ended 3 times (signal 9)")
    assert len(cluster.closed) == 3
    assert cluster.started == 4
    assert not list(tmp_path.glob(".*.part"))


def test_a_lost_cluster_is_waited_for(start: Callable[[FakeCluster], Jobs], caplog: pytest.LogCaptureFixture) -> None:
    """What was under way isn't to blame, however often it happens."""

    def act(task: Task) -> list[Message]:
        if cluster.connections < 5:
            cluster.there = False
            cluster.refusals = [OptionError(None, "no cluster answers")] * 2
            return [progress(0.0)]
        return done(task)

    cluster = FakeCluster(act)
    jobs = start(cluster)
    jobs.submit("a", Share(jobs.fairness))
    jobs.run()
    assert jobs.ended["a"].state is State.DONE
    assert cluster.connections == 5
    assert "the Ray cluster is lost" in caplog.text


def test_cancelled_where_it_waits_and_where_it_runs(start: Callable[[FakeCluster], Jobs]) -> None:
    jobs = start(FakeCluster(lambda _: [progress(0.0)]))  # and nothing more
    share = Share(jobs.fairness)
    running, waiting = jobs.submit("running", share), jobs.submit("waiting", share)
    while not jobs.events:
        jobs.events += jobs.engine.step()
    assert jobs.engine.waiting == (waiting,)
    for ticket in (waiting, running):
        jobs.engine.cancel(ticket)
    jobs.run()
    assert {name: result.error and result.error.kind for name, result in jobs.ended.items()} == {
        "waiting": "cancelled",
        "running": "cancelled",
    }


def test_what_has_a_priority_is_converted_here(start: Callable[[FakeCluster], Jobs], talk: Path, home: Path) -> None:
    jobs, sink = start(FakeCluster(done, count=0)), MemorySink()
    jobs.engine.submit(FileRecording(talk), resolve(ConversionOptions(voice="tiny"), home), sink, priority=1)
    jobs.run()
    assert len(sink.joined()) == 36_000
    assert jobs.engine.actors == 0


def test_a_cluster_that_never_answered(start: Callable[[FakeCluster], Jobs]) -> None:
    cluster, before = FakeCluster(done), threading.active_count()
    cluster.refusals = [OptionError(None, "no cluster answers")] * 9
    with pytest.raises(OptionError, match="no cluster answers"):
        start(cluster)
    assert threading.active_count() == before
