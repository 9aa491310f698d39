"""What the service deletes, and when: what is old, and the oldest of what takes too much room."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

_GRACE_S = 3600.0
"""Nothing younger goes for want of room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A job that has ended, or a recording that no job uses."""

    kind: Literal["job", "recording"]
    id: str
    since: float
    """When it ended, or was used."""
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """Something that is to be deleted."""

    what: Kept
    at: float
    why: Literal["age", "size"]


def leaving(kept: Iterable[Kept], used_bytes: int, *, keep_s: float, most_bytes: float, now: float) -> list[Leaving]:
    """When each of these goes, the next first; `used_bytes` is the size of all, also of what is in use."""
    excess, plan = used_bytes - most_bytes, []
    for what in sorted(kept, key=lambda what: what.since):
        by_age, by_size = what.since + keep_s, max(now, what.since + _GRACE_S)
        crowded = excess > 0 and by_size < by_age
        plan.append(Leaving(what=what, at=by_size if crowded else by_age, why="size" if crowded else "age"))
        if crowded or by_age <= now:
            excess -= what.size_bytes
    return sorted(plan, key=lambda one: one.at)
