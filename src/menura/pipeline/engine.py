"""Runs streams: collects what they ask of the networks, answers it in batches, passes their sound on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from menura.errors import MenuraError, ResourceError
from menura.pipeline.execute import Answer, Executor
from menura.pipeline.requests import ContentRequest, F0Request, Request, SynthesisRequest
from menura.system.interrupts import check_interrupts
from menura.types import AudioBlock

if TYPE_CHECKING:
    import torch

    from menura.pipeline.stream import Stream, StreamSteps


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEnd:
    """A stream is over; `error` says why when not all of it came."""

    stream_id: int
    error: Exception | None = None


Event = AudioBlock | StreamEnd

_STAGES = (ContentRequest, F0Request, SynthesisRequest)


class _Active:
    """A stream under way and what it waits for."""

    def __init__(self, stream: Stream) -> None:
        self.stream_id = stream.stream_id
        self.pending: Request | None = None
        self._stream = stream
        self._steps: StreamSteps = stream.steps()

    def advance(self, answer: Answer | None) -> Iterator[Event]:
        """Run until the next request (then `pending` is set) or the end; an answer that is an error is raised there."""
        self.pending = None
        if self._stream.abandoned:
            self.close()
            yield StreamEnd(stream_id=self.stream_id)
            return
        try:
            while True:
                step = self._steps.throw(answer) if isinstance(answer, ResourceError) else self._steps.send(answer)
                if not isinstance(step, AudioBlock):
                    self.pending = step
                    return
                answer = None
                yield step
        except StopIteration:
            yield StreamEnd(stream_id=self.stream_id)
        except (MenuraError, OSError, MemoryError) as error:
            yield StreamEnd(stream_id=self.stream_id, error=error)

    def close(self) -> None:
        """Free what the stream holds open."""
        self._steps.close()


def run(streams: Iterable[Stream | None], device: torch.device, width: int = 1) -> Iterator[Event]:
    """Convert streams, at most `width` at a time; their requests of equal shape share forward passes.

    Streams that ask for an earlier stage's network go first: the others wait for them, so that recordings begun at
    different times come to ask for the same thing.

    Args:
        streams: taken one by one as places become free, so they may be prepared lazily. While others are under way it
            may give None: nothing to add now, ask again later.
        device: where the networks are.
        width: how many streams are under way together.

    Yields:
        Blocks of all streams, each stream's in order, and one StreamEnd for each.
    """
    waiting = iter(streams)
    active: list[_Active] = []
    executor = Executor(device)
    try:
        while True:
            check_interrupts()
            active = [a for a in active if a.pending is not None]
            while len(active) < width and (stream := next(waiting, None)) is not None:
                begun = _Active(stream)
                active.append(begun)
                yield from begun.advance(None)
            pending = [a for a in active if a.pending is not None]
            if not pending:
                if not active:
                    return
                continue
            turn = min(_stage(a.pending) for a in pending)
            pending = [a for a in pending if _stage(a.pending) == turn]
            answers = executor.execute([a.pending for a in pending if a.pending is not None])
            for member, answer in zip(pending, answers, strict=True):
                yield from member.advance(answer)
    finally:
        for member in active:
            member.close()


def _stage(request: Request | None) -> int:
    return next(n for n, kind in enumerate(_STAGES) if isinstance(request, kind))
