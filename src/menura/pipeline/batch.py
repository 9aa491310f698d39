"""Many recordings through the engine, with progress over all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from menura.pipeline.engine import Advanced, Begun, Done, Engine, Event, Failed
from menura.pipeline.progress import RunMeter

if TYPE_CHECKING:
    import threading

    from menura.loading.request import Request
    from menura.pipeline.output import Sink
    from menura.pipeline.recording import Recording
    from menura.types import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A recording of a batch, and where its sound goes."""

    recording: Recording
    sink: Sink


def run_batch(
    engine: Engine,
    items: Sequence[Item],
    request: Request,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> list[Done | Failed]:
    """Convert all items; what goes wrong with one is in its event, and stops no other.

    Args:
        engine: with nothing else to do.
        items: the recordings.
        request: what is asked for, the same for all.
        on_progress: called in this thread when a recording is begun and after every block.
        cancel: ends the conversions once it is set.

    Returns:
        How each ended, in order.

    Raises:
        BaseException: what interrupts this thread (Ctrl-C), or what a hook raised; `close` the engine then.
    """
    numbers = {
        engine.submit(item.recording, request, item.sink, cancel=cancel).number: number
        for number, item in enumerate(items)
    }
    meter = RunMeter([_size(item.recording.name) for item in items])
    ends: dict[int, Done | Failed] = {}
    while not engine.idle:
        for event in engine.step():
            number = numbers[event.ticket.number]
            if isinstance(event, (Done, Failed)):
                ends[number] = event
            if _count(meter, number, event) and on_progress is not None:
                on_progress(meter.progress(event.ticket.recording.name))
    return [ends[number] for number in range(len(items))]


def _count(meter: RunMeter, number: int, event: Event) -> bool:
    """Take note of an event; True if progress is worth telling."""
    if isinstance(event, Begun):
        meter.begun(number, event.audio_s)
    elif isinstance(event, Advanced):
        meter.advanced(number, event.audio_done_s)
    elif isinstance(event, Done):
        meter.finished()
    else:
        meter.failed(number)
    return isinstance(event, (Begun, Advanced))


def _size(name: str) -> int:
    with suppress(OSError, ValueError):
        return Path(name).stat().st_size
    return 0
