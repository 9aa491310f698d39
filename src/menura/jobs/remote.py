"""The engine of a service whose jobs are converted by actors of a Ray cluster, a recording by one actor at a time."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue

from menura.errors import MenuraError
from menura.jobs.ray import Actor, Actors, actors_of
from menura.jobs.scheduler import Lost, Message, Task, lost_once_more
from menura.loading.loader import Loader
from menura.options import EngineOptions
from menura.pipeline.engine import Advanced, Begun, Engine, Event, Ticket
from menura.system.files import remove_unfinished
from menura.types import FileResult, Progress

_log = logging.getLogger("menura")

_AGAIN_S = 5.0
_PROBE_S = 2.0
_END_S = 8.0
_LOOK_S = 0.05


class RemoteEngine(Engine):
    """Gives what is submitted to actors, the most urgent first. What has a priority it converts itself.

    What a lost actor had goes to another. Where the cluster is lost, everything waits until it can be reached again.
    Raises MenuraError if it can't be reached at first.
    """

    def __init__(
        self,
        networks: Loader,
        on_end: Callable[[Ticket, FileResult], None],
        address: str,
        engine: EngineOptions,
        workers: int | None,
    ) -> None:
        super().__init__(networks, on_end=on_end)
        os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "1000000")  # else Ray then ends the process
        self._arguments = address, None, engine, workers
        self._waiting: list[Ticket] = []
        self._links: dict[Actor, Ticket | None] = {}
        self._attempts, self._done_s = Counter[Ticket](), dict[Ticket, float]()
        self._told, self._how = SimpleQueue[Event](), ""
        first = Future[None]()
        self._leader = threading.Thread(target=self._lead, args=(first,), name="menura-cluster", daemon=True)
        self._leader.start()
        try:
            first.result()
        except BaseException:
            self.close()
            raise

    @property
    def actors(self) -> int:
        """How many have loaded."""
        with self._lock:
            return sum(link.process is not None for link in self._links)

    @property
    def waiting(self) -> tuple[Ticket, ...]:
        """What no actor has yet."""
        return tuple(self._waiting)

    @property
    def idle(self) -> bool:
        with self._lock:
            return super().idle and not self._waiting and not any(self._links.values())

    def cancel(self, ticket: Ticket) -> None:
        super().cancel(ticket)
        with self._lock:
            for link in [link for link, busy in self._links.items() if busy is ticket]:
                link.actor.cancel.remote(ticket.number)

    def step(self) -> list[Event]:
        """As in Engine, or wait a moment for what actors say."""
        events: list[Event] = [] if super().idle else super().step()
        with self._lock:
            ended = [(ticket, error) for ticket in self._waiting if (error := ticket.cancellation())]
            self._waiting = [ticket for ticket in self._waiting if not ticket.cancellation()]
        events += [self._failed(ticket, error, time.perf_counter()) for ticket, error in ended]
        with suppress(Empty):
            events.append(self._told.get(timeout=_LOOK_S if super().idle else 0))
            while True:
                events.append(self._told.get_nowait())
        return events

    def close(self) -> None:
        super().close()
        self._leader.join(_END_S)

    def _accept(self, ticket: Ticket) -> None:
        super()._accept(ticket) if ticket.priority else self._waiting.append(ticket)

    def _lead(self, first: Future[None]) -> None:
        """Connect, and look after the connection; where it is lost, again and again."""
        said = ""
        while not self._closing.is_set():
            try:
                with actors_of(*self._arguments) as (actors, count):
                    if not first.done():
                        first.set_result(None)
                    self._serve(actors, count)
            except Exception as error:  # noqa: BLE001  (logged; the service goes on)
                if not first.done():
                    first.set_exception(error)
                elif str(error) != said:
                    said = str(error)
                    _log.error("%s", said, exc_info=not isinstance(error, MenuraError))
            self._closing.wait(_AGAIN_S)

    def _serve(self, actors: Actors, count: int) -> None:
        try:
            while actors.reachable() and not self._closing.is_set():
                new = {actors.start(place): None for place in range(len(self._links), count)}
                with self._lock:
                    self._links |= new
                probed_s = time.monotonic()
                while time.monotonic() < probed_s + _PROBE_S and not self._closing.is_set():
                    self._hand_out()
                    for link in actors.wait(list(self._links), _LOOK_S):
                        self._hear(actors, link)
        finally:
            with self._lock:
                links, self._links = self._links, {}
            if self._closing.is_set():
                actors.close(list(links), gently=False)
            else:
                _log.error("the Ray cluster is lost; conversions wait until it can be reached again")
                for ticket in filter(None, links.values()):
                    self._again(ticket)

    def _hand_out(self) -> None:
        for link in [link for link in self._links if link.answer is None]:
            with self._lock:
                waiting = [ticket for ticket in self._waiting if not ticket.cancellation()]
                if not waiting:
                    return
                ticket = self._links[link] = min(waiting, key=lambda ticket: ticket.turn)
                self._waiting.remove(ticket)
            assert ticket.sink.path is not None
            link.begin("carry_out", ticket.number, Task(ticket.recording, ticket.sink.path, ticket.request.portable))

    def _hear(self, actors: Actors, link: Actor) -> None:
        """Take in what an actor says, or its end."""
        message: Message
        try:
            message = link.receive()
        except MenuraError as error:  # it has another version
            message = error
        with self._lock:
            ticket = self._links[link]
            if isinstance(message, (Lost, MenuraError)):
                del self._links[link]
            elif not isinstance(message, Progress):
                self._links[link] = None
        if isinstance(message, (Lost, MenuraError)):
            how = message.how if isinstance(message, Lost) else str(message)
            if how != self._how:
                self._how = how
                _log.error("an actor is lost: %s", how)
            there = actors.reachable()
            if there:
                actors.close([link], gently=False)
            if ticket is not None:
                self._lost(ticket, how) if there else self._again(ticket)
        elif ticket is not None and isinstance(message, Progress):
            self._progress(ticket, message)
        elif ticket is not None and isinstance(message, FileResult):
            self._end(ticket, message)

    def _progress(self, ticket: Ticket, progress: Progress) -> None:
        done_s, before_s = progress.audio_done_s, self._done_s.get(ticket)
        self._done_s[ticket] = done_s
        if before_s is None:
            self._told.put(Begun(ticket=ticket, audio_s=progress.audio_s or 0.0))
        else:
            ticket.share.serve(done_s - before_s)
            self._told.put(Advanced(ticket=ticket, audio_done_s=done_s))

    def _lost(self, ticket: Ticket, how: str) -> None:
        result = lost_once_more(self._attempts, ticket, ticket.recording.name, how, most=3)
        if result is None:
            return self._again(ticket)
        _clean(ticket)
        self._end(ticket, result)

    def _again(self, ticket: Ticket) -> None:
        _clean(ticket)
        self._done_s.pop(ticket, None)
        with self._lock:
            self._accept(ticket)

    def _end(self, ticket: Ticket, result: FileResult) -> None:
        self._done_s.pop(ticket, None)
        self._attempts.pop(ticket, None)
        with self._ending:
            self._on_end(ticket, result)


def _clean(ticket: Ticket) -> None:
    if ticket.sink.path is not None:
        remove_unfinished([ticket.sink.path])
