"""Work beside the computing thread: things made ahead of their use, in bounded number."""

from __future__ import annotations

import bisect
import heapq
import itertools
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

T = TypeVar("T")
Item = TypeVar("Item")
Made = TypeVar("Made")

_END = object()


class StoppedError(Exception):
    """Raised in a background thread, or by what it runs, to end it early."""


class _Channel:
    """A bounded queue that either side can close."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._items: deque[object] = deque()
        self._changed = threading.Condition()
        self._stopped = False

    def put(self, item: object) -> None:
        """Wait for room. Raises StoppedError once stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or len(self._items) < self._depth)
            if self._stopped:
                raise StoppedError
            self._items.append(item)
            self._changed.notify_all()

    def get(self) -> object:
        with self._changed:
            self._changed.wait_for(lambda: self._items)
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


@contextmanager
def read_ahead(items: Iterator[T], depth: int) -> Iterator[Iterator[T]]:
    """Run an iterator in a thread of its own, at most `depth` items ahead of who takes them.

    What the iterator raises is raised where its items are taken. When the block ends, the thread ends with it: at its
    next item if it was not through.

    Args:
        items: from now on used by the thread alone.
        depth: items that may wait.
    """
    channel = _Channel(depth)

    def fill() -> None:
        last: object = _END
        try:
            for item in items:
                channel.put(item)
        except StoppedError:
            return
        except BaseException as error:  # noqa: BLE001  (raised again in the thread that takes the items)
            last = _Failure(error)
        finally:
            if hasattr(items, "close"):
                items.close()
        try:
            channel.put(last)
        except StoppedError:
            return

    def taken() -> Generator[T, None, None]:
        while (item := channel.get()) is not _END:
            if isinstance(item, _Failure):
                raise item.error
            yield cast("T", item)

    thread = threading.Thread(target=fill, name="menura-read-ahead", daemon=True)
    thread.start()
    try:
        with closing(taken()) as out:
            yield out
    finally:
        channel.stop()
        thread.join()


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error


class Preparer(Generic[Item, Made]):
    """Makes something of each item in a background thread, ahead of its use but not far.

    Args:
        make: called in the thread; what it raises is raised by `take`.
        depth: how many may be ready and not taken.
    """

    def __init__(self, make: Callable[[Item], Made], *, depth: int) -> None:
        self._make, self._depth = make, depth
        self._todo: list[tuple[int, int, Item]] = []
        self._ready: list[tuple[int, int, _Prepared[Made]]] = []
        self._count = itertools.count()
        self._changed = threading.Condition()
        self._busy = self._closed = False
        self._thread: threading.Thread | None = None

    def add(self, item: Item, priority: int = 0) -> None:
        """Queue an item; those of higher priority come first, equal ones in order."""
        with self._changed:
            heapq.heappush(self._todo, (-priority, next(self._count), item))
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="menura-prepare", daemon=True)
                self._thread.start()

    @property
    def waiting(self) -> bool:
        """True while there is something to take, now or later."""
        with self._changed:
            return bool(self._todo or self._ready or self._busy)

    def take(self, choose: Callable[[Sequence[Made]], int | None], *, wait: bool) -> Made | None:
        """The one that `choose` picks of those that are ready, in order; None if it picks none.

        Args:
            choose: given what is ready, the position of the one to take or None.
            wait: wait until something is ready (or nothing is left).
        """
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._ready or not (self._todo or self._busy))
            for entry in self._ready:
                if entry[2].error is not None:
                    self._remove(entry)
                    raise entry[2].error
            position = choose([cast("Made", prepared.made) for *_, prepared in self._ready]) if self._ready else None
            if position is None:
                return None
            entry = self._ready[position]
            self._remove(entry)
            return cast("Made", entry[2].made)

    def close(self) -> None:
        """Let the thread end with what it is at."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _remove(self, entry: tuple[int, int, _Prepared[Made]]) -> None:
        self._ready.remove(entry)
        self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._may_begin())
                if self._closed:
                    return
                priority, number, item = heapq.heappop(self._todo)
                self._busy = True
            try:
                prepared = _Prepared(made=self._make(item))
            except BaseException as error:  # noqa: BLE001  (raised again by take)
                prepared = _Prepared(error=error)
            with self._changed:
                self._busy = False
                bisect.insort(self._ready, (priority, number, prepared), key=lambda entry: entry[:2])
                self._changed.notify_all()

    def _may_begin(self) -> bool:
        """There is room, or the next is more urgent than anything that is ready."""
        return bool(self._todo) and (len(self._ready) < self._depth or self._todo[0][0] < self._ready[0][0])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Prepared(Generic[Made]):
    made: Made | None = None
    error: BaseException | None = None
