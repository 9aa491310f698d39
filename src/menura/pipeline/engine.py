"""The engine: takes recordings, converts those that suit each other together, says what became of each.

Three kinds of threads: one reads recordings for the first time and plans them, one computes (the caller of `step`), one
encodes and writes. A recording's second pass is read ahead by a thread of its own.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from menura.errors import CancelledError, DeviceError, ErrorDetails, MenuraError, ResourceError, details_of
from menura.kernels.library import compute_alone
from menura.loading.loader import Loader
from menura.loading.request import Request
from menura.pipeline.channels import Step
from menura.pipeline.conversion import Conversion
from menura.pipeline.dialogue import Dialogue
from menura.pipeline.execute import STAGES, Answer, Executor, Flight, NetworkRequest
from menura.pipeline.output import Sink
from menura.pipeline.progress import RunMeter, StageClock, Worked
from menura.pipeline.recording import Recording
from menura.system.device import flushed_denormals
from menura.system.gpu import lasting_errors
from menura.system.interrupts import check_interrupts
from menura.system.memory import free_bytes
from menura.types import FileResult, FloatArray, Progress, State, failed_result

if TYPE_CHECKING:
    import torch

_PREPARED_AHEAD = 16
_TURN_S = 20.0
_MOST_TOGETHER = 64
_WAITING_TO_BE_WRITTEN = 4
_CPU_FRAMES = 1200
"""A pass on a CPU gains from company only while it is short; docs/architecture.md has the measurements."""
_DEVICE_BYTES_A_FRAME = 200_000
"""A full-size voice at 40 kHz takes 140 kB, its libraries some more."""
_AHEAD_FRAMES = 32_000
"""Of one recording together, at most: what its windows hold in main memory grows with it, 0.4 MB a second."""

_FAILURES = (MenuraError, OSError, MemoryError)


class Fairness:
    """The time of a clock that runs as fast as each of those who share an engine is served, were all served evenly."""

    def __init__(self) -> None:
        self.served_s, self.active = 0.0, 0


class Share:
    """One asker's part of an engine: those of equal priority get equal seconds of sound, a segment a turn.

    One who comes later has no claim to what was made before. Call `end` when there is nothing more to ask for.
    """

    def __init__(self, fairness: Fairness) -> None:
        self._fairness, self._served_s = fairness, fairness.served_s
        fairness.active += 1

    @property
    def turn(self) -> int:
        return int(self._served_s // _TURN_S)

    def serve(self, seconds: float) -> None:
        self._served_s += seconds
        self._fairness.served_s += seconds / max(1, self._fairness.active)

    def end(self) -> None:
        self._fairness.active -= 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ticket:
    """A recording that was submitted."""

    number: int
    recording: Recording
    request: Request
    sink: Sink
    priority: int
    share: Share
    cancels: tuple[threading.Event, ...]
    """Any of them ends the conversion."""

    @property
    def urgency(self) -> tuple[int, int]:
        """The greatest goes first."""
        return self.priority, -self.share.turn

    @property
    def turn(self) -> tuple[int, int, int]:
        """The least goes first."""
        return -self.priority, self.share.turn, self.number

    def cancellation(self) -> CancelledError | None:
        if any(event.is_set() for event in self.cancels):
            return CancelledError(self.recording.name, "the conversion was cancelled")
        return None

    def check(self) -> None:
        """Raise CancelledError if it was asked for."""
        if error := self.cancellation():
            raise error


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A recording was read once, and its conversion begins."""

    ticket: Ticket
    audio_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Advanced:
    """So much of a recording's sound is final, or so much of its work is done."""

    ticket: Ticket
    audio_done_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """An output is complete."""

    ticket: Ticket
    result: FileResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A recording gives no output; the error is a CancelledError if that was asked for."""

    ticket: Ticket
    result: FileResult
    error: Exception


Event: TypeAlias = Begun | Advanced | Done | Failed


@dataclass(slots=True, kw_only=True, eq=False)
class _Live:
    """A recording that is planned, or under way."""

    ticket: Ticket
    begun_s: float
    conversion: Conversion | Dialogue
    steps: Generator[Step, list[FloatArray] | None, None]
    pending: tuple[NetworkRequest, ...] = ()
    unasked: list[int] = field(default_factory=list)
    """Which of them no pass answers yet."""
    answers: dict[int, Answer] = field(default_factory=dict)
    done_samples: int = 0
    worked_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How an engine keeps a device busy."""

    preparing: int = 1
    """Threads that read recordings for the first time."""
    passes: int = 1
    """That may be under way at once: while the device computes one, the next is made ready."""
    company_s: float = 0.0
    """How long a pass waits for recordings that are about to ask for the same."""
    ahead_frames: int = 0
    """Of one recording that go together; 0: a window or segment at a time, as it pays on a CPU."""


_PACES = {"cuda": Pace(preparing=4, passes=2, company_s=0.02, ahead_frames=_AHEAD_FRAMES)}


def _budget_of(device: torch.device) -> int:
    """Frames of a pass, or of recordings together; to be asked for when networks are loaded."""
    room = 0 if device.type == "cpu" else free_bytes(device) // 2 // _DEVICE_BYTES_A_FRAME
    return max(_CPU_FRAMES, room)


def executor_of(device: torch.device) -> tuple[Executor, int]:
    """For one recording at a time, once networks are loaded; and how many frames of it go together."""
    ahead_frames, budget = _PACES.get(device.type, Pace()).ahead_frames, _budget_of(device)
    return Executor(device, budget if ahead_frames else None), min(ahead_frames, budget)


class Engine:
    """Converts what is submitted; use it as a context manager, and call `step` until it is idle.

    `submit` and `cancel` may be called from any thread, `step` and `close` from one. A recording's company changes no
    sample by more than rounding, 1e-6 of full scale.

    Args:
        networks: loads what requests need.
        frame_budget: recordings are converted together while their windows have at most so many frames; by default
            what pays on the device: 12 s on a CPU (of equal shape only), on a GPU what half of the free memory holds.
        on_end: called with a ticket and its result as soon as its output is complete, or it failed: from any thread,
            but not twice at once. What it raises is raised by `step`.
    """

    def __init__(
        self,
        networks: Loader,
        *,
        frame_budget: int | None = None,
        on_end: Callable[[Ticket, FileResult], None] = lambda _ticket, _result: None,
    ) -> None:
        self._networks, self._frame_budget, self._on_end = networks, frame_budget, on_end
        self._pace = _PACES.get(networks.device.type, Pace())
        self._executor = Executor(networks.device, frame_budget if self._pace.ahead_frames else None)
        self._flights: deque[tuple[Flight, list[tuple[_Live, int]]]] = deque()
        self._current: list[tuple[_Live, int]] = []
        """Of the pass that is being begun or collected, or at which an error ended that."""
        self._queue: list[tuple[tuple[int, int, int], Ticket]] = []
        self._preparing: dict[Future[_Live | Failed], Ticket] = {}
        self._reader = ThreadPoolExecutor(self._pace.preparing, "menura-prepare", initializer=compute_alone)
        self._live: list[_Live] = []
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="menura-write")
        self._writing: list[Future[Done | Failed]] = []
        self._events: list[Event] = []
        self._count, self._share = 0, Share(Fairness())
        self._closing = threading.Event()
        self._lock, self._ending = threading.RLock(), threading.Lock()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(
        self,
        recording: Recording,
        request: Request,
        sink: Sink,
        *,
        priority: int = 0,
        share: Share | None = None,
        cancel: threading.Event | None = None,
    ) -> Ticket:
        """Queue a recording. The highest `priority` goes first, others wait. Setting `cancel` ends the conversion.

        Among those of equal priority the one whose `share` had least goes first; by default all have the same.
        """
        cancels = (threading.Event(), self._closing, *([cancel] if cancel else []))
        with self._lock:
            ticket = Ticket(
                number=self._count,
                recording=recording,
                request=request,
                sink=sink,
                priority=priority,
                share=share or self._share,
                cancels=cancels,
            )
            self._count += 1
            self._accept(ticket)
        return ticket

    def _accept(self, ticket: Ticket) -> None:
        """Queue it; the lock is held."""
        for future, other in list(self._preparing.items()):
            if other.urgency < ticket.urgency and future.cancel():
                del self._preparing[future]
                heapq.heappush(self._queue, (other.turn, other))
        heapq.heappush(self._queue, (ticket.turn, ticket))
        self._prepare_ahead()

    def cancel(self, ticket: Ticket) -> None:
        """End a conversion at its next step; it fails with a CancelledError. Nothing happens if it is over."""
        ticket.cancels[0].set()

    @property
    def idle(self) -> bool:
        """True while there is nothing to do."""
        return not (self._live or self._writing or self._preparing)

    def step(self) -> list[Event]:
        """Begin what fits, and let all that is under way advance by one pass of the networks; waits if it must.

        Raises KeyboardInterrupt on Ctrl-C, DeviceError where a GPU stops working; then `close`.
        """
        with lasting_errors():
            return self._step()

    def _step(self) -> list[Event]:
        check_interrupts()
        events: list[Event] = []
        self._events = events
        for live in list(self._live):
            if error := live.ticket.cancellation():
                self._drop(live, error)
        company_s = self._pace.company_s
        while len(self._live) < _MOST_TOGETHER:
            idle, start_s = not (self._live or events or self._writing), time.perf_counter()
            prepared = self._next_prepared(None if idle else company_s if self._gains_by_company() else 0.0)
            if prepared is None:
                break
            if not idle:
                company_s = max(0.0, company_s - (time.perf_counter() - start_s))
            if isinstance(prepared, Failed):
                events.append(prepared)
            else:
                self._begin(prepared)
        if self._live:
            with flushed_denormals():
                self._compute()
            self._collect(len(self._writing))
        elif not events:
            self._collect(len(self._writing) - 1)
        return events

    def close(self) -> None:
        """End everything, finished or not: complete outputs stay, nothing half-written does."""
        self._closing.set()
        self._reader.shutdown(cancel_futures=True)
        self._writer.shutdown()
        for live in self._live:
            live.steps.close()
            live.ticket.sink.discard()
        self._live.clear()

    @property
    def computing(self) -> tuple[Ticket, ...]:
        """What shares the passes under way, or did when one ended in an error."""
        pairs = self._current + [pair for _, pairs in self._flights for pair in pairs]
        return tuple(dict.fromkeys(live.ticket for live, _ in pairs))

    def _prepare_ahead(self) -> None:
        """Have the next prepared; the urgent find room however many of the others wait for their turn."""
        while self._queue:
            turn, ticket = self._queue[0]
            if turn != ticket.turn:  # its share was served meanwhile
                heapq.heapreplace(self._queue, (ticket.turn, ticket))
                continue
            if sum(other.urgency >= ticket.urgency for other in self._preparing.values()) >= _PREPARED_AHEAD:
                return
            heapq.heappop(self._queue)
            self._preparing[self._reader.submit(self._prepare, ticket)] = ticket

    def _gains_by_company(self) -> bool:
        """True if the device has nothing to do yet, and what comes to begin now can share passes until the end."""
        return not self._flights and any(live.pending[0].stage != STAGES[-1] for live in self._live if live.pending)

    def _next_prepared(self, wait_s: float | None) -> _Live | Failed | None:
        """The next that may begin, or can't, if there is one within some time (None: however long it takes)."""
        with self._lock:
            futures = list(self._preparing)
        if wait_s != 0:
            wait(futures, wait_s, return_when=FIRST_COMPLETED)
        with self._lock:
            done = [future for future in self._preparing if future.done()]
            for future in sorted(done, key=lambda future: self._preparing[future].turn):
                prepared = future.result()
                if isinstance(prepared, Failed) or self._may_begin(prepared):
                    del self._preparing[future]
                    self._prepare_ahead()
                    return prepared
        return None

    def _prepare(self, ticket: Ticket) -> _Live | Failed:
        """Load networks, read a recording once and plan its conversion, in a background thread."""
        begun_s = time.perf_counter()
        try:
            ticket.check()
            ticket.sink.check()
            conversion = self._conversion(ticket)
        except _FAILURES as error:
            return self._failed(ticket, error, begun_s)
        return _Live(ticket=ticket, begun_s=begun_s, conversion=conversion, steps=conversion.steps())

    def _conversion(self, ticket: Ticket) -> Conversion | Dialogue:
        recording, request, load = ticket.recording, ticket.request, self._networks.load
        loaded = [load(each) for each in [role.request for role in request.roles] or [request]]
        format, check, ahead = ticket.sink.format, ticket.check, min(self._pace.ahead_frames, self._most_frames())
        if request.roles:
            return Dialogue(recording, request, loaded, format=format, check=check, ahead_frames=ahead)
        parts = ticket.sink.parts
        return Conversion(recording, request, loaded[0], format=format, check=check, ahead_frames=ahead, parts=parts)

    def _most_frames(self) -> int:
        """Of a pass, or of recordings together; asked for when networks are loaded."""
        with self._lock:
            if self._frame_budget is None:
                device = self._networks.device
                self._frame_budget = _budget_of(device)
                if device.type != "cpu":
                    self._executor = Executor(device, self._frame_budget)
            return self._frame_budget

    def _may_begin(self, prepared: _Live) -> bool:
        """True if it is the most urgent, or can be carried out together with what is as urgent."""
        frames, urgency = prepared.conversion.widest_frames, prepared.ticket.urgency
        shapes = [live.conversion.widest_frames for live in self._live if live.ticket.urgency >= urgency]
        room = sum(shapes) + frames <= self._most_frames() * self._pace.passes
        return not shapes or (room and (self._pace.ahead_frames > 0 or frames in shapes))

    def _begin(self, live: _Live) -> None:
        self._live.append(live)
        self._events.append(Begun(ticket=live.ticket, audio_s=live.conversion.facts.audio_s))
        try:
            live.ticket.check()
            live.conversion.spool = live.ticket.sink.spool
            live.ticket.sink.open(live.conversion.output_rate, live.conversion.channels)
        except _FAILURES as error:
            self._drop(live, error)
        else:
            self._advance(live)

    def _compute(self) -> None:
        """Begin passes, as many as may be under way, and let those go on that the oldest one answers.

        What is only joined needs no network, and goes on by a block: hours of sound are not joined in one turn.
        """
        for live in [live for live in self._live if not live.pending]:
            self._advance(live)
        while len(self._flights) < self._pace.passes and (asked := self._asked()):
            requests = [live.pending[place] for live, place in asked]
            key = requests[0].batch_key
            self._current = [pair for pair, request in zip(asked, requests, strict=True) if request.batch_key == key]
            flight = self._executor.begin(requests)
            answered, self._current = [asked[position] for position in flight.places], []
            for live, place in answered:
                live.unasked.remove(place)
            self._flights.append((flight, answered))
        if not self._flights:
            return
        flight, answered = self._flights.popleft()
        self._current = answered
        answers = flight.collect()
        self._current = []
        for (live, place), answer in zip(answered, answers, strict=True):
            live.answers[place] = answer
            if live in self._live and len(live.answers) == len(live.pending):
                self._advance(live)

    def _asked(self) -> list[tuple[_Live, int]]:
        """What the most urgent ask of one network, and no pass answers yet; those that need an earlier stage go first.

        Recordings begun at different times thus come to ask for the same thing.
        """
        waiting = [live for live in self._live if live.unasked]
        urgent = max((live.ticket.urgency for live in waiting), default=None)
        asked = [(live, place) for live in waiting if live.ticket.urgency == urgent for place in live.unasked]
        first = min((STAGES.index(live.pending[place].stage) for live, place in asked), default=0)
        return [(live, place) for live, place in asked if live.pending[place].stage == STAGES[first]]

    def _advance(self, live: _Live) -> None:
        """Run until it asks again (then `pending` is set) or the end; an answer that is an error is raised there."""
        answers = [live.answers[place] for place in range(len(live.pending))]
        found = [answer for answer in answers if not isinstance(answer, ResourceError)]
        error = next((answer for answer in answers if isinstance(answer, ResourceError)), None)
        live.pending, live.answers = (), {}
        try:
            step = live.steps.send(found or None) if error is None else live.steps.throw(error)
            while isinstance(step, (np.ndarray, Worked)):
                self._take(live, step)
                if live.conversion.deferred and (isinstance(step, np.ndarray) or not step.audio_s):
                    return
                step = next(live.steps)
            live.pending, live.unasked = step, list(range(len(step)))
        except StopIteration:
            self._collect(_WAITING_TO_BE_WRITTEN - 1)  # may raise, and what is live is then discarded
            self._live.remove(live)
            live.ticket.sink.match = live.conversion.match
            clock = live.conversion.clock  # not the conversion, which has the features of minutes
            self._writing.append(self._writer.submit(self._finish, live.ticket, _result(live), clock, live.begun_s))
        except _FAILURES as error:
            self._drop(live, error)

    def _take(self, live: _Live, step: FloatArray | Worked) -> None:
        """Write what is final, and count; where sound is deferred the work counts, not once more its sound."""
        conversion = live.conversion
        # Of the work that is the sound's share.
        rest = 0.0 if conversion.deferred else 1 - live.worked_s / conversion.facts.audio_s
        if isinstance(step, Worked):
            new_s = 0.0 if step.found else step.audio_s
            live.worked_s = min(live.worked_s + step.audio_s, conversion.facts.audio_s)
        else:
            with conversion.clock.measure("encode"):
                live.ticket.sink.write(step)
            live.done_samples += len(step)
            new_s = rest * len(step) / conversion.output_rate
        live.ticket.share.serve(new_s)
        done_s = max(live.worked_s + rest * (heard_s := live.done_samples / conversion.output_rate), heard_s)
        self._events.append(Advanced(ticket=live.ticket, audio_done_s=done_s))

    def _drop(self, live: _Live, error: Exception) -> None:
        self._live.remove(live)
        live.steps.close()
        live.ticket.sink.discard()
        self._events.append(self._failed(live.ticket, error, live.begun_s))

    def _finish(self, ticket: Ticket, result: FileResult, clock: StageClock, begun_s: float) -> Done | Failed:
        """Complete an output, in a background thread."""
        try:
            with clock.measure("encode"):
                ticket.sink.finish(ticket.check)
        except _FAILURES as error:
            return self._failed(ticket, error, begun_s)
        notes = result.notes + ticket.sink.notes
        result = replace(result, wall_s=time.perf_counter() - begun_s, stages=clock.times(), notes=notes)
        with self._ending:
            self._on_end(ticket, result)
        return Done(ticket=ticket, result=result)

    def _failed(self, ticket: Ticket, error: Exception, begun_s: float) -> Failed:
        if isinstance(error, DeviceError) or (self._closing.is_set() and isinstance(error, CancelledError)):
            raise error
        result = replace(failed_result(ticket.recording.name, details_of(error)), wall_s=time.perf_counter() - begun_s)
        with self._ending:
            self._on_end(ticket, result)
        return Failed(ticket=ticket, result=result, error=error)

    def _collect(self, most: int) -> None:
        """Take in what was written; wait until at most `most` are waiting."""
        futures = self._writing
        while futures and (len(futures) > most or futures[0].done()):
            self._events.append(futures.pop(0).result())


def _result(live: _Live) -> FileResult:
    """What the conversion itself says; times come when the output is complete."""
    conversion, facts = live.conversion, live.conversion.facts
    damage, name = None, conversion.recording.name
    if facts.warning is not None:
        damage = ErrorDetails(kind="damaged", subject=name, problem=facts.warning)
    return FileResult(
        input=name,
        output=live.ticket.sink.path,
        state=State.WARNING if damage else State.DONE,
        error=damage,
        notes=conversion.notes(),
        audio_s=facts.audio_s,
        output_samples=live.done_samples,
        output_rate=conversion.output_rate,
        f0_method=conversion.request.f0_method,
        transpose=conversion.semitones,
        seams_s=conversion.seams_s,
        parts=conversion.parts,
        parts_resumed=conversion.parts_found,
    )


def run_batch(
    networks: Loader,
    items: Sequence[tuple[Recording, Sink]],
    request: Request,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    on_result: Callable[[int, FileResult], None] = lambda _number, _result: None,
    cancel: threading.Event | None = None,
    frame_budget: int | None = None,
) -> list[Done | Failed]:
    """Convert recordings, each into its sink, and say how each ended; what goes wrong with one stops no other.

    `on_progress` is called in this thread when a recording is begun and after every block, `on_result` with an item's
    number and result as the Engine's `on_end`.
    """
    meter, ends = RunMeter([_size(recording.name) for recording, _ in items]), dict[int, Done | Failed]()
    with Engine(
        networks, frame_budget=frame_budget, on_end=lambda ticket, result: on_result(ticket.number, result)
    ) as engine:
        for recording, sink in items:
            engine.submit(recording, request, sink, cancel=cancel)
        while not engine.idle:
            for event in engine.step():
                number = event.ticket.number
                if isinstance(event, Begun):
                    meter.begun(number, event.audio_s)
                elif isinstance(event, Advanced):
                    meter.advanced(number, event.audio_done_s)
                else:
                    ends[number] = event
                    meter.finished() if isinstance(event, Done) else meter.failed(number)
                    continue
                if on_progress is not None:
                    on_progress(meter.progress(event.ticket.recording.name))
    return [ends[number] for number in range(len(items))]


def _size(name: str) -> int:
    with suppress(OSError, ValueError):
        return Path(name).stat().st_size
    return 0
