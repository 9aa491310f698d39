"""Background threads: in order, bounded, errors carried, nothing left running."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from menura.pipeline.plan import read_ahead


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
    with read_ahead((n for n in range(count)), depth) as items:
        assert list(items) == list(range(count))


def test_reading_ahead_is_bounded_and_in_another_thread() -> None:
    made, threads = [], set()

    def items() -> Generator[int, None, None]:
        for item in range(100):
            made.append(item)
            threads.add(threading.current_thread())
            yield item

    with read_ahead(items(), 3) as ahead:
        assert next(ahead) == 0
        until(lambda: len(made) == 4)  # one taken, three waiting
        time.sleep(0.05)
        assert len(made) == 4
        assert threading.current_thread() not in threads
    assert len(made) == 4


def test_errors_come_after_what_was_read_before_them() -> None:
    def items() -> Generator[int, None, None]:
        yield 1
        raise ValueError("cut off")

    with read_ahead(items(), 4) as ahead:
        assert next(ahead) == 1
        with pytest.raises(ValueError, match="cut off"):
            next(ahead)


def test_what_is_read_is_closed_when_reading_stops() -> None:
    closed = threading.Event()

    def items() -> Generator[int, None, None]:
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
