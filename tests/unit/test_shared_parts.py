"""Who does which part of a long recording, in a simulated time."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from menura.errors import DecodeError, details_of
from menura.jobs.parts import Finished, Unit, likely_parts
from menura.jobs.scheduler import Link, Lost, Message, Ready, share
from menura.loading.request import Request
from menura.pipeline.progress import Worked
from menura.system.files import claimed_folder, parts_folder
from menura.types import ConverterStats, FileResult, Item, RunReport, StageTimes, State, failed_result
from support.tiny import tiny_request

PARTS = 32
SECONDS = {"survey": 6.0, "f0": 5.0, "sound": 20.0}


class SimulatedLink:
    def __init__(self, backend: SimulatedBackend) -> None:
        self._backend = backend
        self.told: list[tuple[float, Message]] = [(backend.now_s, Ready())]
        self.last: Unit | None = None

    def send(self, task: Item | Unit | None) -> bool:
        after_s, messages = self._backend.act(self, task)
        self.told += [(self._backend.now_s + after_s, message) for message in messages]
        return True

    def receive(self) -> Message:
        return self.told.pop(0)[1]


class SimulatedBackend:
    """Workers that take time for what they do: less for a part after the one before it."""

    def __init__(self, parts: int = PARTS, mishaps: float = 0.0, seed: int = 0) -> None:
        self.now_s, self.parts = 0.0, parts
        self.lost = Counter[Item | Unit]()
        self.done: list[Item | Unit] = []
        self.fresh = 0
        self._chance, self._mishaps = random.Random(seed), mishaps
        self.failing: tuple[str, int] | None = None

    def start(self, number: int) -> Link:
        return SimulatedLink(self)

    def act(self, link: SimulatedLink, task: Item | Unit | None) -> tuple[float, list[Message]]:
        if task is None:
            return 0.0, [ConverterStats(model_loads={}, resident_bytes=0, peak_memory_mb=0.0)]
        if self._chance.random() < self._mishaps:
            self.lost[task] += 1
            return 1.0, [Lost("signal 9")]
        self.done.append(task)
        if isinstance(task, Item) or task.step == "join":
            item = task if isinstance(task, Item) else task.item
            with claimed_folder(parts_folder(Path(str(item.output)))) as ours:
                assert ours, "the scheduler still has the folder"
            return 3.0, [FileResult(input=str(item.source), output=item.output, state=State.DONE, parts=self.parts)]
        if task.step == "survey":
            return 6.0, [Finished(parts=self.parts, audio_s=9000.0, stages=StageTimes(decode_s=1.0))]
        if (task.step, task.number) == self.failing:
            return 0.0, [failed_result(task.item.source, details_of(DecodeError(None, "no")))]
        begun = task.step == "sound" and link.last != task._replace(number=task.number - 1)
        self.fresh, link.last = self.fresh + begun, task
        return SECONDS[task.step] + begun, [Worked(1.0), Finished(stages=StageTimes(content_s=1.0))]

    def wait(self, links: Sequence[SimulatedLink], timeout_s: float) -> list[SimulatedLink]:
        busy = [link for link in links if link.told]
        first = min(busy, key=lambda link: link.told[0][0])
        self.now_s = max(self.now_s, first.told[0][0])
        return [first]

    def close(self, links: Sequence[Link], *, gently: bool) -> None:
        pass


@pytest.fixture
def long(tmp_path: Path) -> Item:
    return recording(tmp_path, "long", 32)


def recording(folder: Path, name: str, parts: int) -> Item:
    """One whose header tells of so many parts of 20 s."""
    soundfile.write(folder / name, np.zeros(parts * 80_000, dtype=np.float32), 4000, format="WAV", subtype="PCM_U8")
    return Item(source=folder / name, output=folder / "out" / name)


def request_in(folder: Path) -> Request:
    request, weights = tiny_request(part_length=20), folder / "weights"
    weights.touch()
    return dataclasses.replace(request, voice=dataclasses.replace(request.voice, path=weights), content_path=weights)


def shared(items: list[Item], backend: SimulatedBackend, workers: int = 4) -> RunReport:
    folder = Path(str(items[0].source)).parent
    report = share(items, backend, workers=workers, request=request_in(folder))
    assert not list(folder.glob("out/.*"))
    return report


def test_a_long_recording_keeps_four_workers_busy(long: Item) -> None:
    backend = SimulatedBackend()
    (result,) = shared([long], backend).files
    serial_s = sum(SECONDS[step] * (PARTS if step in ("f0", "sound") else 1) for step in SECONDS) + 3.0
    assert serial_s / backend.now_s > 3.5
    steps = [each.step if isinstance(each, Unit) else "whole" for each in backend.done]
    assert steps == ["survey", *["f0"] * PARTS, *["sound"] * PARTS, "join"]
    assert len(set(backend.done)) == len(backend.done)
    assert backend.fresh <= 6, "who did a part goes on with the next"
    assert (result.parts, result.parts_resumed, result.stages) == (
        PARTS,
        0,
        StageTimes(decode_s=1.0, content_s=2.0 * PARTS),
    )


def test_what_all_have_enough_of_is_not_divided(tmp_path: Path) -> None:
    """Of files as long as each other only the last, when a worker would have nothing to do."""
    items = [recording(tmp_path, f"{number}", PARTS) for number in range(9)]
    backend = SimulatedBackend()
    report = shared(items, backend, workers=2)
    assert report.exit_code == 0
    divided = {each.item for each in backend.done if isinstance(each, Unit)}
    assert divided == {items[0]}
    short = [recording(tmp_path, f"short-{number}", 1) for number in range(3)]
    backend = SimulatedBackend()
    assert shared([*short, items[0]], backend).exit_code == 0
    first = backend.done[0]
    assert isinstance(first, Unit)
    assert (first.item, first.step) == (items[0], "survey")
    assert [each for each in backend.done if isinstance(each, Item)] == [*reversed(short)]


def test_what_a_survey_finds_short_is_converted_whole(long: Item) -> None:
    backend = SimulatedBackend(parts=0)
    (result,) = shared([long], backend).files
    assert (result.state, result.stages) == (State.DONE, StageTimes())
    assert [each if isinstance(each, Item) else each.step for each in backend.done] == ["survey", long]


def test_a_folder_that_another_run_has_is_left_alone(long: Item, tmp_path: Path) -> None:
    assert isinstance(long.output, Path)
    backend = SimulatedBackend()
    with claimed_folder(parts_folder(long.output)), pytest.raises(AssertionError, match="still has"):
        share([long], backend, workers=4, request=request_in(tmp_path))
    assert [each if isinstance(each, Item) else each.step for each in backend.done] == ["survey", long]


@pytest.mark.parametrize("seed", range(20))
def test_workers_that_are_lost_cost_nothing_but_time(long: Item, seed: int) -> None:
    backend = SimulatedBackend(mishaps=0.1, seed=seed)
    (result,) = shared([long], backend).files
    if result.error is not None:
        assert result.error.problem == "its worker ended 2 times (signal 9)"
        assert max(backend.lost.values()) == 2
    else:
        assert max(backend.lost.values(), default=0) < 2
        assert len(backend.done) == len(set(backend.done)) == 2 * PARTS + 2


def test_a_part_that_fails_fails_its_file_and_no_other(long: Item, tmp_path: Path) -> None:
    backend = SimulatedBackend()
    backend.failing = "sound", 1
    other = recording(tmp_path, "other", 1)
    report = shared([long, other], backend)
    assert [result.state for result in report.files] == [State.FAILED, State.DONE]
    assert "join" not in [each.step for each in backend.done if isinstance(each, Unit)]
    assert len([each for each in backend.done if isinstance(each, Unit) and each.step == "sound"]) < 12


@pytest.mark.parametrize(
    ("minutes", "workers", "expected"), [(10, 4, (4, 150)), (50, 4, (12, 250)), (10, 2, (2, 300)), (3, 4, (1, 300))]
)
def test_every_worker_has_as_many_parts(
    tmp_path: Path, minutes: int, workers: int, expected: tuple[int, float]
) -> None:
    request = request_in(tmp_path).with_parts_of(300)
    assert likely_parts(recording(tmp_path, "long", 3 * minutes), request, workers) == expected


def test_nobody_takes_what_another_goes_on_with(tmp_path: Path) -> None:
    backend = SimulatedBackend(parts=10)
    shared([recording(tmp_path, "ten", 10)], backend)
    assert backend.fresh <= 7  # of ten: four begin, one is ready early, and another when only two are left
