"""Reading beside the computing thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

_END = object()


@contextmanager
def read_ahead(items: Generator[T, None, None], depth: int) -> Iterator[Iterator[T]]:
    """Run a generator in a thread of its own, at most `depth` items ahead of who takes them.

    What it raises is raised where its items are taken. When the block ends, it is closed.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="menura-read-ahead") as thread:

        def taken() -> Iterator[T]:
            waiting = deque(thread.submit(next, items, _END) for _ in range(depth))
            while (item := waiting.popleft().result()) is not _END:
                waiting.append(thread.submit(next, items, _END))
                yield item  # type: ignore[misc]

        try:
            yield taken()
        finally:
            thread.shutdown(cancel_futures=True)
            items.close()
