"""Who does what in a shared batch, whatever becomes of the workers."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from menura import __version__
from menura.errors import ResourceError, VoiceNotFoundError
from menura.jobs.scheduler import Link, WorkerLostError, convert_shared
from menura.jobs.worker import Advanced, Farewell, Finished, Message, Ready, Refused, Task
from menura.types import FileResult, Progress, State

READY = Ready(version=__version__, host="here", process=1)


class FakeLink:
    """A worker that does every file at once, unless `act` gives other messages; "dies" is its end."""

    def __init__(self, number: int, act: Callable[[Task], list[Message | str]], first: Message | str) -> None:
        self.number, self._act = number, act
        self.told: deque[Message | str] = deque([first])
        self.done: list[str] = []

    def send(self, task: Task | None) -> None:
        if task is None:
            self.told.append(Farewell(model_loads={"voice": 1}, peak_memory_mb=100.0))
        else:
            self.done.append(task.source.name)
            self.told += self._act(task)

    def receive(self) -> Message:
        message = self.told.popleft()
        if isinstance(message, str):
            raise WorkerLostError(message)
        return message


class FakeBackend:
    stays_for_loading = True

    def __init__(self, act: Callable[[Task], list[Message | str]], first: Sequence[Message | str] = ()) -> None:
        self._act, self._first = act, list(first)
        self.links: list[FakeLink] = []
        self.forgotten: list[Link] = []
        self.closed: list[bool] = []

    def start(self, number: int) -> Link:
        first = self._first.pop(0) if self._first else READY
        self.links.append(FakeLink(number, self._act, first))
        return self.links[-1]

    def heard(self, links: Sequence[Link], timeout_s: float | None) -> list[Link]:
        return [link for link in links if isinstance(link, FakeLink) and link.told][:1]

    def forget(self, link: Link) -> None:
        self.forgotten.append(link)

    def close(self, links: Sequence[Link], *, gently: bool) -> None:
        self.closed.append(gently)


def done(task: Task) -> list[Message | str]:
    result = FileResult(input=str(task.source), output=task.output, state=State.DONE, audio_s=2.0)
    return [Advanced(audio_done_s=1.0, audio_s=2.0), Finished(result=result)]


@pytest.fixture
def pairs(tmp_path: Path) -> list[tuple[Path, Path]]:
    """Recordings of 3, 1, 4 and 2 bytes."""
    for name, size in (("c", 3), ("a", 1), ("d", 4), ("b", 2)):
        (tmp_path / name).write_bytes(b"x" * size)
    return [(tmp_path / name, tmp_path / "out" / name) for name in "cadb"]


def test_the_longest_first_and_results_in_order(pairs: list[tuple[Path, Path]]) -> None:
    backend = FakeBackend(done)
    seen: list[Progress] = []
    told: dict[int, FileResult] = {}
    report = convert_shared(pairs, backend, workers=1, on_progress=seen.append, on_result=told.__setitem__)
    assert backend.links[0].done == ["d", "c", "b", "a"]
    assert [result.input for result in report.files] == [str(source) for source, _ in pairs]
    assert [told[number] for number in range(4)] == list(report.files)
    assert (report.model_loads, report.peak_memory_mb, backend.closed) == ({"voice": 1}, 100.0, [True])
    assert (seen[-1].files, seen[-1].files_done, seen[-1].audio_done_s) == (4, 4, 4.0)


def test_no_more_workers_than_files(pairs: list[tuple[Path, Path]]) -> None:
    backend = FakeBackend(done)
    report = convert_shared(pairs, backend, workers=9)
    assert [link.number for link in backend.links] == [0, 1, 2, 3]
    assert report.model_loads == {"voice": 4}


def test_another_takes_the_file_and_the_place_of_a_lost_one(pairs: list[tuple[Path, Path]]) -> None:
    """A worker's number chooses its device, so that the new one must have the lost one's."""
    tries: list[str] = []

    def act(task: Task) -> list[Message | str]:
        tries.append(task.source.name)
        return ["signal 9"] if task.source.name == "d" and tries.count("d") == 1 else done(task)

    backend = FakeBackend(act)
    report = convert_shared(pairs, backend, workers=2)
    assert [link.number for link in backend.links] == [0, 1, 0]
    assert backend.forgotten == backend.links[:1]
    assert report.exit_code == 0


def test_a_file_that_ends_its_workers_is_given_up(pairs: list[tuple[Path, Path]]) -> None:
    backend = FakeBackend(lambda task: ["signal 9"] if task.source.name == "d" else done(task))
    report = convert_shared(pairs, backend, workers=1)
    assert [result.state.value for result in report.files] == ["done", "done", "failed", "done"]
    assert "ended (signal 9), twice" in str(report.files[2].error)
    assert len(backend.links) == 3


def test_workers_that_never_begin(pairs: list[tuple[Path, Path]]) -> None:
    """Some are tried again, the rest of the batch goes on with fewer, and without any it ends."""
    backend = FakeBackend(done, ["no memory", READY, "no memory"])
    assert convert_shared(pairs, backend, workers=2).exit_code == 0
    backend = FakeBackend(done, ["no memory"] * 99)
    with pytest.raises(ResourceError, match=r"before they begin \(no memory\)"):
        convert_shared(pairs, backend, workers=2)
    assert len(backend.links) < 6
    assert backend.closed == [False]


def test_what_is_wrong_with_the_request_or_the_machine(pairs: list[tuple[Path, Path]]) -> None:
    with pytest.raises(VoiceNotFoundError, match="nobody"):
        convert_shared(pairs, FakeBackend(done, [Refused(error=VoiceNotFoundError("nobody"))]), workers=1)
    other = Ready(version="0.0.0", host="there", process=1)
    with pytest.raises(ResourceError, match=r"there has Menura 0\.0\.0"):
        convert_shared(pairs, FakeBackend(done, [other]), workers=1)


def test_an_interruption_leaves_nothing_half_written(pairs: list[tuple[Path, Path]], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()

    def act(task: Task) -> list[Message | str]:
        (tmp_path / "out" / f".{task.output.name}.abc.part").write_text("half")
        return done(task)[:1]

    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    backend = FakeBackend(act)
    with pytest.raises(KeyboardInterrupt):
        convert_shared(pairs, backend, workers=2, on_progress=interrupt)
    assert backend.closed == [False]
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.usefixtures("hearing")
def test_a_swallowed_ctrl_c_ends_the_batch(pairs: list[tuple[Path, Path]]) -> None:
    def swallow(_: Progress) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)

    backend = FakeBackend(done)
    with pytest.raises(KeyboardInterrupt):
        convert_shared(pairs, backend, workers=2, on_progress=swallow)
    assert backend.closed == [False]
    assert sum(len(link.done) for link in backend.links) < len(pairs)
