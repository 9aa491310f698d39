"""What to do where a device's memory runs out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from menura.errors import ResourceError
from menura.pipeline.budget import is_out_of_memory


@contextmanager
def enough_memory(advice: str) -> Iterator[None]:
    """Say what to do where the block runs out of memory.

    Args:
        advice: what would take less.

    Raises:
        ResourceError: it did.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError(f"memory ran out: {advice}, and repeat the command: what is complete is kept.") from error
