"""Who does what in a shared batch, whatever becomes of the workers."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from menura.errors import CancelledError, ResourceError, VoiceNotFoundError
from menura.jobs.scheduler import Hooks, Link, Lost, Message, Ready, share
from menura.types import ConverterStats, FileResult, Item, Progress, State

READY = Ready()


class FakeLink:
    """A worker that does every file at once, unless `act` gives other messages; "dies" is its end."""

    def __init__(self, number: int, act: Callable[[Item], list[Message | str]], first: Message | str) -> None:
        self.number, self._act = number, act
        self.told: deque[Message | str] = deque([first])
        self.done: list[str] = []

    def send(self, item: Item | None) -> bool:
        if item is None:
            self.told.append(ConverterStats(model_loads={"voice": 1}, resident_bytes=0, peak_memory_mb=100.0))
        else:
            self.done.append(item.source.name)
            self.told += self._act(item)
        return True

    def receive(self) -> Message:
        message = self.told.popleft()
        return Lost(message) if isinstance(message, str) else message


class FakeBackend:
    def __init__(self, act: Callable[[Item], list[Message | str]], first: Sequence[Message | str] = ()) -> None:
        self._act, self._first = act, list(first)
        self.links: list[FakeLink] = []
        self.closed: list[tuple[list[Link], bool]] = []

    def start(self, number: int) -> Link:
        first = self._first.pop(0) if self._first else READY
        self.links.append(FakeLink(number, self._act, first))
        return self.links[-1]

    def wait(self, links: Sequence[Link], timeout_s: float) -> list[Link]:
        return [link for link in links if isinstance(link, FakeLink) and link.told][:1]

    def close(self, links: Sequence[Link], *, gently: bool) -> None:
        self.closed.append((list(links), gently))


def done(item: Item) -> list[Message | str]:
    result = FileResult(input=str(item.source), output=item.output, state=State.DONE, audio_s=2.0)
    progress = Progress(file="", files_begun=1, files_done=0, files=1, audio_done_s=1.0, audio_s=2.0, wall_s=0.0)
    return [progress, result]


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    """Recordings of 3, 1, 4 and 2 bytes."""
    for name, size in (("c", 3), ("a", 1), ("d", 4), ("b", 2)):
        (tmp_path / name).write_bytes(b"x" * size)
    return [Item(source=tmp_path / name, output=tmp_path / "out" / name) for name in "cadb"]


def test_the_longest_first_and_results_in_order(items: list[Item]) -> None:
    backend = FakeBackend(done)
    seen: list[Progress] = []
    told: dict[int, FileResult] = {}
    report = share(items, backend, workers=1, hooks=Hooks(on_progress=seen.append, on_result=told.__setitem__))
    assert backend.links[0].done == ["d", "c", "b", "a"]
    assert [result.input for result in report.files] == [str(item.source) for item in items]
    assert [told[number] for number in range(4)] == list(report.files)
    assert (report.model_loads, report.peak_memory_mb) == ({"voice": 1}, 100.0)
    assert backend.closed == [(backend.links, True)]
    assert (seen[-1].files, seen[-1].files_done, seen[-1].audio_done_s) == (4, 4, 4.0)


def test_no_more_workers_than_files(items: list[Item]) -> None:
    backend = FakeBackend(done)
    report = share(items, backend, workers=9)
    assert [link.number for link in backend.links] == [0, 1, 2, 3]
    assert report.model_loads == {"voice": 4}


def test_another_takes_the_file_and_the_place_of_a_lost_one(items: list[Item]) -> None:
    """A worker's number chooses its device, so that the new one must have the lost one's."""
    tries: list[str] = []

    def act(item: Item) -> list[Message | str]:
        tries.append(item.source.name)
        return ["signal 9"] if item.source.name == "d" and tries.count("d") == 1 else done(item)

    backend = FakeBackend(act)
    report = share(items, backend, workers=2)
    assert [link.number for link in backend.links] == [0, 1, 0]
    assert backend.closed == [(backend.links[:1], False), (backend.links[1:], True)]
    assert report.exit_code == 0


def test_a_file_that_ends_its_workers_is_given_up(items: list[Item]) -> None:
    backend = FakeBackend(lambda item: ["signal 9"] if item.source.name == "d" else done(item))
    report = share(items, backend, workers=1)
    assert [result.state.value for result in report.files] == ["done", "done", "failed", "done"]
    error = report.files[2].error
    assert error is not None
    assert (error.kind, error.problem) == ("resource", "its worker ended 2 times (signal 9)")
    assert len(backend.links) == 3


def test_workers_that_never_begin(items: list[Item]) -> None:
    """Some are tried again, the rest of the batch goes on with fewer, and without any it ends."""
    backend = FakeBackend(done, ["no memory", READY, "no memory"])
    assert share(items, backend, workers=2).exit_code == 0
    backend = FakeBackend(done, ["no memory"] * 99)
    with pytest.raises(ResourceError, match=r"crash on start-up \(no memory\)"):
        share(items, backend, workers=2)
    assert len(backend.links) < 6
    assert backend.closed == [*(([link], False) for link in backend.links), ([], False)]


def test_what_is_wrong_with_the_request(items: list[Item]) -> None:
    with pytest.raises(VoiceNotFoundError, match="nobody"):
        share(items, FakeBackend(done, [VoiceNotFoundError("nobody", "no such voice")]), workers=1)


def test_a_cancelled_batch_ends(items: list[Item]) -> None:
    cancel, finished = threading.Event(), list[int]()

    def on_result(position: int, _result: FileResult) -> None:
        finished.append(position)
        cancel.set()

    backend = FakeBackend(done)
    with pytest.raises(CancelledError):
        share(items, backend, workers=1, hooks=Hooks(on_result=on_result, cancel=cancel))
    assert finished == [2]
    assert backend.closed == [(backend.links, False)]


def test_an_interruption_leaves_nothing_half_written(items: list[Item], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()

    def act(item: Item) -> list[Message | str]:
        (tmp_path / "out" / f".{item.output.name}.abc.part").write_text("half")
        return done(item)[:1]

    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    backend = FakeBackend(act)
    with pytest.raises(KeyboardInterrupt):
        share(items, backend, workers=2, hooks=Hooks(on_progress=interrupt))
    assert backend.closed == [(backend.links, False)]
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.usefixtures("signals_handled")
def test_a_swallowed_ctrl_c_ends_the_batch(items: list[Item]) -> None:
    def swallow(_: Progress) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)

    backend = FakeBackend(done)
    with pytest.raises(KeyboardInterrupt):
        share(items, backend, workers=2, hooks=Hooks(on_progress=swallow))
    assert backend.closed == [(backend.links, False)]
    assert sum(len(link.done) for link in backend.links) < len(items)
