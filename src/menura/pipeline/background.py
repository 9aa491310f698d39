"""Work beside the computing thread: things made ahead of their use, in bounded number."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from typing import Generic, TypeVar, cast

T = TypeVar("T")
Item = TypeVar("Item")
Made = TypeVar("Made")

_END = object()


class StoppedError(Exception):
    """A background thread was told to leave off."""


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


class Lookahead(Generic[Item, Made]):
    """Makes something of each item in background threads, in order, at most `depth` ahead; use as a context manager.

    Args:
        items: taken one by one.
        make: called in a background thread; what it raises is raised by `take`.
        depth: how many may be under way or waiting to be taken.
        threads: how many are made at once.
    """

    def __init__(self, items: Iterable[Item], make: Callable[[Item], Made], *, depth: int, threads: int = 1) -> None:
        self._items, self._make, self._depth = iter(items), make, depth
        self._places: deque[_Place[Item, Made]] = deque()
        self._changed = threading.Condition()
        self._stopped = False
        self._workers = [
            threading.Thread(target=self._work, name=f"menura-prepare-{n}", daemon=True) for n in range(threads)
        ]

    def __enter__(self) -> Lookahead[Item, Made]:
        """Begin."""
        self._refill()
        for worker in self._workers:
            worker.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let the threads end with what they are at."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.join()

    def take(self, choose: Callable[[Sequence[Made]], int | None], *, wait: bool) -> Made | None:
        """The one that `choose` picks of those that are ready, in order; None if it picks none or all were taken.

        Args:
            choose: given what is ready, the position of the one to take or None.
            wait: wait until something is ready (or nothing is left).
        """
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: not self._places or any(p.ready for p in self._places))
            ready = [place for place in self._places if place.ready]
            for place in ready:
                if place.error is not None:
                    self._remove(place)
                    raise place.error
            position = choose([place.made for place in ready]) if ready else None
            if position is None:
                return None
            self._remove(ready[position])
            return ready[position].made

    @property
    def exhausted(self) -> bool:
        """True once everything was taken."""
        with self._changed:
            return not self._places

    def _remove(self, place: _Place[Item, Made]) -> None:
        self._places.remove(place)
        self._refill()
        self._changed.notify_all()

    def _refill(self) -> None:
        room = self._depth - len(self._places)
        self._places.extend(_Place(item) for item in islice(self._items, room))

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or any(not p.begun for p in self._places) or self._over())
                place = next((p for p in self._places if not p.begun), None)
                if self._stopped or place is None:
                    return
                place.begun = True
            try:
                place.made = self._make(place.item)
            except BaseException as error:  # noqa: BLE001  (raised again by take)
                place.error = error
            with self._changed:
                place.ready = True
                self._changed.notify_all()

    def _over(self) -> bool:
        return not self._places


class _Place(Generic[Item, Made]):
    """One item on its way."""

    made: Made

    def __init__(self, item: Item) -> None:
        self.item = item
        self.begun = self.ready = False
        self.error: BaseException | None = None
