"""Background threads: in order, bounded, errors carried, nothing left running."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from menura.pipeline.background import Preparer, read_ahead


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("menura-")]


def until(condition: object, seconds: float = 10) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(0, 40), depth=st.integers(1, 5))
def test_reading_ahead_keeps_the_order(count: int, depth: int) -> None:
    with read_ahead(iter(range(count)), depth) as items:
        assert list(items) == list(range(count))


def test_reading_ahead_is_bounded_and_in_another_thread() -> None:
    made, threads = [], set()

    def items() -> Iterator[int]:
        for item in range(100):
            made.append(item)
            threads.add(threading.current_thread())
            yield item

    with read_ahead(items(), 3) as ahead:
        assert next(ahead) == 0
        until(lambda: len(made) == 5)  # one taken, three waiting, one in hand
        time.sleep(0.05)
        assert len(made) == 5
        assert threading.current_thread() not in threads
    assert len(made) == 5


def test_errors_come_after_what_was_read_before_them() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("cut off")

    with read_ahead(items(), 4) as ahead:
        assert next(ahead) == 1
        with pytest.raises(ValueError, match="cut off"):
            next(ahead)


def test_what_is_read_is_closed_when_reading_stops() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            closed.set()

    def interrupted() -> None:
        with read_ahead(items(), 2) as ahead:
            next(ahead)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert closed.is_set()


def first(ready: Sequence[int]) -> int:
    return 0


def preparing(items: range, make: Callable[[int], int], depth: int) -> closing[Preparer[int, int]]:
    preparer = Preparer(make, depth=depth)
    for item in items:
        preparer.add(item)
    return closing(preparer)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(0, 30), depth=st.integers(1, 6))
def test_everything_is_made_once_in_order(count: int, depth: int) -> None:
    made: list[int] = []
    with preparing(range(count), lambda n: made.append(n) or n * n, depth) as ahead:
        taken = []
        while ahead.waiting:
            item = ahead.take(first, wait=True)
            assert item is not None
            taken.append(item)
    assert taken == [n * n for n in range(count)]
    assert made == list(range(count))


def test_no_more_is_made_than_asked_for() -> None:
    made: list[int] = []
    with preparing(range(100), lambda n: made.append(n) or n, 4) as ahead:
        until(lambda: len(made) == 4)
        assert ahead.take(first, wait=False) == 0
        until(lambda: len(made) == 5)
        time.sleep(0.05)
        assert len(made) == 5


def test_the_taker_chooses() -> None:
    with preparing(range(5), lambda n: n, 5) as ahead:
        until(lambda: ready_count(ahead) == 5)
        assert ahead.take(lambda ready: None, wait=True) is None
        assert ahead.take(lambda ready: 3, wait=False) == 3
        assert ahead.take(lambda ready: ready.index(1), wait=False) == 1
        assert [ahead.take(first, wait=True) for _ in range(3)] == [0, 2, 4]
        assert not ahead.waiting
        assert ahead.take(first, wait=True) is None


def ready_count(ahead: Preparer[int, int]) -> int:
    seen = [0]
    ahead.take(lambda ready: seen.__setitem__(0, len(ready)), wait=False)
    return seen[0]


def test_the_urgent_come_first_even_where_there_is_no_room() -> None:
    with closing(Preparer[int, int](lambda n: n, depth=2)) as ahead:
        for item in range(4):
            ahead.add(item)
        until(lambda: ready_count(ahead) == 2)
        ahead.add(9, priority=1)
        until(lambda: ready_count(ahead) == 3)
        assert [ahead.take(first, wait=True) for _ in range(5)] == [9, 0, 1, 2, 3]


def test_not_waiting_gives_nothing_until_something_is_ready() -> None:
    go_on = threading.Event()
    with preparing(range(1, 2), lambda n: go_on.wait(30) and n, 2) as ahead:
        assert ahead.take(first, wait=False) is None
        assert ahead.waiting
        go_on.set()
        assert ahead.take(first, wait=True) == 1


def test_what_making_raises_is_raised_where_it_is_taken() -> None:
    def make(n: int) -> int:
        if n == 1:
            raise ValueError("bad")
        return n

    with preparing(range(3), make, 1) as ahead:
        assert ahead.take(first, wait=True) == 0
        with pytest.raises(ValueError, match="bad"):
            ahead.take(first, wait=True)
        assert ahead.take(first, wait=True) == 2
