"""Many recordings through the engine: read ahead, converted, written, each beside the other.

Three kinds of threads: some read recordings for the first time and plan them, one computes (the caller's own), one
encodes and writes. A recording's second pass is read ahead by a thread of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from menura.errors import ErrorDetails, MenuraError, details_of
from menura.pipeline.background import Lookahead
from menura.pipeline.conversion import Conversion, convert_all
from menura.pipeline.engine import StreamEnd
from menura.pipeline.output import SpooledOutput
from menura.pipeline.progress import RunMeter
from menura.types import AudioBlock, FileResult, Progress, State

if TYPE_CHECKING:
    import torch

    from menura.pipeline.engine import Event

_LOOKAHEAD_FILES = 16
_MOST_TOGETHER = 64
_WAITING_TO_BE_WRITTEN = 4
_SPOOL_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchItem:
    """One recording of a batch."""

    number: int
    """Its place in the batch; names its stream."""
    source: Path
    output: Path
    format: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of an item; `error` is what ended it where it failed."""

    number: int
    result: FileResult
    error: Exception | None = None


def _no_progress(_: Progress) -> None: ...


def _no_result(_number: int, _result: FileResult) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRequest:
    """What is done with every item, and who is told."""

    prepare: Callable[[BatchItem, threading.Event], Conversion]
    """Survey an item and plan its conversion, in a background thread; stop when the event is set."""
    f0_method: str | None
    """For the results."""
    on_progress: Callable[[Progress], None] = _no_progress
    """Called in the computing thread."""
    on_result: Callable[[int, FileResult], None] = _no_result
    """Called with each item's number and result as soon as its file is there, from any thread, one at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    item: BatchItem
    conversion: Conversion | None
    error: Exception | None
    seconds: float

    @property
    def shape(self) -> int:
        """Frames of its widest window: recordings of equal ones share forward passes."""
        return self.conversion.widest_frames if self.conversion else 0


@dataclass(slots=True, kw_only=True)
class _UnderWay:
    item: BatchItem
    conversion: Conversion
    output: SpooledOutput
    shape: int
    begun_s: float = field(default_factory=time.perf_counter)


def run_batch(
    items: Sequence[BatchItem], request: BatchRequest, *, device: torch.device, frame_budget: int
) -> list[Outcome]:
    """Convert all items; what goes wrong with one is in its outcome.

    Args:
        items: numbered 0, 1, ...
        request: how to prepare one, and whom to tell.
        device: where the networks are.
        frame_budget: recordings of equal shape are converted together while their windows have at most so many frames.

    Returns:
        One outcome for each item, in order.

    Raises:
        BaseException: what interrupts the computing thread (Ctrl-C), or what a hook raised; no half-written file is
            left, finished ones stay.
    """
    stop = threading.Event()
    with ExitStack() as stack:
        run = _Run(items, request, stop, frame_budget)
        stack.callback(run.discard_all)
        writer = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="menura-write"))
        ahead = stack.enter_context(Lookahead(items, run.prepare, depth=_LOOKAHEAD_FILES))
        stack.callback(stop.set)  # unwinding begins here, so that the threads leave off before they are waited for
        events = convert_all(run.conversions(ahead), device, _MOST_TOGETHER)
        with closing(events):
            for event in events:
                run.take(event, writer)
        run.wait()
    return [run.outcomes[item.number] for item in items]


class _Run:
    """The state of one batch; only `prepare` and `_write` run in other threads than the computing one."""

    def __init__(
        self, items: Sequence[BatchItem], request: BatchRequest, stop: threading.Event, frame_budget: int
    ) -> None:
        self.outcomes: dict[int, Outcome] = {}
        self._request, self._stop, self._frame_budget = request, stop, frame_budget
        self._under_way: dict[int, _UnderWay] = {}
        self._writing: list[Future[Outcome]] = []
        self._meter = RunMeter([_size(item.source) for item in items])
        self._telling = threading.Lock()

    def prepare(self, item: BatchItem) -> _Prepared:
        """Survey an item; an error is part of what is made."""
        start = time.perf_counter()
        conversion: Conversion | None = None
        problem: Exception | None = None
        try:
            conversion = self._request.prepare(item, self._stop)
        except (MenuraError, OSError, MemoryError) as error:
            problem = error
        return _Prepared(item=item, conversion=conversion, error=problem, seconds=time.perf_counter() - start)

    def conversions(self, ahead: Lookahead[BatchItem, _Prepared]) -> Iterator[Conversion | None]:
        """The next to convert, None where nothing fits at the moment."""
        while True:
            prepared = ahead.take(self._choose, wait=not self._under_way)
            if prepared is not None:
                conversion = self._begun(prepared)
                if conversion is not None:
                    yield conversion
            elif ahead.exhausted:
                return
            else:
                yield None

    def take(self, event: Event, writer: ThreadPoolExecutor) -> None:
        """Keep a block; have a finished recording written."""
        member = self._under_way.get(event.stream_id)
        if member is None:
            return  # it failed
        if isinstance(event, StreamEnd):
            del self._under_way[event.stream_id]
            if event.error is None:
                self._submit(member, writer)
            else:
                member.output.discard()
                self._fail(member.item, event.error, member)
            return
        try:
            member.output.append(event.samples)
        except (MenuraError, OSError, MemoryError) as error:
            del self._under_way[event.stream_id]
            member.conversion.stream.abandon()
            member.output.discard()
            self._fail(member.item, error, member)
            return
        self._advanced(member, event)

    def wait(self) -> None:
        """Wait for what is being written."""
        self._collect(0)

    def discard_all(self) -> None:
        """Forget the sound of what is under way."""
        for member in self._under_way.values():
            member.output.discard()

    def _choose(self, ready: Sequence[_Prepared]) -> int | None:
        """One that failed, else the first when nothing is under way, else one that can share its passes."""
        failed = next((n for n, prepared in enumerate(ready) if prepared.conversion is None), None)
        if failed is not None:
            return failed
        if not self._under_way:
            return 0
        shapes = {member.shape for member in self._under_way.values()}
        room = self._frame_budget - sum(member.shape for member in self._under_way.values())
        return next((n for n, p in enumerate(ready) if p.shape in shapes and p.shape <= room), None)

    def _begun(self, prepared: _Prepared) -> Conversion | None:
        item, conversion = prepared.item, prepared.conversion
        if conversion is None:
            assert prepared.error is not None
            self._fail(item, prepared.error)
            return None
        try:
            output = SpooledOutput(
                item.output,
                rate=conversion.output_rate,
                format=item.format,
                clock=conversion.clock,
                memory_bytes=_SPOOL_BYTES,
            )
        except (MenuraError, OSError) as error:
            self._fail(item, error)
            return None
        member = _UnderWay(item=item, conversion=conversion, output=output, shape=prepared.shape)
        member.begun_s -= prepared.seconds
        self._under_way[item.number] = member
        self._meter.begun(item.number, conversion.facts.audio_s)
        self._request.on_progress(self._meter.progress(str(item.source)))
        return conversion

    def _advanced(self, member: _UnderWay, block: AudioBlock) -> None:
        self._meter.advanced(member.item.number, member.output.length_samples / block.sample_rate)
        self._collect(len(self._writing))
        self._request.on_progress(self._meter.progress(str(member.item.source)))

    def _submit(self, member: _UnderWay, writer: ThreadPoolExecutor) -> None:
        self._collect(_WAITING_TO_BE_WRITTEN - 1)
        self._writing.append(writer.submit(self._write, member))

    def _collect(self, most: int) -> None:
        """Take in what was written; wait until at most `most` are waiting."""
        while self._writing and (len(self._writing) > most or self._writing[0].done()):
            outcome = self._writing.pop(0).result()
            self.outcomes[outcome.number] = outcome
            self._meter.finished()

    def _write(self, member: _UnderWay) -> Outcome:
        item = member.item
        try:
            member.output.publish(self._stop)
        except (MenuraError, OSError, MemoryError) as error:
            return self._told(Outcome(number=item.number, result=_failed(item, error, member), error=error))
        return self._told(Outcome(number=item.number, result=_done(member, self._request.f0_method)))

    def _fail(self, item: BatchItem, error: Exception, member: _UnderWay | None = None) -> None:
        outcome = Outcome(number=item.number, result=_failed(item, error, member), error=error)
        self.outcomes[item.number] = self._told(outcome)
        self._meter.failed(item.number)

    def _told(self, outcome: Outcome) -> Outcome:
        with self._telling:
            self._request.on_result(outcome.number, outcome.result)
        return outcome


def _done(member: _UnderWay, f0_method: str | None) -> FileResult:
    conversion = member.conversion
    facts = conversion.facts
    return FileResult(
        input=str(member.item.source),
        output=member.item.output,
        state=State.WARNING if facts.warning else State.DONE,
        error=None if facts.warning is None else _damage(member.item.source, facts.warning),
        notes=conversion.final_notes(),
        audio_s=facts.audio_s,
        output_samples=member.output.length_samples,
        output_rate=conversion.output_rate,
        f0_method=f0_method,
        transpose=conversion.stream.semitones,
        wall_s=time.perf_counter() - member.begun_s,
        stages=conversion.clock.times(),
        seams_s=tuple(conversion.stream.seams_s),
    )


def _failed(item: BatchItem, error: Exception, member: _UnderWay | None) -> FileResult:
    wall_s = 0.0 if member is None else time.perf_counter() - member.begun_s
    return FileResult(input=str(item.source), output=None, state=State.FAILED, error=details_of(error), wall_s=wall_s)


def _damage(source: Path, warning: str) -> ErrorDetails:
    return ErrorDetails(kind="damaged", subject=str(source), problem=warning)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
