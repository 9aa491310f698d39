"""The engine: takes recordings, converts those that suit each other together, says what became of each.

Three kinds of threads: one reads recordings for the first time and plans them, one computes (the caller of `step`), one
encodes and writes. A recording's second pass is read ahead by a thread of its own.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

from menura.errors import CancelledError, ErrorDetails, MenuraError, ResourceError, details_of
from menura.pipeline.background import StoppedError
from menura.pipeline.budget import frame_budget
from menura.pipeline.conversion import Conversion, Step
from menura.pipeline.execute import Answer, Executor
from menura.pipeline.requests import ContentRequest, F0Request, NetworkRequest, SynthesisRequest
from menura.system.device import flushed_denormals
from menura.system.interrupts import check_interrupts
from menura.types import FileResult, State

if TYPE_CHECKING:
    import torch

    from menura.loading.loader import VoiceModels
    from menura.loading.request import Request
    from menura.pipeline.output import Sink
    from menura.pipeline.recording import Recording
    from menura.pipeline.windows import Windowing
    from menura.types import FloatArray

_PREPARED_AHEAD = 16
_MOST_TOGETHER = 64
_WAITING_TO_BE_WRITTEN = 4
_STAGES = (ContentRequest, F0Request, SynthesisRequest)
_FAILURES = (MenuraError, OSError, MemoryError)


class Networks(Protocol):
    """Where the engine gets resident networks from: a Loader."""

    @property
    def device(self) -> torch.device: ...

    def load(self, request: Request) -> VoiceModels: ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ticket:
    """A recording that was submitted."""

    number: int
    recording: Recording
    request: Request
    sink: Sink
    priority: int
    cancels: tuple[threading.Event, ...]
    """Any of them ends the conversion."""

    @property
    def cancelled(self) -> bool:
        return any(event.is_set() for event in self.cancels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A recording was read once, and its conversion begins."""

    ticket: Ticket
    audio_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Advanced:
    """So much of a recording's sound is final."""

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
    """A recording under way; it begins once its conversion is planned."""

    ticket: Ticket
    begun_s: float
    conversion: Conversion
    steps: Generator[Step, FloatArray | None, None]
    pending: NetworkRequest | None = None
    done_samples: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refused:
    """A recording that couldn't be read or planned."""

    ticket: Ticket
    begun_s: float
    error: Exception


class Engine:
    """Converts what is submitted; use it as a context manager, and call `step` until it is idle.

    `submit` and `cancel` may be called from any thread, `step` and `close` from one. A recording's company changes no
    sample by more than rounding, 1e-6 of full scale.

    Args:
        networks: loads what requests need.
        frame_budget: recordings of equal shape are converted together while their windows have at most so many frames;
            by default what pays on the device.
        windowing: how recordings are cut into segments.
        on_end: called with a ticket and its result as soon as its output is complete, or it failed: from any thread,
            but not twice at once. What it raises is raised by `step`.
    """

    def __init__(
        self,
        networks: Networks,
        *,
        frame_budget: int | None = None,
        windowing: Windowing | None = None,
        on_end: Callable[[Ticket, FileResult], None] = lambda _ticket, _result: None,
    ) -> None:
        self._networks, self._windowing, self._on_end = networks, windowing, on_end
        self._frame_budget = frame_budget
        self._executor = Executor(networks.device)
        self._queue: list[tuple[int, int, Ticket]] = []
        self._preparing: dict[Future[_Live | _Refused], Ticket] = {}
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="menura-prepare")
        self._live: list[_Live] = []
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="menura-write")
        self._writing: list[Future[Done | Failed]] = []
        self._events: list[Event] = []
        self._submitted = 0
        self._closing = False
        self._lock, self._ending = threading.Lock(), threading.Lock()

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
        cancel: threading.Event | None = None,
    ) -> Ticket:
        """Queue a recording.

        Args:
            recording: what to convert.
            request: what is asked for.
            sink: where the sound goes.
            priority: higher ones go first; those under way with a lower one wait.
            cancel: ends the conversion once it is set.
        """
        with self._lock:
            ticket = Ticket(
                number=self._submitted,
                recording=recording,
                request=request,
                sink=sink,
                priority=priority,
                cancels=(threading.Event(), *([cancel] if cancel else [])),
            )
            self._submitted += 1
            for future, other in list(self._preparing.items()):
                if other.priority < priority and future.cancel():
                    del self._preparing[future]
                    self._enqueue(other)
            self._enqueue(ticket)
            self._prepare_ahead()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """End a conversion at its next step; it fails with a CancelledError. Nothing happens if it is over."""
        ticket.cancels[0].set()

    @property
    def idle(self) -> bool:
        """True while there is nothing to do."""
        return not (self._live or self._writing or self._preparing)

    def step(self) -> list[Event]:
        """Begin what fits, and let all that is under way advance by one pass of the networks; waits if it must.

        Raises:
            KeyboardInterrupt: Ctrl-C; then `close`.
        """
        check_interrupts()
        events: list[Event] = []
        self._events = events
        for live in [live for live in self._live if live.ticket.cancelled]:
            self._drop(live, _cancelled(live.ticket))
        while len(self._live) < _MOST_TOGETHER:
            prepared = self._next_prepared(wait_for_one=not (self._live or events or self._writing))
            if prepared is None:
                break
            self._begin(prepared)
        if self._live:
            with flushed_denormals():
                self._compute()
            self._collect(len(self._writing))
        elif not self._events:
            self._collect(len(self._writing) - 1)
        return events

    def close(self) -> None:
        """End everything, finished or not: complete outputs stay, nothing half-written does."""
        self._closing = True
        self._reader.shutdown(cancel_futures=True)
        self._writer.shutdown()
        for live in self._live:
            live.steps.close()
            live.ticket.sink.discard()
        self._live.clear()

    def _enqueue(self, ticket: Ticket) -> None:
        heapq.heappush(self._queue, (-ticket.priority, ticket.number, ticket))

    def _prepare_ahead(self) -> None:
        while self._queue and len(self._preparing) < _PREPARED_AHEAD:
            ticket = heapq.heappop(self._queue)[-1]
            self._preparing[self._reader.submit(self._prepare, ticket)] = ticket

    def _next_prepared(self, *, wait_for_one: bool) -> _Live | _Refused | None:
        """The next that may begin, if there is one."""
        with self._lock:
            futures = list(self._preparing)
        if wait_for_one:
            wait(futures, return_when=FIRST_COMPLETED)
        with self._lock:
            done = [
                (-ticket.priority, ticket.number, future) for future, ticket in self._preparing.items() if future.done()
            ]
            for *_, future in sorted(done):
                if self._may_begin(future.result()):
                    del self._preparing[future]
                    self._prepare_ahead()
                    return future.result()
        return None

    def _prepare(self, ticket: Ticket) -> _Live | _Refused:
        """Load networks, read a recording once and plan its conversion, in a background thread."""
        begun_s = time.perf_counter()
        if ticket.cancelled:
            return _Refused(ticket=ticket, begun_s=begun_s, error=_cancelled(ticket))
        try:
            ticket.sink.check()
            conversion = Conversion(
                ticket.recording,
                ticket.request,
                self._networks.load(ticket.request),
                format=ticket.sink.format,
                stopped=lambda: self._closing or ticket.cancelled,
                windowing=self._windowing,
            )
        except StoppedError:
            return _Refused(ticket=ticket, begun_s=begun_s, error=_cancelled(ticket))
        except _FAILURES as error:
            return _Refused(ticket=ticket, begun_s=begun_s, error=error)
        return _Live(ticket=ticket, begun_s=begun_s, conversion=conversion, steps=conversion.steps())

    def _may_begin(self, prepared: _Live | _Refused) -> bool:
        """True if it is over, the most urgent, or can share the passes of what is as urgent."""
        if isinstance(prepared, _Refused) or prepared.ticket.cancelled:
            return True
        if self._frame_budget is None:  # with the networks loaded
            self._frame_budget = frame_budget(self._networks.device)
        frames = prepared.conversion.widest_frames
        shapes = [
            live.conversion.widest_frames for live in self._live if live.ticket.priority >= prepared.ticket.priority
        ]
        return not shapes or (frames in shapes and sum(shapes) + frames <= self._frame_budget)

    def _begin(self, prepared: _Live | _Refused) -> None:
        ticket = prepared.ticket
        if isinstance(prepared, _Refused):
            self._events.append(self._failed(ticket, prepared.error, prepared.begun_s))
            return
        self._live.append(prepared)
        self._events.append(Begun(ticket=ticket, audio_s=prepared.conversion.facts.audio_s))
        try:
            ticket.sink.open(prepared.conversion.output_rate)
        except _FAILURES as error:
            self._drop(prepared, error)
        else:
            self._advance(prepared, None)

    def _compute(self) -> None:
        """One pass of one network for the most urgent.

        Those that need an earlier stage go first and the others wait, so that recordings begun at different times come
        to ask for the same thing.
        """
        urgent = max(live.ticket.priority for live in self._live)
        asking = [(live, live.pending) for live in self._live if live.ticket.priority == urgent and live.pending]
        stage = min(_stage(request) for _, request in asking)
        group = [(live, request) for live, request in asking if _stage(request) == stage]
        answers = self._executor.execute([request for _, request in group])
        for (live, _), answer in zip(group, answers, strict=True):
            self._advance(live, answer)

    def _advance(self, live: _Live, answer: Answer | None) -> None:
        """Run until the next request (then `pending` is set) or the end; an answer that is an error is raised there."""
        live.pending = None
        try:
            while True:
                step = live.steps.throw(answer) if isinstance(answer, ResourceError) else live.steps.send(answer)
                if not isinstance(step, np.ndarray):
                    live.pending = step
                    return
                answer = None
                self._write(live, step)
        except StopIteration:
            self._collect(_WAITING_TO_BE_WRITTEN - 1)  # may raise, and what is live is then discarded
            self._live.remove(live)
            self._writing.append(self._writer.submit(self._finish, live))
        except StoppedError:
            self._drop(live, _cancelled(live.ticket))
        except _FAILURES as error:
            self._drop(live, error)

    def _write(self, live: _Live, samples: FloatArray) -> None:
        with live.conversion.clock.measure("encode"):
            live.ticket.sink.write(samples)
        live.done_samples += len(samples)
        done_s = live.done_samples / live.conversion.output_rate
        self._events.append(Advanced(ticket=live.ticket, audio_done_s=done_s))

    def _drop(self, live: _Live, error: Exception) -> None:
        self._live.remove(live)
        live.steps.close()
        live.ticket.sink.discard()
        self._events.append(self._failed(live.ticket, error, live.begun_s))

    def _finish(self, live: _Live) -> Done | Failed:
        """Complete an output, in a background thread."""
        ticket = live.ticket
        try:
            with live.conversion.clock.measure("encode"):
                ticket.sink.finish(lambda: self._closing or ticket.cancelled)
        except StoppedError:
            if self._closing:
                raise
            return self._failed(ticket, _cancelled(ticket), live.begun_s)
        except _FAILURES as error:
            return self._failed(ticket, error, live.begun_s)
        result = _result(live)
        self._end(ticket, result)
        return Done(ticket=ticket, result=result)

    def _failed(self, ticket: Ticket, error: Exception, begun_s: float) -> Failed:
        result = FileResult(
            input=ticket.recording.name,
            output=None,
            state=State.FAILED,
            error=details_of(error),
            wall_s=time.perf_counter() - begun_s,
        )
        self._end(ticket, result)
        return Failed(ticket=ticket, result=result, error=error)

    def _end(self, ticket: Ticket, result: FileResult) -> None:
        with self._ending:
            self._on_end(ticket, result)

    def _collect(self, most: int) -> None:
        """Take in what was written; wait until at most `most` are waiting."""
        futures = self._writing
        while futures and (len(futures) > most or futures[0].done()):
            self._events.append(futures.pop(0).result())


def _stage(request: NetworkRequest) -> int:
    return next(n for n, kind in enumerate(_STAGES) if isinstance(request, kind))


def _cancelled(ticket: Ticket) -> CancelledError:
    return CancelledError(ticket.recording.name, "the conversion was cancelled")


def _result(live: _Live) -> FileResult:
    conversion, facts = live.conversion, live.conversion.facts
    damage = None
    if facts.warning is not None:
        damage = ErrorDetails(kind="damaged", subject=conversion.recording.name, problem=facts.warning)
    return FileResult(
        input=conversion.recording.name,
        output=live.ticket.sink.path,
        state=State.WARNING if damage else State.DONE,
        error=damage,
        notes=conversion.notes(),
        audio_s=facts.audio_s,
        output_samples=live.done_samples,
        output_rate=conversion.output_rate,
        f0_method=conversion.request.f0_method,
        transpose=conversion.semitones,
        wall_s=time.perf_counter() - live.begun_s,
        stages=conversion.clock.times(),
        seams_s=conversion.seams_s,
    )
